"""The simulated environment does what LMDB does."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import pytest

from chaos.simulation.environment import SimEnvironment

KEYS = [bytes([a, b]) for a in b"acx" for b in b"\x00mz"]


class AbortError(Exception):
    """Ends a transaction without its writes."""


def dump(env: Any, db: Any) -> list[tuple[bytes, bytes]]:
    rows = []
    with env.begin() as txn, txn.cursor(db=db) as cursor:
        found = cursor.first()
        while found:
            rows.append((bytes(cursor.key()), bytes(cursor.value())))
            found = cursor.next()
    return rows


def some_calls(rng: random.Random, txn: Any, dbs: list[Any]) -> list[object]:
    """Random calls of the kinds that the store makes, and what they answered."""
    answers: list[object] = []
    for _ in range(rng.randrange(12)):
        db, key = rng.choice(dbs), rng.choice(KEYS)
        calls: list[Callable[[], object]] = [
            lambda db=db, key=key: txn.put(key, b"v%d" % rng.randrange(99), db=db),
            lambda db=db, key=key: txn.delete(key, db=db),
            lambda db=db, key=key: txn.get(key, db=db),
            lambda db=db: txn.stat(db)["entries"],
            lambda db=db, key=key: walk(txn, db, key, rng),
            lambda db=db: txn.drop(db, delete=False) if rng.random() < 0.2 else None,
        ]
        answers.append(rng.choice(calls)())
    return answers


def walk(txn: Any, db: Any, key: bytes, rng: random.Random) -> list[object]:
    """A cursor as ``delete_prefix``, the log and the scrub move it."""
    seen: list[object] = []
    with txn.cursor(db=db) as cursor:
        start = rng.choice((cursor.first, cursor.last, lambda: cursor.set_range(key)))
        seen.append(start())
        for _ in range(rng.randrange(5)):
            seen += [bytes(cursor.key()), bytes(cursor.value())]
            step = rng.choice((cursor.next, cursor.delete)) if cursor.key() else cursor.first
            seen.append(step())
    return seen


@pytest.mark.parametrize("seed", range(40))
def test_the_same_calls_give_the_same_answers(seed: int, tmp_path: Path) -> None:
    real, simulated = lmdb.open(str(tmp_path), max_dbs=4, lib_version=0), SimEnvironment()
    answers: list[list[object]] = []
    for env in (real, simulated):
        rng = random.Random(seed)
        handles = [env.open_db(name) for name in (b"one", b"two")]
        answers.append([])
        for _ in range(12):
            try:
                with env.begin(write=True) as txn:
                    answers[-1].append(some_calls(rng, txn, handles))
                    if rng.random() < 0.25:
                        raise AbortError
            except AbortError:
                pass
            answers[-1].append([dump(env, db) for db in handles])
    real.close()
    assert answers[0] == answers[1]


def test_a_database_that_is_not_there_is_refused_as_lmdb_refuses_it(tmp_path: Path) -> None:
    real = lmdb.open(str(tmp_path), max_dbs=4, lib_version=0)
    for env in (real, SimEnvironment()):
        with pytest.raises(lmdb.NotFoundError):
            env.open_db(b"missing", create=False)
    real.close()
