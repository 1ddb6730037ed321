"""The key ring of a daemon: what its ledger says of whose tokens hold, told to all that verify.

Guarantee: the ring is that of the applied log, and whoever is told of it is told of each change in
the step in which that has been applied here. A peer that comes back, or takes in a snapshot, begins
with what its ledger holds.

In plaintext, which is for loopback, there is no ring, and nobody is asked for a token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ha_scheduler.ledger import encoding, tokens
from ha_scheduler.peer.members.roster import Roster
from ha_scheduler.protocol.ring import Ring
from ha_scheduler.raft.messages import Entry, EntryKind
from ha_scheduler.security.key_ring import KeyRing
from ha_scheduler.storage.port import PeerStore


class RingKeeper:
    """The newest ring."""

    def __init__(
        self,
        store: PeerStore,
        roster: Roster,
        on_change: Callable[[Ring], None],
        *,
        tls: bool,
        certificate_alone: bool,
    ) -> None:
        self.ring: KeyRing | None = None
        self._store = store
        self._roster = roster
        self._on_change = on_change
        self._tls = tls
        self._certificate_alone = certificate_alone
        self._stale = False

    def on_committed(self, entries: Iterable[Entry]) -> None:
        """These will be applied."""
        normal = (entry.data for entry in entries if entry.kind is EntryKind.NORMAL)
        self._stale |= any(map(_concerns, normal))

    def on_applied(self, index: int) -> None:
        """The ledger has everything up to ``index``."""
        if self._stale:
            self.load(index)

    def load(self, index: int) -> None:
        """Read the ring from the ledger, as of ``index``, and tell of it."""
        self._stale = False
        if not self._tls:
            return
        with self._store.view() as view:
            keys = tuple(record.key for record in tokens.keys(view.tables))
            revoked = tuple(record.token for record in tokens.revocations(view.tables))
        self.ring = KeyRing(
            Ring(
                self._roster.cell_id,
                self._roster.predecessor,
                index,
                keys,
                revoked,
                self._certificate_alone,
            )
        )
        self._on_change(self.ring.ring)


def _concerns(data: bytes) -> bool:
    return encoding.is_of_tokens(data) or encoding.cell_founded(data) is not None
