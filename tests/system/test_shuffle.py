"""P2P shuffles through the death of leaders: real processes, killed in each phase.

Each input partition leaves a line when it is read. A shuffle that went on has one for each: nothing
was read again. The moments are those of a request to the leader (it has *arrived*, its record has
*committed* or all is *done* and nobody was told), at which the engine ends itself, and gates in the
inputs and outputs, at which a test kills whom it likes.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from distributed import secede

from client_replay.errors import OutcomeUnknown
from tests.system.conftest import DEADLINE_S, Scene, wait_until

pytestmark = pytest.mark.system

INPUTS, OUTPUTS = 10, 6
FREE = 5  # inputs that do not wait for the gate
ROWS = 2_000  # of each input
META = pd.DataFrame({"a": [0], "b": [0]}).iloc[:0]
SHUFFLES_MAX = 4  # until one asks its leader for everything
LEADERS_LOST_MAX = 5  # while a test asks once
numbers = itertools.count()


class Work:
    """A directory in which tasks write what they do, with the gates at which they wait."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / str(next(numbers))
        self.directory.mkdir()

    def open(self, *gates: str) -> None:
        for gate in gates:
            (self.directory / gate).touch()

    def lines(self, what: str) -> collections.Counter[str]:
        path = self.directory / what
        return collections.Counter(path.read_text().split() if path.exists() else ())


def note(directory: str, what: str, line: Any) -> None:
    with open(Path(directory, what), "a") as file:
        file.write(f"{line}\n")


