"""A loop-less caller of a ``PeerStore``: it waits for completions and settles them."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from ha_scheduler.ledger import encoding
from ha_scheduler.ledger import records as r
from ha_scheduler.raft.messages import Entry, EntryKind, HardState, Membership
from ha_scheduler.storage.lmdb_store import LmdbStore
from ha_scheduler.storage.port import PeerStore, WriteBatch
from tests.deadlines import SCALE
from tests.twins.store import MemoryStore

DEADLINE_S = 10.0 * SCALE  # seconds; only ever reached by a failing test


class Caller:
    """Submits numbered batches and keeps their completions."""

    def __init__(self) -> None:
        self.done: list[tuple[int, Exception | None]] = []
        self.number = 0
        self.term = 0
        self._changed = threading.Condition()

    def on_durable(self, number: int, error: Exception | None) -> None:
        with self._changed:
            self.done.append((number, error))
            self._changed.notify_all()

    def submit(self, store: PeerStore, **fields: Any) -> int:
        """As a core does: no entry is written before its term is."""
        self.number += 1
        self.term = max(self.term, store.initial_state()[0].term)
        given = fields.get("hard_state")
        newest = max((entry.term for entry in fields.get("entries", ())), default=0)
        if given is None and newest > self.term:
            given = fields["hard_state"] = state(newest)
        self.term = given.term if given is not None else self.term
        store.submit(WriteBatch(self.number, **fields))
        return self.number

    def wait(self, number: int) -> Exception | None:
        with self._changed:
            assert self._changed.wait_for(
                lambda: any(done == number for done, _ in self.done), DEADLINE_S
            )
            return next(error for done, error in self.done if done == number)

    def write(self, store: PeerStore, **fields: Any) -> None:
        """Submit, wait until durable, settle."""
        number = self.submit(store, **fields)
        if isinstance(store, MemoryStore):
            store.flush()
        error = self.wait(number)
        if error is not None:
            raise error
        store.settle(number)


def entry(index: int, term: int = 1, data: bytes = b"") -> Entry:
    return Entry(term, index, EntryKind.NORMAL, data)


def entries(first: int, last: int, term: int = 1, size: int = 0) -> tuple[Entry, ...]:
    return tuple(
        entry(n, term, encoding.encode(r.BlobPart(term, n, 0, b"x" * size)))
        for n in range(first, last + 1)
    )


def state(term: int = 1, vote: int = 0, commit: int = 0) -> HardState:
    return HardState(term, vote, commit)


def value(name: bytes, data: bytes = b"v") -> bytes:
    return encoding.encode(r.ValueSet("space", name, data, 0, 0, 0))


def open_store(path: Path, caller: Caller | None = None, **options: Any) -> LmdbStore:
    settings: dict[str, Any] = {
        "cell": "cell",
        "peer": "a",
        "peer_id": 7,
        "create": True,
        "on_durable": (caller or Caller()).on_durable,
        "membership": Membership((1,)),
        "reserve_bytes": 0,
    }
    return LmdbStore.open(path, **(settings | options))
