"""Goal: what a record costs depends on what it changes, not on what there is.

Method: the fold over LMDB, counting the rows that are read, written and deleted while half of a
ledger is ended, record by record; twice as large a ledger may cost twice as much in all, no more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lmdb
import pytest

from ha_scheduler.ledger import encoding
from ha_scheduler.ledger import records as r
from ha_scheduler.ledger.calls import pack_payload
from ha_scheduler.ledger.fold import fold
from ha_scheduler.storage.lmdb_tables import LmdbTables
from ha_scheduler.storage.schema import TABLE_DBS

TERM, GRAPH = 1, 1 << 32
SLACK = 1.2  # of twice the cost: the depth of a tree, a settled pair of desires

Records = list[r.Record]


class CountedTables(LmdbTables):
    """Counts rows, whichever way they are asked for."""

    rows = 0

    def _unverified_keys(self, table: str, prefix: bytes) -> Iterator[bytes]:
        return self._counted(super()._unverified_keys(table, prefix))

    def _stream(self, table: str, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        return self._counted(super()._stream(table, prefix))

    def _counted(self, rows: Iterator[Any]) -> Iterator[Any]:
        for row in rows:
            self.rows += 1
            yield row

    def get(self, table: str, key: bytes) -> bytes | None:
        self.rows += 1
        return super().get(table, key)

    def put(self, table: str, key: bytes, value: bytes) -> None:
        self.rows += 1
        super().put(table, key, value)

    def delete(self, table: str, key: bytes) -> bool:
        self.rows += 1
        return super().delete(table, key)

    def delete_prefix(self, table: str, prefix: bytes) -> int:
        count = super().delete_prefix(table, prefix)
        self.rows += count
        return count


@contextmanager
def counted(path: Path) -> Iterator[CountedTables]:
    path.mkdir()
    with lmdb.open(str(path), map_size=1 << 30, max_dbs=64, sync=False) as env:
        dbs = {table: env.open_db(name) for table, name in TABLE_DBS.items()}
        with env.begin(write=True) as txn:
            yield CountedTables(txn, dbs, path, writable=True)


def cost(path: Path, before: Records, ending: Records) -> int:
    """Rows that the fold of ``ending`` touches after that of ``before``."""
    with counted(path) as tables:
        start = [r.TermStarted(TERM, "a"), r.ClientJoined("Client-x", "s")]
        for index, record in enumerate([*start, *before], 1):
            fold(tables, index, TERM, encoding.encode(record))
        tables.rows = 0
        for index, record in enumerate(ending, len(before) + len(start) + 1):
            fold(tables, index, TERM, encoding.encode(record))
        return tables.rows


def graphs(n: int) -> Records:
    return [r.GraphSubmitted(GRAPH + i, "Client-x", "s", i + 1, b"graph", 0, 0) for i in range(n)]


def key(i: int) -> bytes:
    return b"key-%d" % i


def retired_one_by_one(n: int) -> tuple[Records, Records]:
    return graphs(n), [r.GraphsRetired((GRAPH + i,)) for i in range(n // 2)]


def retired_together(n: int) -> tuple[Records, Records]:
    return graphs(n), [r.GraphsRetired(tuple(GRAPH + i for i in range(n // 2)))]


def released(n: int) -> tuple[Records, Records]:
    before = [*graphs(n), *(r.Desired(GRAPH + i, "Client-x", (key(i),)) for i in range(n))]
    return before, [r.Released(GRAPH + i, "Client-x", (key(i),)) for i in range(n // 2)]


def scattered_let_go(n: int) -> tuple[Records, Records]:
    before: Records = [r.Scattered("Client-x", (key(i),)) for i in range(n)]
    before += [r.Desired(0, "Client-x", (key(i),)) for i in range(n)]
    ending: Records = [r.Released(0, "Client-x", (key(i),)) for i in range(n // 2)]
    ending += [r.ScatteredForgotten((key(i),)) for i in range(n // 2)]
    return before, ending


def erred_and_retried(n: int) -> tuple[Records, Records]:
    before = [*graphs(n), *(r.Erred(GRAPH + i, key(i), b"error") for i in range(n))]
    return before, [r.Retried(GRAPH + i, (key(i),)) for i in range(n // 2)]


def forgotten(n: int) -> tuple[Records, Records]:
    return graphs(n), [r.Forgotten(GRAPH + i, (key(i),)) for i in range(n // 2)]


def clients_leave(n: int) -> tuple[Records, Records]:
    before: Records = [r.ClientJoined(f"Client-{i}", f"session-{i}") for i in range(n)]
    before += [r.SessionAdvanced(f"session-{i}", 7) for i in range(n)]
    before += [r.CallsOpened(f"calls-{i}", f"session-{i}") for i in range(n)]
    return before, [r.ClientLeft(f"Client-{i}") for i in range(n // 2)]


def clients_come_back_with_a_new_session(n: int) -> tuple[Records, Records]:
    before, _ = clients_leave(n)
    return before, [r.ClientJoined(f"Client-{i}", f"other-{i}") for i in range(n // 2)]


def calls_end(n: int) -> tuple[Records, Records]:
    before: Records = [r.CallsOpened(f"calls-{i}", "worker") for i in range(n)]
    return before, [r.CallsEnded(f"calls-{i}") for i in range(n // 2)]


def answers_are_given_and_dropped(n: int) -> tuple[Records, Records]:
    payload = pack_payload((), b"answer")
    called = [r.Called("calls", i, 1, payload, 0, 0, TERM) for i in range(n)]
    before: Records = [r.CallsOpened("calls", "session"), *called]
    ending: Records = [r.Called("calls", i, 2, payload, 0, 0, TERM) for i in range(n // 2)]
    return before, [*ending, *(r.AnswerDropped("calls", i) for i in range(n // 2))]


def values_change(n: int) -> tuple[Records, Records]:
    before: Records = [r.ValueSet("variable", key(i), b"value", 0, 0, TERM) for i in range(n)]
    ending: Records = [r.ValueSet("variable", key(i), b"new", 0, 0, TERM) for i in range(n // 2)]
    return before, [*ending, *(r.ValueDeleted("variable", key(i)) for i in range(n // 2))]


def requests_are_answered(n: int) -> tuple[Records, Records]:
    ending: Records = [r.Answered("Client-x", "s", (n + i + 1,)) for i in range(n // 2)]
    return graphs(n), [*ending, r.SessionAdvanced("s", n)]


@pytest.mark.parametrize(
    "play",
    [
        clients_leave,
        clients_come_back_with_a_new_session,
        calls_end,
        answers_are_given_and_dropped,
        values_change,
        requests_are_answered,
        retired_one_by_one,
        retired_together,
        released,
        scattered_let_go,
        erred_and_retried,
        forgotten,
    ],
)
def test_a_record_costs_what_it_changes(
    play: Callable[[int], tuple[Records, Records]], tmp_path: Path
) -> None:
    small, large = (cost(tmp_path / str(n), *play(n)) for n in (100, 200))
    assert small > 0
    assert large <= 2 * small * SLACK