def pass_gate(directory: str, gate: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not Path(directory, gate).exists():
        assert time.monotonic() < deadline, f"the gate of the {gate} stayed closed"
        time.sleep(0.02)


def frame_of(number: int) -> pd.DataFrame:
    a = np.arange(number * ROWS, (number + 1) * ROWS)
    return pd.DataFrame({"a": a, "b": a % 101})


def read(number: int, directory: str) -> pd.DataFrame:
    note(directory, "inputs", number)
    if number >= FREE:
        secede()  # so that transfers go on beside it
        pass_gate(directory, "read")
    return frame_of(number)


def use(frame: pd.DataFrame, directory: str) -> pd.DataFrame:
    note(directory, "outputs", len(frame))
    pass_gate(directory, "use")
    return frame


def shuffled(work: Work) -> tuple[Any, Callable[[Any], bool]]:
    """A dataframe in other partitions, and whether a result is right."""
    parts = dd.from_map(read, range(INPUTS), directory=str(work.directory), meta=META)
    by_b = parts.shuffle("b", npartitions=OUTPUTS, shuffle_method="p2p", force=True)
    used = by_b.map_partitions(use, str(work.directory), meta=META)
    expected = pd.concat(map(frame_of, range(INPUTS))).groupby("b").a.sum()
    return used.groupby("b").a.sum(), lambda got: got.sort_index().equals(expected)


def merged(work: Work) -> tuple[Any, Callable[[Any], bool]]:
    """A merge: two shuffles that share their outputs."""
    parts = dd.from_map(read, range(INPUTS), directory=str(work.directory), meta=META)
    names = pd.DataFrame({"b": range(101), "c": range(1000, 1101)})
    both = parts.merge(
        dd.from_pandas(names, npartitions=4), on="b", shuffle_method="p2p", broadcast=False
    )
    used = both.map_partitions(use, str(work.directory), meta=both._meta)
    expected = pd.concat(map(frame_of, range(INPUTS))).merge(names, on="b")
    return (used.a * used.c).sum(), lambda got: got == (expected.a * expected.c).sum()


def read_rows(number: int, directory: str) -> Any:
    read(number, directory)
    return np.arange(number * 1000, (number + 1) * 1000).reshape(10, 100)


def use_columns(block: Any, directory: str) -> Any:
    note(directory, "outputs", len(block))
    pass_gate(directory, "use")
    return block


def rechunked(work: Work) -> tuple[Any, Callable[[Any], bool]]:
    """An array in columns instead of rows."""
    rows = da.map_blocks(
        lambda directory, block_id: read_rows(block_id[0], directory),
        str(work.directory),
        chunks=((10,) * INPUTS, (100,)),
        meta=np.empty((0, 0), dtype=int),
    )
    columns = rows.rechunk((INPUTS * 10, 10), method="p2p", block_size_limit=8_000)
    expected = np.arange(INPUTS * 1000).reshape(INPUTS * 10, 100)
    used = columns.map_blocks(use_columns, str(work.directory), meta=expected[:0])
    return used, lambda got: bool(np.array_equal(got, expected))


def unreached(scene: Scene) -> list[str]:
    return sorted(path.name for path in scene.tokens.iterdir())


def runs(scene: Scene) -> dict[int, int]:
    """The runs that workers have, each with how many shares of inputs have been received."""
    found: collections.Counter[int] = collections.Counter()
    for of_worker in _ask(scene).values():
        found.update(of_worker)
    return dict(found)


def _ask(scene: Scene) -> dict[str, dict[int, int]]:
    """What each worker says. Asking again does no harm, which a cell cannot know."""
    for _ in range(LEADERS_LOST_MAX):
        with contextlib.suppress(OutcomeUnknown):
            return dict(scene.client.run(_runs))
    raise TimeoutError("no leader stayed long enough to ask its workers")


def _runs(dask_worker: Any) -> dict[int, int]:
    runs = dask_worker.plugins["shuffle"].shuffle_runs._active_runs.values()
    return {run.run_id: len(run.received) for run in runs}


@pytest.fixture
def work(scene: Scene) -> Iterator[Work]:
    made = Work(scene.directory)
    yield made
    made.open("read", "use")


def kill_engine(scene: Scene) -> None:
    scene.cluster.leader.kill_engine()


def kill_peer(scene: Scene) -> None:
    scene.cluster.leader.kill()


every_death = pytest.mark.parametrize("blow", [kill_engine, kill_peer])
once_each = {str(number): 1 for number in range(INPUTS)}

TRANSFER = ("shuffle_get_or_create.arrived", "shuffle_get_or_create.committed")
BARRIER = ("shuffle_barrier.arrived", "shuffle_barrier.done")
UNPACK = ("shuffle_restrict_task.arrived", "shuffle_restrict_task.done")


EACH_PHASE = [(shuffled, TRANSFER[1]), (rechunked, BARRIER[1]), (merged, UNPACK[1])]


@pytest.mark.parametrize(
    ("make", "moment"),
    [
        pytest.param(make, moment, marks=[] if (make, moment) in EACH_PHASE else pytest.mark.slow)
        for make in (shuffled, rechunked, merged)
        for moment in (*TRANSFER, *BARRIER, *UNPACK)
    ],
)
def test_a_shuffle_goes_on_whatever_its_leader_was_asked_as_it_died(
    scene: Scene, work: Work, make: Any, moment: str
) -> None:
    """No restriction is asked for if each output happens to start where its data is.

    The next shuffle then has its workers in another order (``_calculate_worker_for``).
    """
    scene.arm(moment)
    for _ in range(SHUFFLES_MAX):
        result, is_right = make(work)
        work.open("read", "use")
        assert is_right(scene.client.compute(result).result(timeout=DEADLINE_S))
        assert work.lines("inputs") == once_each
        if not unreached(scene):
            return
        work = Work(scene.directory)
    pytest.fail(f"no leader reached {unreached(scene)}")


@pytest.mark.parametrize("make", [shuffled, pytest.param(rechunked, marks=pytest.mark.slow)])
@every_death
def test_what_was_transferred_stays_with_the_workers(
    scene: Scene, work: Work, make: Any, blow: Callable[[Scene], None]
) -> None:
    result, is_right = make(work)
    future = scene.client.compute(result)
    wait_until(lambda: any(runs(scene).values()), "a part has been transferred")
    before = runs(scene)
    blow(scene)
    after = runs(scene)
    assert after.keys() == before.keys()
    assert all(after[run] >= received for run, received in before.items())
    work.open("read", "use")
    assert is_right(future.result(timeout=DEADLINE_S))
    assert work.lines("inputs") == once_each


@every_death
def test_what_was_unpacked_is_not_unpacked_again(
    scene: Scene, work: Work, blow: Callable[[Scene], None]
) -> None:
    result, is_right = shuffled(work)
    future = scene.client.compute(result)
    work.open("read")
    wait_until(lambda: work.lines("outputs"), "an output has been unpacked")
    before = runs(scene)
    blow(scene)
    assert runs(scene).keys() <= before.keys()  # it may have been the last output
    work.open("use")
    assert is_right(future.result(timeout=DEADLINE_S))
    assert work.lines("inputs") == once_each
    assert work.lines("outputs").total() == OUTPUTS


def test_a_shuffle_outlives_three_leaders(scene: Scene, work: Work) -> None:
    result, is_right = shuffled(work)
    work.open("read", "use")
    for moment in (TRANSFER[0], TRANSFER[1], BARRIER[0]):
        scene.arm(moment)
    assert is_right(scene.client.compute(result).result(timeout=DEADLINE_S))
    assert not unreached(scene)
    assert work.lines("inputs") == once_each


def test_two_shuffles_at_once_go_on(scene: Scene, work: Work) -> None:
    other = Work(scene.directory)
    (first, first_is_right), (second, second_is_right) = shuffled(work), rechunked(other)
    futures = [scene.client.compute(first), scene.client.compute(second)]
    wait_until(lambda: sum(map(bool, runs(scene).values())) == 2, "both transfer")
    before = runs(scene)
    kill_engine(scene)
    assert runs(scene).keys() == before.keys()
    for each in (work, other):
        each.open("read", "use")
    assert first_is_right(futures[0].result(timeout=DEADLINE_S))
    assert second_is_right(futures[1].result(timeout=DEADLINE_S))
    assert work.lines("inputs") == other.lines("inputs") == once_each


def test_outputs_are_read_after_a_failover_that_followed_the_shuffle(
    scene: Scene, work: Work
) -> None:
    work.open("read", "use")
    parts = dd.from_map(read, range(INPUTS), directory=str(work.directory), meta=META)
    by_b = parts.shuffle("b", npartitions=OUTPUTS, shuffle_method="p2p", force=True)
    kept = scene.client.persist(by_b)
    wait_until(lambda: work.lines("inputs").total() == INPUTS and not runs(scene), "it is over")
    kill_peer(scene)
    total = scene.client.compute(kept.a.sum()).result(timeout=DEADLINE_S)
    assert total == np.arange(INPUTS * ROWS).sum()
    assert work.lines("inputs") == once_each


@pytest.mark.parametrize("phase", [pytest.param("transfer", marks=pytest.mark.slow), "unpack"])
@pytest.mark.parametrize("make", [shuffled, pytest.param(rechunked, marks=pytest.mark.slow)])
def test_a_shuffle_whose_worker_died_with_the_leader_is_right_all_the_same(
    scene: Scene, work: Work, make: Any, phase: str
) -> None:
    """It starts anew: what that worker had received is gone."""
    result, is_right = make(work)
    future = scene.client.compute(result)
    if phase == "transfer":
        wait_until(lambda: any(runs(scene).values()), "a part has been transferred")
    else:
        work.open("read")
        wait_until(lambda: work.lines("outputs"), "an output has been unpacked")
    before = set(runs(scene))
    os.kill(min(scene.worker_pids()), signal.SIGKILL)
    kill_peer(scene)
    work.open("read", "use")
    assert is_right(future.result(timeout=DEADLINE_S))
    assert not before & set(runs(scene))
    assert work.lines("inputs").keys() == once_each.keys()
