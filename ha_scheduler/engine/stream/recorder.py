"""The active engine's writer of the event stream.

Guarantee: records enter the log in the order of ``append``, which is called in the event-loop step
of the change that it records. So the log is the serial order of the leader's state changes. A
record's callback runs after its commit, never before.

Dask reports desires, releases and retirements one key at a time; they are batched for
``BATCH_SECONDS``. Any other record flushes the batch first. A batch leaves out desires and releases
of graphs that it retires: a task submitted, finished and released within one batch costs its graph
record alone. The answers of requests come last.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from ha_scheduler.engine.stream.keys import Key, encode_key
from ha_scheduler.ledger.encoding import encode
from ha_scheduler.ledger.rebuild import batches
from ha_scheduler.ledger.records import (
    BLOB_PART_BYTES,
    FORMAT,
    INLINE_BYTES_MAX,
    RECORD_BYTES_MAX,
    Answered,
    BlobPart,
    Desired,
    Forgotten,
    GraphsRetired,
    Record,
    Released,
)

BATCH_SECONDS = 0.02  # how long desires and releases gather; far below a human's or a poll's notice
BATCH_KEYS_MAX = 5_000  # keys gathered before the batch is written early
RECORD_KEYS_BYTES_MAX = RECORD_BYTES_MAX // 2  # bytes of keys in one Desired or Released record
GRAPHS_PER_RETIREMENT_MAX = 20_000  # 9 bytes each

OnCommit = Callable[[], None]
Kind = type[Desired] | type[Released] | type[Forgotten]


class Log(Protocol):
    """Takes encoded records in order and calls back after the commit."""

    def propose(self, data: bytes, on_commit: OnCommit | None) -> None: ...

    def confirm(self, on_confirmed: Callable[[], None]) -> None:
        """Call back when a quorum has confirmed, after this, that its writer leads."""


class CommitTracker:
    """Callbacks of proposals in flight, in the order of their numbers (from 1, without gaps)."""

    def __init__(self) -> None:
        self._last = 0
        self._waiting: deque[tuple[int, OnCommit]] = deque()

    def number(self, on_commit: OnCommit | None) -> int:
        self._last += 1
        if on_commit is not None:
            self._waiting.append((self._last, on_commit))
        return self._last

    def committed(self, proposal: int) -> None:
        """This proposal, and so all before it, has committed."""
        while self._waiting and self._waiting[0][0] <= proposal:
            self._waiting.popleft()[1]()


class Batch:
    def __init__(self) -> None:
        self._runs: list[tuple[Kind, int, str, list[Key]]] = []
        self._retired: set[int] = set()
        self.answers: dict[tuple[str, str], list[tuple[int, OnCommit]]] = {}
        self.on_commit: list[OnCommit] = []  # called when all but the answers has committed
        self.keys = 0

    def add(self, kind: Kind, graph: int, client: str, key: Key) -> None:
        """``client`` wants or releases ``key`` of ``graph``, or the key is forgotten."""
        self.keys += 1
        if self._runs:
            last = self._runs[-1]
            if last[0] is kind and last[1] == graph and last[2] == client:
                last[3].append(key)
                return
        self._runs.append((kind, graph, client, [key]))

    def retire(self, graph: int) -> None:
        self.keys += 1
        self._retired.add(graph)

    def answer(self, client: str, session: str, sequence: int, on_commit: OnCommit) -> None:
        self.keys += 1
        self.answers.setdefault((client, session), []).append((sequence, on_commit))

    def records(self, upto: int) -> Iterator[Record]:
        """The batch as records, without answers. ``upto``: above all ids so far
        (``ledger/runs.py``).
        """
        for kind, graph, client, keys in self._runs:
            if graph not in self._retired:
                for part in key_parts(keys):
                    if issubclass(kind, Forgotten):
                        yield Forgotten(graph, part)
                    elif issubclass(kind, Released):
                        yield Released(graph, client, part, upto)
                    else:
                        yield kind(graph, client, part)
        retired = sorted(self._retired)
        for start in range(0, len(retired), GRAPHS_PER_RETIREMENT_MAX):
            yield GraphsRetired(tuple(retired[start : start + GRAPHS_PER_RETIREMENT_MAX]), upto)


def key_parts(keys: Iterable[Key]) -> Iterator[tuple[bytes, ...]]:
    """Encoded keys in parts of at most one record each."""
    return batches(map(encode_key, keys), RECORD_KEYS_BYTES_MAX)


class Recorder:
    """Writes records in ``term``. ``ids``: rising, shared by runs of tasks and graphs."""

    def __init__(self, log: Log, term: int, ids: Iterator[int], format_: int = FORMAT) -> None:
        """``format_``: of records, that all members of the cell read."""
        self.term = term
        self.format = format_
        self._log = log
        self._ids = ids
        self._blobs = 0
        self._batch = Batch()
        self._flush_due: asyncio.TimerHandle | None = None

    def next_id(self) -> int:
        """An id above those of all graphs and runs so far."""
        return next(self._ids)

    def append(self, record: Record, on_commit: OnCommit | None = None) -> None:
        """Write one record after the batch."""
        self.flush()
        data = encode(record, self.format)
        assert len(data) <= RECORD_BYTES_MAX, (type(record), len(data))
        self._log.propose(data, on_commit)

    def confirm(self, on_confirmed: Callable[[], None]) -> None:
        """Call back when a quorum has confirmed, after this, that we lead."""
        self._log.confirm(on_confirmed)

    def inline(self, payload: bytes) -> tuple[bytes, int, int]:
        """(payload, 0, 0), or (nothing, blob, parts) of a large one, written ahead."""
        if len(payload) <= INLINE_BYTES_MAX:
            return payload, 0, 0
        self._blobs += 1
        view = memoryview(payload)
        starts = range(0, len(view), BLOB_PART_BYTES)
        for number, start in enumerate(starts):
            data = bytes(view[start : start + BLOB_PART_BYTES])
            self.append(BlobPart(self.term, self._blobs, number, data))
        return b"", self._blobs, len(starts)

    def desired(self, graph: int, client: str, key: Key) -> None:
        self._batch.add(Desired, graph, client, key)
        self._schedule_flush()

    def released(
        self, graph: int, client: str, key: Key, on_commit: OnCommit | None = None
    ) -> None:
        self._batch.add(Released, graph, client, key)
        if on_commit is not None:
            self._batch.on_commit.append(on_commit)
        self._schedule_flush()

    def forgotten(self, graph: int, key: Key) -> None:
        self._batch.add(Forgotten, graph, "", key)
        self._schedule_flush()

    def retired(self, graph: int) -> None:
        self._batch.retire(graph)
        self._schedule_flush()

    def answered(self, client: str, session: str, sequence: int, on_commit: OnCommit) -> None:
        """Gather that a request took effect, after all that it changed."""
        self._batch.answer(client, session, sequence, on_commit)
        self._schedule_flush()

    def flush(self) -> None:
        if self._flush_due is not None:
            self._flush_due.cancel()
            self._flush_due = None
        batch, self._batch = self._batch, Batch()
        records = list(batch.records(self.next_id())) if batch.keys else []
        for record in records[:-1]:
            self._log.propose(encode(record, self.format), None)
        for record in records[-1:]:
            self._log.propose(encode(record, self.format), _all_of(batch.on_commit))
        for (client, session), answers in batch.answers.items():
            sequences = tuple(sequence for sequence, _ in answers)
            on_commit = _all_of([on_commit for _, on_commit in answers])
            self._log.propose(encode(Answered(client, session, sequences)), on_commit)

    def _schedule_flush(self) -> None:
        if self._batch.keys >= BATCH_KEYS_MAX:
            self.flush()
        elif self._flush_due is None:
            self._flush_due = asyncio.get_running_loop().call_later(BATCH_SECONDS, self.flush)


def _all_of(callbacks: list[OnCommit]) -> OnCommit | None:
    def committed() -> None:
        for on_commit in callbacks:
            on_commit()

    return committed if callbacks else None
