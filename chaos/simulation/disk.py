"""A disk: what survives its peer, what a power cut does to it, and how its rows are damaged.

A group of batches is *queued*, *in flight* (its commit has begun) or *durable*. LMDB's commit
ends with the switch of one page, so a crash leaves a group in flight whole or not at all; what
had been reported durable stays. ``Shadow`` is a second and simple account of the same writes, in
which nothing of the store's code takes part: what a restart reads must equal it.

Damage is a flipped bit or a cut value, in any row, or a row of the middle of the log that is
gone. LMDB notices none of it; the check sums above it must.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chaos.simulation.environment import SimEnvironment, revert
from ha_scheduler.raft.messages import Entry, HardState, Membership
from ha_scheduler.storage.environment import Databases, Identity, databases_of
from ha_scheduler.storage.errors import CorruptData
from ha_scheduler.storage.log_table import LogDbs, read_compacted
from ha_scheduler.storage.port import PeerStore, WriteBatch
from ha_scheduler.storage.schema import LOG_DB, PEER_DB, key_index

CELL = "simulated"


@dataclass(slots=True)
class Shadow:
    """What the disk is known to hold of log and hard state.

    ``floor``: where the last snapshot put the log; ``compacted``: entries up to here may go, and
    some of them are gone.
    """

    hard_state: HardState = field(default_factory=lambda: HardState(0, 0, 0))
    floor: int = 0
    compacted: int = 0
    entries: dict[int, Entry] = field(default_factory=dict)
    last: int = 0
    applied: int = 0

    def write(self, batch: WriteBatch) -> None:
        """``batch`` became durable."""
        if batch.snapshot is not None:
            self.entries.clear()
            self.floor = self.compacted = self.last = self.applied = batch.snapshot.meta.index
        if batch.hard_state is not None:
            self.hard_state = batch.hard_state
        if batch.entries:
            for index in range(batch.entries[0].index, self.last + 1):
                del self.entries[index]
            for entry in batch.entries:
                self.entries[entry.index] = entry
            self.last = batch.entries[-1].index
        if batch.apply:
            self.applied = batch.apply[-1].index
        self.compacted = max(self.compacted, batch.compact_to or 0)

    def holds(self, index: int, term: int) -> bool:
        """Whether the entry is durable here, or the effect of everything up to it is."""
        if index <= self.compacted:
            return True
        entry = self.entries.get(index)
        return entry is not None and entry.term == term

    def difference(self, store: PeerStore) -> str:
        """How the store that was opened differs from this; empty if it does not."""
        first, last = store.first_index(), store.last_index()
        found: dict[str, tuple[object, object]] = {
            "hard state": (store.initial_state()[0], self.hard_state),
            "last index": (last, self.last),
            "applied index": (store.applied(), self.applied),
        }
        for what, (read, written) in found.items():
            if read != written:
                return f"{what} is {read}, but {written} was written"
        if not self.floor < first <= self.compacted + 1:
            return f"the log begins at {first}, but {self.compacted} are compacted"
        index = first
        while index <= last:
            for entry in store.entries(index, last + 1, 1 << 20):
                if entry != self.entries[entry.index]:
                    return f"entry {entry.index} is {entry}, but another one was written"
                index = entry.index + 1
        return ""


class SimDirectory:
    """The part of ``DataDirectory`` that the environment needs."""

    def __init__(self, peer_id: int) -> None:
        self.path = Path(f"/simulated/{peer_id}")
        self._damage: str | None = None

    def free_bytes(self) -> int:
        return 1 << 40

    def release_reserve(self) -> None:
        """There is none."""

    def mark_damaged(self, where: str) -> None:
        self._damage = where

    def damage(self) -> str | None:
        return self._damage

    def sync(self) -> None:
        """Names are always durable here."""


class SimDisk:
    """One disk with one environment on it."""

    def __init__(self, peer_id: int, membership: Membership, *, lying: bool) -> None:
        self.directory = SimDirectory(peer_id)
        self.shadow = Shadow()
        self.stuck = False
        self.slowness = 1.0
        self._identity = Identity(CELL, f"p{peer_id}", peer_id)
        self._membership = membership
        self._env = SimEnvironment()
        self._damaged: dict[tuple[bytes, bytes], bytes | None] = {}
        self._lying = lying
        self.open(create=True)

    @property
    def env(self) -> SimEnvironment:
        return self._env

    def open(self, *, create: bool = False) -> Databases:
        """As a process that starts does. Raises ``LogReadError``."""
        directory: Any = self.directory
        if self._lying:
            self._env.history = []
        return databases_of(self._env, directory, self._identity, create, self._membership)

    def fail_next(self, error: Exception, *, written: bool) -> None:
        """The next commit raises; its data is there or not."""
        self._env.failure = (error, written)

    def forget_reported(self, rng: random.Random) -> int:
        """A disk that lied: transactions that it reported durable are gone. How many."""
        history = self._env.history or []
        gone = rng.randint(0, min(len(history), 5))
        for _ in range(gone):
            revert(history.pop())
        return gone

    # -- damage ----------------------------------------------------------------------------

    @property
    def damaged(self) -> list[tuple[bytes, bytes]]:
        """Rows that are not what was written: database and key."""
        for place, value in tuple(self._damaged.items()):
            name, key = place
            relevant = value is not None or self._is_due(key)
            if self._env.databases[name].values.get(key) != value or not relevant:
                del self._damaged[place]
        return list(self._damaged)

    @property
    def unfit(self) -> bool:
        """Whether something is damaged without which nobody may vote.

        Rows of entries that are applied are verified when they are read, not before; but a row that
        is missing is always noticed.
        """
        return any(
            name == PEER_DB
            or (name == LOG_DB and (self._damaged[name, key] is None or self._is_unapplied(key)))
            for name, key in self.damaged
        )

    def _is_due(self, key: bytes) -> bool:
        """Whether a row of the log must be there: trimming goes on long after compacting."""
        peer = self._env.databases[PEER_DB]
        try:
            compacted = read_compacted(self._env.begin(), LogDbs(None, peer, self.directory.path))
        except CorruptData:
            return True
        return compacted.index < key_index(key) <= self.shadow.last

    def _is_unapplied(self, key: bytes) -> bool:
        return key_index(key) > self.shadow.applied

    def flip(self, rng: random.Random) -> str:
        """Damage one row. Returns which, or nothing if there is no row."""
        databases = [rows for rows in self._env.databases.values() if rows.order]
        log = self._env.databases[LOG_DB]
        rows = log if log.order and rng.random() < 0.5 else rng.choice(databases)
        key = rng.choice(rows.order)
        value = bytearray(rows.values[key])
        if rng.random() < 0.85 or len(value) < 2:
            value[rng.randrange(len(value))] ^= 1 << rng.randrange(8)
        else:
            del value[rng.randrange(1, len(value)) :]
        rows.set(key, bytes(value))
        self._damaged[rows.name, key] = bytes(value)
        return f"{rows.name.decode()}[{key.hex()}]"

    def lose_write(self, rng: random.Random) -> str:
        """A row of the log, but not the last, is what it was before. Returns which, if any."""
        log = self._env.databases[LOG_DB]
        stale = [
            key for key in log.order[:-1] if log.older.get(key, log.values[key]) != log.values[key]
        ]
        if not stale:
            return ""
        key = rng.choice(stale)
        log.set(key, log.older[key])
        self._damaged[LOG_DB, key] = log.values[key]
        return f"log[{key.hex()}] is an older one"

    def lose_row(self, rng: random.Random) -> str:
        """A row of the middle of the log is gone. Returns which, if there is one."""
        log = self._env.databases[LOG_DB]
        if len(log.order) < 3:
            return ""
        key = rng.choice(log.order[1:-1])
        log.set(key, None)
        self._damaged[LOG_DB, key] = None
        return f"log[{key.hex()}] is gone"
