"""What the core wants done, and the order it must be done in.

The guarantee the driver must give, for each `Ready` in the order of its number:

1. ``messages`` may leave at once, even before anything is durable (thesis 10.2.1: a leader
   writes its own disk in parallel with its followers').
2. ``snapshot``, then ``hard_state`` and ``entries`` become durable in *one* transaction; entries
   replace any suffix from the first one's index on. Several may be in flight, none may overtake.
3. Only when it is durable: `RawNode.persisted(number)`, and ``messages_after_persist`` leave.
   A crash in between must not have let a vote or an acknowledgement out that the disk forgot.
   A Ready that asks to persist nothing still waits for those before it.
4. ``committed`` is applied in order, then `RawNode.applied_to(index)`.
"""

from __future__ import annotations

from dataclasses import dataclass

from .messages import Entry, HardState, Message, PeerId, ServerState, SnapshotMeta


@dataclass(frozen=True, slots=True)
class SoftState:
    """Who leads, as far as this peer knows. Never persisted."""

    role: ServerState
    leader: PeerId
    term: int


@dataclass(frozen=True, slots=True)
class ReadState:
    """A read asked for with ``context`` is linearizable once ``index`` is applied here."""

    index: int
    context: bytes


@dataclass(frozen=True, slots=True)
class Ready:
    """One batch of work for the driver. See the module for the order."""

    number: int
    hard_state: HardState | None
    entries: tuple[Entry, ...]
    snapshot: SnapshotMeta | None
    messages: tuple[Message, ...]
    messages_after_persist: tuple[Message, ...]
    committed: tuple[Entry, ...]
    soft_state: SoftState | None
    read_states: tuple[ReadState, ...]
    #: False: ``hard_state`` carries at most a newer commit index, which may be lost in a crash.
    must_sync: bool

    @property
    def has_write(self) -> bool:
        """Whether there is anything to persist at all."""
        return bool(self.entries) or self.hard_state is not None or self.snapshot is not None
