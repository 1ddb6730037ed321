"""The port to where a journal is kept, and the changes that are written to it.

Guarantee: changes take effect in the order of ``write``, each call of it as a whole or not at all.
``on_kept`` is called after they have, from any thread; ``on_failed`` instead, with the entries that
are not kept, after which the keeper goes on with what comes next. An entry that is kept survives
what its keeper survives: nothing (``memory.py``), or this process and the machine (``disk.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

Key = Any
Message = dict[str, Any]

GRAPH = "update-graph"
NOT_SENT = 0
HELD = 0  # stands for the entry of keys that are wanted without a graph of this client


@dataclass(slots=True)
class JournalEntry:
    """One request. ``message``: as it is sent, its number included."""

    sequence: int
    message: Message
    nbytes: int
    sent_in: int = NOT_SENT  # the connection, counted from 1, on which it was sent last

    @property
    def is_graph(self) -> bool:
        return bool(self.message["op"] == GRAPH)


@dataclass(frozen=True, slots=True)
class Append:
    """A request that no cell has committed."""

    entry: JournalEntry


@dataclass(frozen=True, slots=True)
class Shrink:
    """A graph has committed: its keys are all that is needed of it."""

    sequence: int
    keys: tuple[Key, ...]


@dataclass(frozen=True, slots=True)
class Delete:
    """Nothing of a request is needed any more."""

    sequence: int


@dataclass(frozen=True, slots=True)
class Hold:
    """Keys are wanted that no graph of this client has."""

    keys: tuple[Key, ...]


@dataclass(frozen=True, slots=True)
class Drop:
    """Keys of a graph, or of ``HELD``, are not wanted any more."""

    sequence: int
    keys: tuple[Key, ...]


@dataclass(frozen=True, slots=True)
class Clear:
    """Everything is void, and no number is used again."""

    last: int


Change = Append | Shrink | Delete | Hold | Drop | Clear


@dataclass(slots=True)
class Kept:
    """What a keeper has of an earlier process.

    ``wanted``: the keys of each committed or open graph, and of ``HELD``, that are still wanted.
    """

    last: int = 0
    open: list[JournalEntry] = field(default_factory=list)
    wanted: dict[int, list[Key]] = field(default_factory=dict)


class Keeper(Protocol):
    """Thread-safe."""

    @property
    def path(self) -> Path | None:
        """Its file; None if there is none."""

    lasts: bool  # beyond this process: who wants which key is then kept as well
    on_kept: Callable[[], None]
    on_failed: Callable[[list[JournalEntry], Exception], None]

    def load(self) -> Kept:
        """What is there, before the first ``write``."""

    def write(self, changes: Iterable[Change]) -> int:
        """Queue changes and return their number. Raises ``JournalUnusable``."""

    def is_kept(self, number: int) -> bool:
        """Whether the changes of this number, and all before, are kept (or have failed)."""

    def wait(self, number: int, timeout_s: float | None = None) -> bool:
        """Wait for that. Returns ``is_kept``."""

    def require_owner(self) -> None:
        """Raise ``JournalFenced`` if another process has taken it over."""

    def close(self, *, remove: bool = False) -> None:
        """Keep what is queued and let go of it. ``remove``: if nothing is in it. Idempotent."""

    def abandon(self) -> None:
        """Write nothing more: this is a fork, or another process has it."""
