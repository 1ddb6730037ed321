"""Deaths that come together or one upon the other: leaders, workers, in recoveries and restarts.

Leaders die at moments that a test names (``ha_scheduler/failpoints.py``).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ha_scheduler.failpoints import VARIABLE
from tests.system.conftest import DEADLINE_S, Scene, new_cluster, wait_until

pytestmark = pytest.mark.system

slow = pytest.mark.slow


@dataclass
class Stage(Scene):
    """A scene whose leaders can be told when to die."""

    tokens: Path

    def arm(self, moment: str) -> Path:
        """The engine that next reaches this moment dies."""
        token = self.tokens / moment
        token.touch()
        return token

    def wait_for_engines(self) -> None:
        peers = [peer for peer in self.cluster.peers if peer.alive]
        wait_until(lambda: all(peer.engine_pid for peer in peers), "all have engines")


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    tokens = tmp_path / "failpoints"
    tokens.mkdir()
    monkeypatch.setenv(VARIABLE, str(tokens))
    with new_cluster(n_workers=3) as cluster, cluster.get_client() as client:
        yield Stage(cluster, client, tmp_path, tokens)


def test_a_leader_and_a_worker_that_die_together_lose_nothing(stage: Stage) -> None:
    """The worker holds results that others need, and runs tasks."""
    first = [stage.submit(f"first-{n}") for n in range(12)]
    assert stage.client.gather(first) == [f"first-{n}" for n in range(12)]
    second = [stage.submit(f"second-{n}", 1.0, first[n], first[-n - 1]) for n in range(6)]
    total = stage.submit("total", 0.0, *second)
    wait_until(lambda: sum(stage.executions()[f"second-{n}"] for n in range(6)) >= 3, "all run")
    victim = next(iter(stage.cluster.workers.values()))
    held = lost_with(stage, victim.name)
    assert held, "the worker must hold something"
    leader = stage.cluster.leader
    for process in (victim, leader):  # the second call does not wait for the first to have effect
        threading.Thread(target=process.kill).start()
    assert total.result(timeout=DEADLINE_S) == "total"
    assert stage.client.gather(first + second) == [future.key for future in first + second]
    again = {name for name, times in stage.executions().items() if times > 1}
    assert again <= held
    assert max(stage.executions().values()) <= 2


def lost_with(stage: Stage, name: str) -> set[str]:
    """The keys that the worker holds or runs, by the leader's own account."""
    info = stage.client.scheduler_info(n_workers=-1)["workers"]
    (address,) = [a for a, worker in info.items() if str(worker["name"]) == name]
    return {*stage.client.has_what([address])[address], *stage.client.processing()[address]}


@pytest.mark.parametrize(
    "moment",
    ["recovery.opening", *(pytest.param(f"recovery.{m}", marks=slow) for m in ("begun", "opened"))],
)
def test_a_leader_that_dies_in_its_recovery_leaves_it_to_the_next(
    stage: Stage, moment: str
) -> None:
    done = [stage.submit(f"done-{n}") for n in range(6)]
    assert stage.client.gather(done) == [future.key for future in done]
    running = [stage.submit(f"running-{n}", 5.0) for n in range(3)]
    wait_until(lambda: len(stage.executions()) == 9, "all run")
    stage.wait_for_engines()
    token = stage.arm(moment)
    stage.cluster.leader.kill()
    during = stage.submit("during", 0.0, *done)
    assert during.result(timeout=DEADLINE_S) == "during"
    assert not token.exists(), "no second leader has died"
    assert stage.client.gather(running) == [future.key for future in running]
    assert stage.client.gather(done) == [future.key for future in done]
    assert set(stage.executions().values()) == {1}


def test_two_leaders_that_die_one_after_the_other_lose_nothing(stage: Stage) -> None:
    futures = [stage.submit(f"task-{n}", 0.1) for n in range(90)]
    wait_until(lambda: any(future.done() for future in futures), "some are done")
    for _ in range(2):
        stage.wait_for_engines()
        stage.cluster.leader.kill_engine()
        futures.append(stage.submit(f"more-{len(futures)}", 0.1, futures[0]))
    assert not all(future.done() for future in futures[:90]), "both must fall in the midst"
    assert stage.client.gather(futures) == [future.key for future in futures]
    assert set(stage.executions().values()) == {1}


EVERY_MOMENT = pytest.mark.parametrize(
    "moment",
    [
        "recorded",
        *(pytest.param(m, marks=slow) for m in ("arrived", "begun", "done", "appended")),
        pytest.param("committed", marks=slow),
    ],
)


@EVERY_MOMENT
def test_a_restart_is_made_once_and_answered_whenever_its_leader_dies(
    stage: Stage, moment: str
) -> None:
    pids = stage.worker_pids()
    done = stage.submit("done")
    assert done.result(timeout=DEADLINE_S) == "done"
    running = stage.submit("running", 3.0)
    wait_until(lambda: stage.executions()["running"], "it runs")
    stage.wait_for_engines()
    token = stage.arm(f"restart.{moment}")
    stage.client.restart(timeout=DEADLINE_S)
    assert not token.exists(), "no leader has died"
    assert (done.status, running.status) == ("cancelled", "cancelled")
    assert len(pids - stage.worker_pids()) == 3
    new = worker_addresses(stage)
    assert len(new) == 3
    after = stage.submit("after")
    assert after.result(timeout=DEADLINE_S) == "after"
    assert worker_addresses(stage) == new, "nobody has restarted them again"
    assert stage.executions()["after"] == 1


@EVERY_MOMENT
def test_workers_are_restarted_once_and_told_of_whenever_the_leader_dies(
    stage: Stage, moment: str
) -> None:
    old = sorted(worker_addresses(stage))
    stage.wait_for_engines()
    token = stage.arm(f"restart_workers.{moment}")
    answer = stage.client.restart_workers(old[:2], timeout=DEADLINE_S)
    assert not token.exists(), "no leader has died"
    assert answer == dict.fromkeys(old[:2], "OK")
    new = worker_addresses(stage)
    assert new & set(old) == {old[2]}
    assert len(new) == 3
    assert stage.submit("after").result(timeout=DEADLINE_S) == "after"
    assert worker_addresses(stage) == new, "nobody has restarted them again"


@EVERY_MOMENT
def test_as_many_workers_retire_as_were_to_whenever_the_leader_dies(
    stage: Stage, moment: str
) -> None:
    futures = [stage.submit(f"task-{n}") for n in range(9)]
    assert stage.client.gather(futures) == [future.key for future in futures]
    old = worker_addresses(stage)
    stage.wait_for_engines()
    token = stage.arm(f"retire_workers.{moment}")
    # Not closed: their nannies would start others.
    retired = stage.client.retire_workers(n=1, close_workers=False)
    assert not token.exists(), "no leader has died"
    assert len(retired) == 1
    assert retired.keys() <= old
    assert stage.client.gather(futures) == [future.key for future in futures]
    assert set(stage.executions().values()) == {1}


def worker_addresses(stage: Stage) -> set[str]:
    return set(stage.client.scheduler_info(n_workers=-1)["workers"])
