"""Deaths that come together or one upon the other: leaders, workers, in recoveries and restarts.

Leaders die at moments that a test names (``ha_scheduler/failpoints.py``).
"""

from __future__ import annotations

import threading

import pytest

from tests.system.conftest import DEADLINE_S, Scene, wait_until

pytestmark = pytest.mark.system

slow = pytest.mark.slow


@pytest.fixture
def n_workers() -> int:
    return 3


def test_a_leader_and_a_worker_that_die_together_lose_nothing(scene: Scene) -> None:
    """The worker holds results that others need, and runs tasks."""
    first = [scene.submit(f"first-{n}") for n in range(12)]
    assert scene.client.gather(first) == [f"first-{n}" for n in range(12)]
    second = [scene.submit(f"second-{n}", 1.0, first[n], first[-n - 1]) for n in range(6)]
    total = scene.submit("total", 0.0, *second)
    wait_until(lambda: sum(scene.executions()[f"second-{n}"] for n in range(6)) >= 3, "all run")
    victim = next(iter(scene.cluster.workers.values()))
    held = lost_with(scene, victim.name)
    assert held, "the worker must hold something"
    leader = scene.cluster.leader
    for process in (victim, leader):  # the second call does not wait for the first to have effect
        threading.Thread(target=process.kill).start()
    assert total.result(timeout=DEADLINE_S) == "total"
    assert scene.client.gather(first + second) == [future.key for future in first + second]
    again = {name for name, times in scene.executions().items() if times > 1}
    assert again <= held
    assert max(scene.executions().values()) <= 2


def lost_with(scene: Scene, name: str) -> set[str]:
    """The keys that the worker holds or runs, by the leader's own account."""
    info = scene.client.scheduler_info(n_workers=-1)["workers"]
    (address,) = [a for a, worker in info.items() if str(worker["name"]) == name]
    return {*scene.client.has_what([address])[address], *scene.client.processing()[address]}


@pytest.mark.parametrize(
    "moment",
    ["recovery.opening", *(pytest.param(f"recovery.{m}", marks=slow) for m in ("begun", "opened"))],
)
def test_a_leader_that_dies_in_its_recovery_leaves_it_to_the_next(
    scene: Scene, moment: str
) -> None:
    done = [scene.submit(f"done-{n}") for n in range(6)]
    assert scene.client.gather(done) == [future.key for future in done]
    running = [scene.submit(f"running-{n}", 5.0) for n in range(3)]
    wait_until(lambda: len(scene.executions()) == 9, "all run")
    scene.wait_for_engines()
    token = scene.arm(moment)
    scene.cluster.leader.kill()
    during = scene.submit("during", 0.0, *done)
    assert during.result(timeout=DEADLINE_S) == "during"
    assert not token.exists(), "no second leader has died"
    assert scene.client.gather(running) == [future.key for future in running]
    assert scene.client.gather(done) == [future.key for future in done]
    assert set(scene.executions().values()) == {1}


def test_two_leaders_that_die_one_after_the_other_lose_nothing(scene: Scene) -> None:
    futures = [scene.submit(f"task-{n}", 0.1) for n in range(90)]
    wait_until(lambda: any(future.done() for future in futures), "some are done")
    for _ in range(2):
        scene.wait_for_engines()
        scene.cluster.leader.kill_engine()
        futures.append(scene.submit(f"more-{len(futures)}", 0.1, futures[0]))
    assert not all(future.done() for future in futures[:90]), "both must fall in the midst"
    assert scene.client.gather(futures) == [future.key for future in futures]
    assert set(scene.executions().values()) == {1}


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
    scene: Scene, moment: str
) -> None:
    pids = scene.worker_pids()
    done = scene.submit("done")
    assert done.result(timeout=DEADLINE_S) == "done"
    running = scene.submit("running", 3.0)
    wait_until(lambda: scene.executions()["running"], "it runs")
    scene.wait_for_engines()
    token = scene.arm(f"restart.{moment}")
    scene.client.restart(timeout=DEADLINE_S)
    assert not token.exists(), "no leader has died"
    assert (done.status, running.status) == ("cancelled", "cancelled")
    assert len(pids - scene.worker_pids()) == 3
    new = worker_addresses(scene)
    assert len(new) == 3
    after = scene.submit("after")
    assert after.result(timeout=DEADLINE_S) == "after"
    assert worker_addresses(scene) == new, "nobody has restarted them again"
    assert scene.executions()["after"] == 1


@EVERY_MOMENT
def test_workers_are_restarted_once_and_told_of_whenever_the_leader_dies(
    scene: Scene, moment: str
) -> None:
    old = sorted(worker_addresses(scene))
    scene.wait_for_engines()
    token = scene.arm(f"restart_workers.{moment}")
    answer = scene.client.restart_workers(old[:2], timeout=DEADLINE_S)
    assert not token.exists(), "no leader has died"
    assert answer == dict.fromkeys(old[:2], "OK")
    # One that is late for the window of the recovery is merged when it comes.
    wait_until(lambda: len(worker_addresses(scene)) == 3, "the workers have come")
    new = worker_addresses(scene)
    assert new & set(old) == {old[2]}
    assert scene.submit("after").result(timeout=DEADLINE_S) == "after"
    assert worker_addresses(scene) == new, "nobody has restarted them again"


@EVERY_MOMENT
def test_as_many_workers_retire_as_were_to_whenever_the_leader_dies(
    scene: Scene, moment: str
) -> None:
    futures = [scene.submit(f"task-{n}") for n in range(9)]
    assert scene.client.gather(futures) == [future.key for future in futures]
    old = worker_addresses(scene)
    scene.wait_for_engines()
    token = scene.arm(f"retire_workers.{moment}")
    # Not closed: their nannies would start others.
    retired = scene.client.retire_workers(n=1, close_workers=False)
    assert not token.exists(), "no leader has died"
    assert len(retired) == 1
    assert retired.keys() <= old
    assert scene.client.gather(futures) == [future.key for future in futures]
    assert set(scene.executions().values()) == {1}
    for worker in retired.values():
        scene.cluster.workers[str(worker["name"])].kill()


def worker_addresses(scene: Scene) -> set[str]:
    return set(scene.client.scheduler_info(n_workers=-1)["workers"])
