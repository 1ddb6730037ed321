"""The ends of engines: into the log, and into the history of the failover that followed.

Guarantee: an end that counts (``inquest.py``) is told until it has committed: by this peer if it
leads, else by its gossip, and proposed once in a term by each leader that hears of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ha_scheduler.ledger import encoding
from ha_scheduler.ledger.records import EngineEnded, Record
from ha_scheduler.peer.engine.inquest import Untold, blamed
from ha_scheduler.peer.operators.history import LeaderHistory
from ha_scheduler.raft.errors import CallerError


class Ends:
    def __init__(self, history: LeaderHistory, propose: Callable[[Record], int]) -> None:
        """``propose`` raises ``CallerError`` while this peer takes nothing."""
        self._history = history
        self._propose_one = propose
        self._untold = Untold()
        self._last: EngineEnded | None = None  # of a leader, with something open

    def own(self, record: EngineEnded) -> None:
        """The engine of this peer has ended."""
        self._untold.add(record)

    def committed(self, data: Iterable[bytes]) -> None:
        for record in _ends(data):
            self._untold.committed(record)
            if record.led:
                self._last = record
                self.note_cause()

    def note_cause(self) -> None:
        """In the history of the failover that followed, which may be about to begin."""
        if self._last is not None:
            self._history.caused_by(blamed(self._last), self._last.term)

    def told(self) -> tuple[bytes, ...]:
        """For the gossip of this peer."""
        return tuple(map(encoding.encode, self._untold.to_tell()))

    def propose(self, term: int, told: Iterable[bytes] | None = None) -> None:
        """As the leader of ``term``: what this peer's engines (None) or others' ended of."""
        known = self._untold.to_tell() if told is None else _ends(told)
        for record in self._untold.due(known, term):
            try:
                self._propose_one(record)
            except CallerError:
                return  # a transfer is under way; whoever leads next hears of it by gossip
            self._untold.proposed(record, term)


def _ends(told: Iterable[bytes]) -> list[EngineEnded]:
    decoded = map(encoding.engine_ended, told)
    return [record for record in decoded if record is not None]
