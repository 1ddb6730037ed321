"""Workloads of graphs: trees of tasks, and shuffles of dataframes against pandas."""

from __future__ import annotations

from typing import Any

from chaos.workloads.base import Workload
from chaos.workloads.session import Session
from chaos.workloads.tasks import counted

BLOCKS = 16
BLOCK_S_MAX = 0.1
TREES_RATE, SHUFFLES_RATE = 1.0, 0.5
UNDER_WAY_MAX = 4  # trees, or shuffles
ROWS = 20_000
PARTITIONS = 6


def map_reduce(session: Session) -> None:
    """Sums of blocks, added in pairs until one is left."""
    number = 0
    while session.pace(TREES_RATE):
        number += 1
        name = f"{session.name}-tree-{number}"
        values = [session.random.randrange(1_000_000) for _ in range(BLOCKS)]
        layer = [
            _part(session, f"{name}-map-{n}", session.random.uniform(0, BLOCK_S_MAX), value)
            for n, value in enumerate(values)
        ]
        level = 0
        while len(layer) > 1:
            level += 1
            pairs = zip(layer[::2], layer[1::2], strict=True)
            layer = [
                session.client.submit(_add, a, b, key=f"{name}-{level}-{n}", pure=False)
                for n, (a, b) in enumerate(pairs)
            ]
        session.compute("reduce", name, layer[0], expected=sum(values))
        session.wait_below(UNDER_WAY_MAX, session.settings.deadline_s)


def _part(session: Session, key: str, seconds: float, value: int) -> Any:
    where = str(session.directory)
    return session.client.submit(counted, where, key, seconds, value, key=key, pure=False)


def _add(a: int, b: int) -> int:
    return a + b


def shuffle(session: Session) -> None:
    """Dataframes sorted into other partitions, joined and grouped; as pandas has it."""
    import dask
    import dask.dataframe as dd

    number = 0
    with dask.config.set({"dataframe.shuffle.method": "p2p"}):
        while session.pace(SHUFFLES_RATE):
            number += 1
            left, right = _frames(session.random.getrandbits(32))
            a = dd.from_pandas(left, npartitions=PARTITIONS)
            b = dd.from_pandas(right, npartitions=PARTITIONS)
            kinds = {
                "sort": (a.shuffle("key"), left),
                "join": (a.merge(b, on="key"), left.merge(right, on="key")),
                "group": (
                    a.groupby("key").value.sum(split_out=PARTITIONS).reset_index(),
                    left.groupby("key").value.sum().reset_index(),
                ),
            }
            kind = session.random.choice(list(kinds))
            lazy, expected = kinds[kind]
            name = f"{session.name}-{kind}-{number}"
            frame = session.client.compute(lazy)
            found = session.client.submit(digest, frame, key=name, pure=False)
            session.compute(kind, name, found, expected=digest(expected))
            session.wait_below(UNDER_WAY_MAX // 2, session.settings.deadline_s)


def _frames(seed: int) -> tuple[Any, Any]:
    import numpy as np
    import pandas as pd

    random = np.random.default_rng(seed)
    keys = random.integers(0, ROWS // 10, ROWS)
    left = pd.DataFrame({"key": keys, "value": random.integers(0, 1_000_000, ROWS)})
    weights = random.integers(0, 99, ROWS // 10)
    right = pd.DataFrame({"key": np.arange(ROWS // 10), "weight": weights})
    return left, right


def digest(frame: Any) -> list[int]:
    """Of the rows as a multiset: how many, and the sum of their hashes."""
    import pandas as pd

    columns = frame[sorted(frame.columns)]
    hashes = pd.util.hash_pandas_object(columns, index=False)
    return [len(frame), int(hashes.sum() & 0xFFFF_FFFF)]


MAP_REDUCE = Workload("map-reduce", "trees of sums over counted blocks", map_reduce, floor=2)
SHUFFLE = Workload(
    "shuffle",
    "P2P shuffles, joins and groupings of dataframes, compared with pandas",
    shuffle,
    needs=("pandas", "pyarrow"),
    floor=1,
    counted=False,
)
