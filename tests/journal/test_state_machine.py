"""A journal and a model cell, with a crash between any two steps of theirs.

The cell does a request once by its number, whenever and however often it comes, and forgets
nothing; what it says may come late, twice or never. The journal's writes happen when the machine
says so, so a crash may come before any of them.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any
from unittest import mock

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from client_replay import JournalFull
from client_replay.journal.disk import DiskKeeper
from client_replay.journal.file import Identity, Owner
from client_replay.journal.journal import Journal

BYTES_MAX = 1000
numbers = st.integers(0, 50)


class SteppedKeeper(DiskKeeper):
    """Writes when it is told to."""

    def _start(self) -> threading.Thread:
        return threading.Thread()

    def step(self, calls: int) -> None:
        batch, self._queue = self._queue[:calls], self._queue[calls:]
        if batch:
            self._write(batch)

    def crash(self) -> None:
        """What was not written is lost."""
        self._file.close()


class JournalAndCell(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.directory = Path(tempfile.mkdtemp())
        self.path = self.directory / "x.journal"
        self.keeper: Any = SteppedKeeper.create(self.path, Identity("s", "c"), BYTES_MAX)
        self.journal = Journal(self.keeper, bytes_max=BYTES_MAX)
        self.done: dict[int, str] = {}  # what the cell has done, by number
        self.wire: list[Any] = []  # sent, and not arrived
        self.acks: list[int] = []
        self.owed: set[str] = set()  # submitted and kept: whoever submitted it relies on it
        self.fresh: dict[str, int] = {}  # submitted, and perhaps not kept
        self.wanted: set[str] = set()
        self.count = 0

    def _note_kept(self) -> None:
        for key in [k for k, sequence in self.fresh.items() if self.journal.is_kept(sequence)]:
            del self.fresh[key]
            self.owed.add(key)

    @rule(size=st.integers(1, 400))
    def submit(self, size: int) -> None:
        key = f"k{self.count}"
        self.count += 1
        try:
            sequence = self.journal.append({"op": "update-graph", "keys": {key}}, size)
        except JournalFull:
            return
        self.fresh[key] = sequence
        self.wanted.add(key)

    @rule(calls=st.integers(1, 4))
    def write(self, calls: int) -> None:
        self.keeper.step(calls)
        self._note_kept()

    @rule()
    def send(self) -> None:
        """A new stream: everything that is kept, in order."""
        self.wire = list(self.journal.up_to(self.journal.last_kept))

    @precondition(lambda self: self.wire)
    @rule(twice=st.booleans(), lost=st.booleans())
    def arrive(self, twice: bool, lost: bool) -> None:
        entry = self.wire.pop(0)
        (key,) = entry.message["keys"]
        for _ in range(2 if twice else 1):
            assert self.done.setdefault(entry.sequence, key) == key, "one number, two requests"
            if not lost:
                self.acks.append(entry.sequence)

    @precondition(lambda self: self.acks)
    @rule(at=numbers)
    def acknowledge(self, at: int) -> None:
        """In any order; others follow never."""
        self.journal.committed([self.acks.pop(at % len(self.acks))])

    @precondition(lambda self: self.wanted)
    @rule(at=numbers)
    def release(self, at: int) -> None:
        key = sorted(self.wanted)[at % len(self.wanted)]
        self.wanted.discard(key)
        self.journal.done_with([key])

    @rule()
    def crash(self) -> None:
        self.keeper.crash()
        for key in self.fresh:  # nobody was told of those, and the cell has not seen them
            assert key not in self.done.values()
            self.wanted.discard(key)
        self.fresh, self.wire, self.acks = {}, [], []
        with mock.patch.object(Owner, "is_alive", return_value=False):
            self.keeper = SteppedKeeper.resume(self.path, BYTES_MAX)
        self.journal = Journal(self.keeper, bytes_max=BYTES_MAX)
        found = set(self.journal.wanted())
        assert self.wanted <= found, "what somebody wants is known"
        self.journal.done_with(found - self.wanted)  # a release that was not written

    @invariant()
    def memory_is_bounded(self) -> None:
        if hasattr(self, "journal"):
            assert self.journal.nbytes <= BYTES_MAX
            assert self.journal.nbytes == sum(e.nbytes for e in self.journal.pending())

    def teardown(self) -> None:
        if not hasattr(self, "journal"):
            return
        self.write(10_000)
        self.crash()
        for entry in self.journal.up_to(self.journal.last_kept):
            (key,) = entry.message["keys"]
            assert self.done.setdefault(entry.sequence, key) == key
        outcomes = list(self.done.values())
        assert len(outcomes) == len(set(outcomes)), "a request was done under two numbers"
        assert self.owed <= set(outcomes), "a request that was kept has no outcome"
        self.journal.committed(list(self.done))
        self.journal.done_with(self.wanted)
        self.keeper.step(10_000)
        assert (len(self.journal), self.journal.nbytes, self.journal.wanted()) == (0, 0, [])
        found = self.keeper._file.read()
        assert (found.open, found.keys) == ({}, {}), "what is done with is gone from the disk"
        self.keeper.crash()
        shutil.rmtree(self.directory)


TestJournalAndCell = JournalAndCell.TestCase
TestJournalAndCell.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
