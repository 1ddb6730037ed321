"""The effects of the core, and their order.

The guarantee the driver must give, for each `Ready` in the order of its number:

1. ``messages`` may leave at once, even before anything is durable (thesis 10.2.1: a leader
   writes its own disk in parallel with its followers').
2. ``snapshot``, then ``hard_state`` and ``entries`` become durable in *one* transaction; entries
   replace any suffix from the first one's index on. Several may be in flight, none may overtake.
3. When it is durable: `RawNode.persisted(number)`, then ``messages_after_persist`` leave. So no
   crash forgets a vote or an acknowledgement that has left. A Ready without a write still waits
   for those before it.
4. ``committed`` is applied in order, then `RawNode.applied_to(index)`.
"""

from __future__ import annotations

from dataclasses import dataclass

from .messages import Entry, HardState, Message, PeerId, ServerState, SnapshotMeta


@dataclass(frozen=True, slots=True)
class SoftState:
    """Role, leader and term of this peer. Never persisted."""

    role: ServerState
    leader: PeerId
    term: int


@dataclass(frozen=True, slots=True)
class ReadState:
    """The read with ``context`` is linearizable once ``index`` is applied here."""

    index: int
    context: bytes


@dataclass(frozen=True, slots=True)
class Ready:
    """One batch of work for the driver; the module gives the order."""

    number: int
    hard_state: HardState | None
    entries: tuple[Entry, ...]
    snapshot: SnapshotMeta | None
    messages: tuple[Message, ...]
    messages_after_persist: tuple[Message, ...]
    committed: tuple[Entry, ...]
    soft_state: SoftState | None
    read_states: tuple[ReadState, ...]
    #: False: ``hard_state`` has at most a newer commit index, which a crash may lose.
    must_sync: bool

    @property
    def has_write(self) -> bool:
        """Whether there is anything to persist."""
        return bool(self.entries) or self.hard_state is not None or self.snapshot is not None
