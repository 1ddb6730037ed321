"""Which keys a client still wants, and of which of its requests they are. Pure.

Guarantee: a key belongs to the last graph that was submitted with it, so that its release says
which entry is done with; a graph without keys is told as such once.
"""

from __future__ import annotations

from collections.abc import Iterable

from client_replay.journal.keeper import HELD, Drop, Key


class WantedKeys:
    def __init__(self) -> None:
        self._of: dict[Key, int] = {}
        self._left: dict[int, int] = {HELD: 0}  # keys of each graph

    def __len__(self) -> int:
        return len(self._of)

    def __contains__(self, key: object) -> bool:
        return key in self._of

    def keys(self) -> list[Key]:
        return list(self._of)

    def is_wanted(self, sequence: int) -> bool:
        """Whether any key of the graph is."""
        return bool(self._left.get(sequence))

    def add(self, sequence: int, keys: Iterable[Key]) -> list[Drop]:
        """A graph, or ``HELD``, has these keys. Returns which others have lost them."""
        new = list(keys)
        moved = [key for key in new if key in self._of] if self._of else []
        drops = self.drop(moved)
        self._of.update(dict.fromkeys(new, sequence))
        self._left[sequence] = self._left.get(sequence, 0) + len(new)
        return drops

    def drop(self, keys: Iterable[Key]) -> list[Drop]:
        """These are not wanted any more. Unknown ones are ignored."""
        dropped: dict[int, list[Key]] = {}
        for key in keys:
            sequence = self._of.pop(key, None)
            if sequence is not None:
                dropped.setdefault(sequence, []).append(key)
        for sequence, theirs in dropped.items():
            self._left[sequence] -= len(theirs)
        return [Drop(sequence, tuple(theirs)) for sequence, theirs in dropped.items()]

    def forget(self, sequence: int) -> None:
        """The graph is done with."""
        if sequence != HELD and not self._left.get(sequence):
            self._left.pop(sequence, None)

    def clear(self) -> None:
        self._of.clear()
        self._left = {HELD: 0}
