"""A leader is killed with ``kill -9``; nothing that a user has may be lost. Real processes."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from client_replay import Client, OutcomeUnknown
from tests.worker.cell import Cell, cell, eventually, kill

pytestmark = [pytest.mark.system, pytest.mark.filterwarnings("default")]


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Cell]:
    with cell(tmp_path) as made:
        yield made


def noted(path: str, value: Any, seconds: float = 0.0) -> Any:
    """Runs once, unless the file has two lines."""
    with open(path, "a") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(seconds)
    return value


def fail() -> None:
    raise ValueError("on purpose")


def parent(count: int) -> tuple[str, int]:
    from distributed import get_client

    client = get_client()
    children = client.map(lambda i: (time.sleep(1.0), i)[1], range(count), pure=False)
    return type(client).__module__, sum(client.gather(children))


def kind(dask_worker: Any) -> str:
    return type(dask_worker).__module__


def runs(path: Path) -> int:
    return len(path.read_text().split())


def test_a_killed_leader_costs_no_result_no_task_and_no_process(two: Cell, tmp_path: Path) -> None:
    leader = two.engine(0, term=1)
    two.worker("nannied")
    two.worker("bare", "--no-nanny")
    with Client(two.address) as client:
        client.wait_for_workers(2, timeout=30)
        assert set(client.run(kind).values()) == {"ha_scheduler.worker.worker"}
        pids = client.run(os.getpid)
        done = client.map(lambda i: i + 1, range(50))
        assert sum(client.gather(done)) == 1275
        erred = client.submit(fail)
        assert isinstance(erred.exception(), ValueError)
        running = [
            client.submit(noted, str(tmp_path / f"ran{i}"), i, 3.0, pure=False) for i in range(3)
        ]
        family = client.submit(parent, 3)
        eventually(lambda: (tmp_path / "ran1").exists(), 5, "a task runs")
        eventually(lambda: len(client._ha.journal) == 0, 5, "the cell has committed all")

        kill(leader)
        late = client.submit(noted, str(tmp_path / "late"), "late", pure=False)
        assert late.status == "pending"
        assert [f.status for f in done] == ["finished"] * 50
        two.engine(1, term=2)

        assert late.result(timeout=20) == "late"
        assert sum(client.gather(done)) == 1275
        assert isinstance(erred.exception(timeout=5), ValueError)
        assert client.gather(running) == [0, 1, 2]
        assert family.result(timeout=20) == ("client_replay.client", 3)
        assert [runs(tmp_path / f"ran{i}") for i in range(3)] == [1, 1, 1]
        assert client.run(os.getpid) == pids
        assert client._ha.follower.fence.term == 2


def test_a_gather_that_the_leader_was_serving_goes_on(two: Cell, tmp_path: Path) -> None:
    leader = two.engine(0, term=1)
    two.worker("w", "--no-nanny")
    with Client(two.address) as client:
        slow = client.submit(noted, str(tmp_path / "slow"), 7, 2.0)
        eventually(lambda: (tmp_path / "slow").exists(), 20, "the task runs")
        kill(leader)
        two.engine(1, term=2)
        assert client.gather(slow) == 7
        assert runs(tmp_path / "slow") == 1


def test_a_call_that_must_not_be_repeated_says_that_its_outcome_is_unknown(two: Cell) -> None:
    leader = two.engine(0, term=1)
    two.worker("w", "--no-nanny")
    with Client(two.address) as client:
        client.wait_for_workers(1, timeout=30)

        async def run_and_kill() -> None:
            call = asyncio.ensure_future(client._run(time.sleep, 3))
            await asyncio.sleep(0.5)
            kill(leader)
            await call

        with pytest.raises(OutcomeUnknown, match=r"during Client\.run:"):
            client.sync(run_and_kill)


def test_a_worker_process_that_dies_during_the_outage_comes_back(two: Cell) -> None:
    leader = two.engine(0, term=1)
    two.worker("w")
    with Client(two.address) as client:
        client.wait_for_workers(1, timeout=30)
        (pid,) = client.run(os.getpid).values()
        time.sleep(0.5)  # the Nanny polls for the start of its worker (nanny.py:790)
        kill(leader)
        os.kill(pid, 9)
        time.sleep(1.0)
        two.engine(1, term=2)
        eventually(
            lambda: any(p != pid for p in client.run(os.getpid).values()), 30, "a new process"
        )
        assert client.submit(kind_of_this_worker).result(10) == "ha_scheduler.worker.worker"


def kind_of_this_worker() -> str:
    from distributed import get_worker

    return type(get_worker()).__module__


def test_a_plain_client_and_a_plain_address_with_preloads(
    two: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dask
    import distributed

    leader = two.engine(0, term=1)
    plain = f"tcp://127.0.0.1:{two.ports[0]}"
    preload = ("--preload", "ha_scheduler.worker.preload")
    nanny = ("--preload-nanny", "ha_scheduler.worker.nanny_preload")
    two.worker("w", *preload, *nanny, address=plain)
    with dask.config.set({"distributed.client.preload": ["client_replay.preload"]}):
        client = distributed.Client(plain)
    with client:
        assert isinstance(client, Client)
        client.wait_for_workers(1, timeout=30)
        result = client.submit(lambda: 5)
        assert result.result() == 5
        kill(leader)
        two.engine(1, term=2)
        assert client.submit(lambda: 6).result(20) == 6
        assert result.result(5) == 5


def test_asynchronously(two: Cell) -> None:
    leader = two.engine(0, term=1)
    two.worker("w", "--no-nanny")

    async def use() -> None:
        async with Client(two.address, asynchronous=True) as client:
            first = client.submit(lambda: 1)
            assert await first == 1
            kill(leader)
            second = client.submit(lambda x: x + 1, first)
            two.engine(1, term=2)
            assert await second == 2

    asyncio.run(use())
