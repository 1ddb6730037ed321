"""A journal in the memory of the client's process: it ends with that."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from client_replay.journal.keeper import Change, JournalEntry, Kept


def _ignore(*_: object) -> None:
    pass


class MemoryKeeper:
    """The entries themselves are in the ``Journal``; there is nowhere else to write to."""

    lasts = False
    path = None

    def __init__(self) -> None:
        self.on_kept: Callable[[], None] = _ignore
        self.on_failed: Callable[[list[JournalEntry], Exception], None] = _ignore

    def load(self) -> Kept:
        return Kept()

    def write(self, changes: Iterable[Change]) -> int:
        return 0

    def is_kept(self, number: int) -> bool:
        return True

    def wait(self, number: int, timeout_s: float | None = None) -> bool:
        return True

    def require_owner(self) -> None:
        pass

    def close(self, *, remove: bool = False) -> None:
        pass

    def abandon(self) -> None:
        pass
