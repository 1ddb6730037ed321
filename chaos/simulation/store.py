"""The peer's store over a simulated disk: the product's transactions, and a writer that is events.

Guarantee: that of ``storage.writer``, whose place it takes: batches are committed in order, a
snapshot begins a group of its own, nothing is committed after an error, and completions come in
order. How many batches share a commit, how long it takes, and whether the notice of it arrives is
drawn. A crash decides what becomes of the group in flight.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from math import inf
from typing import Any

import lmdb

from chaos.simulation.clock import Timeline
from chaos.simulation.disk import SimDisk
from chaos.simulation.environment import PowerCutError
from ha_scheduler.raft.messages import SnapshotMeta
from ha_scheduler.storage import log_table, staging, transactional
from ha_scheduler.storage.environment import write_failure
from ha_scheduler.storage.errors import CorruptData
from ha_scheduler.storage.port import Space, WriteBatch
from ha_scheduler.storage.scrub import verify
from ha_scheduler.storage.transactional import TransactionalStore
from ha_scheduler.storage.writer import NO_BATCH

ROOM_BYTES = 1 << 30
STAGE_BYTES = 300  # a snapshot of a small ledger takes a few transactions

OnDurable = Callable[[int, Exception | None], None]


class SimStore(TransactionalStore):
    """``PeerStore`` of one process."""

    def __init__(
        self,
        disk: SimDisk,
        timeline: Timeline,
        rng: random.Random,
        *,
        recent_bytes: int,
        sync_s: float,
        on_durable: OnDurable,
        maybe: Callable[[str], None],
    ) -> None:
        """Open what is on the disk. Raises ``LogReadError``."""
        dbs = disk.open()
        super().__init__(dbs, recent_bytes)
        self.alive = True
        self.withheld = False
        self._disk = disk
        self._timeline = timeline
        self._rng = rng
        self._sync_s = sync_s
        self._on_durable = on_durable
        self._maybe = maybe
        self._queue: deque[WriteBatch] = deque()
        self._flying: list[WriteBatch] = []
        self._failure: Exception | None = None
        self.forget_staged()
        self._scrub = verify(dbs, min(self.verified_from, self.last_index()), inf)
        timeline.after(rng.expovariate(1.0), self._verify_more)

    def snapshot(self) -> SnapshotMeta | None:  # type: ignore[override]
        """None for a while: as a witness that keeps no ledger would answer."""
        return None if self.withheld else super().snapshot()

    def submit(self, batch: WriteBatch) -> None:
        if not self.alive:
            return  # the process died in the midst of a step
        self.admit(batch)
        self._queue.append(batch)
        self._begin()

    def space(self) -> Space:
        """There is always room here."""
        return Space(0, ROOM_BYTES)

    def close(self) -> None:
        """As a process that ends: what is queued is not committed."""
        self.die()

    def die(self) -> None:
        """The process is gone. A group in flight may have just made it."""
        self.alive = False
        if self._flying and self._failure is None:
            env = self._disk.env
            env.commits_left = self._rng.choice((0, 1, 1, 2, 99))  # a snapshot takes several
            try:
                self._commit(self._flying)
            except PowerCutError:
                pass
            env.commits_left = None

    def on_damage(self, error: CorruptData) -> None:
        self._disk.directory.mark_damaged(error.where)
        if self._failure is None:
            self._failure = error
            self._on_durable(NO_BATCH, error)

    def _verify_more(self) -> None:
        """The product reads all rows once after a start; here a table at a time."""
        if not self.alive:
            return
        try:
            if next(self._scrub, None) is not None:
                self._timeline.after(self._rng.expovariate(1.0), self._verify_more)
        except CorruptData as error:
            self.on_damage(error)

    def _begin(self) -> None:
        if self._flying or not self._queue:
            return
        self._flying = self._next_group()
        took = self._rng.expovariate(1.0) * self._sync_s * self._disk.slowness
        self._timeline.after(took, self._end)

    def _next_group(self) -> list[WriteBatch]:
        most = len(self._queue)
        if self._rng.random() < 0.3:
            most = self._rng.randint(1, most)
        group = [self._queue.popleft()]
        while len(group) < most and self._queue[0].snapshot is None:
            group.append(self._queue.popleft())
        return group

    def _end(self) -> None:
        """The disk is done with the group in flight, unless it is stuck."""
        if not self.alive:
            return
        if self._disk.stuck:
            self._timeline.after(0.05, self._end)
            return
        self._maybe("committing")
        if not self.alive:
            return
        group, error = self._flying, self._failure
        if error is None:
            error = self._failure = self._commit(group)
            self._flying = []  # who dies now has written it, once
            self._maybe("committed")
            if not self.alive:
                return
        self._flying = []
        for batch in group:
            self._on_durable(batch.number, error)
        self._begin()

    def _commit(self, group: Sequence[WriteBatch]) -> Exception | None:
        """The product's transaction; the shadow learns what the disk did."""
        failing = self._disk.env.failure
        try:
            self.commit(group)
        except (lmdb.Error, OSError) as error:
            # A snapshot's first transaction only puts rows beside the ledger.
            if failing is not None and failing[1] and group[0].snapshot is None:
                self._tell_shadow(group)
            directory: Any = self._disk.directory
            return write_failure(directory, error)
        except CorruptData as error:
            self._disk.directory.mark_damaged(error.where)
            return error
        except Exception as error:
            return error
        self._tell_shadow(group)
        return None

    def _tell_shadow(self, group: Sequence[WriteBatch]) -> None:
        for batch in group:
            self._disk.shadow.write(batch)


def shrink(tail_bytes: int, trim_rows: int) -> None:
    """Limits of the store that no small world would reach, for the worlds that follow."""
    transactional.TAIL_BYTES = tail_bytes
    staging.STAGE_BYTES = STAGE_BYTES
    log_table.TRIM_ROWS = trim_rows
