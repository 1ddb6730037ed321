"""The promise, end to end on real processes: a leader dies, and nobody who works with it notices.

Each test says with files what was executed: a task that ran twice has two lines, whatever any
scheduler believes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ha_scheduler import LocalHACluster
from tests.system.conftest import DEADLINE_S, SCALE, Scene, new_cluster, recorded_error, wait_until

pytestmark = pytest.mark.system

N_TASKS = 80
TASK_S = 0.05


def kill_engine(cluster: LocalHACluster) -> None:
    cluster.leader.kill_engine()


def kill_peer(cluster: LocalHACluster) -> None:
    cluster.leader.kill()


def freeze_peer(cluster: LocalHACluster) -> None:
    cluster.leader.pause()


def transfer(cluster: LocalHACluster) -> None:
    cluster.transfer()


Blow = Callable[[LocalHACluster], None]
every_blow = pytest.mark.parametrize("blow", [kill_engine, kill_peer, freeze_peer, transfer])
every_death = pytest.mark.parametrize("blow", [kill_engine, kill_peer])


@every_blow
def test_running_work_goes_on_and_nothing_runs_twice(scene: Scene, blow: Blow) -> None:
    pids = scene.worker_pids()
    futures = [scene.submit(f"task-{n}", TASK_S) for n in range(N_TASKS)]
    wait_until(lambda: sum(f.done() for f in futures) > N_TASKS // 4, "a quarter has finished")
    assert not all(future.done() for future in futures), "the blow must fall in the middle"

    blow(scene.cluster)

    results = scene.client.gather(futures)
    assert results == [f"task-{n}" for n in range(N_TASKS)]
    assert set(scene.executions().values()) == {1}
    assert len(scene.executions()) == N_TASKS
    assert scene.worker_pids() == pids


@every_death
def test_a_task_that_runs_at_the_kill_runs_on(scene: Scene, blow: Blow) -> None:
    future = scene.submit("long", 3.0)
    wait_until(lambda: scene.executions()["long"], "it runs")
    blow(scene.cluster)
    after = scene.submit("after", 0.0, future)
    assert after.result(timeout=DEADLINE_S) == "after"
    assert scene.executions() == {"long": 1, "after": 1}


@every_death
def test_results_and_errors_of_before_are_those_of_after(scene: Scene, blow: Blow) -> None:
    finished = scene.submit("finished")
    erred = scene.client.submit(recorded_error, str(scene.directory), "erred", key="erred")
    dependent = scene.submit("dependent", 0.0, erred)
    wait_until(lambda: finished.done() and erred.done() and dependent.done(), "all are done")

    blow(scene.cluster)
    assert scene.submit("next", 0.0, finished).result(timeout=DEADLINE_S) == "next"

    assert (finished.status, erred.status, dependent.status) == ("finished", "error", "error")
    assert finished.result(timeout=DEADLINE_S) == "finished"
    for failed in (erred, dependent):
        with pytest.raises(ZeroDivisionError, match="erred"):
            failed.result(timeout=DEADLINE_S)
    late = scene.submit("late", 0.0, erred)
    with pytest.raises(ZeroDivisionError, match="erred"):
        late.result(timeout=DEADLINE_S)
    assert scene.executions() == {"finished": 1, "erred": 1, "next": 1}


@every_death
def test_work_submitted_while_nobody_leads_goes_through(scene: Scene, blow: Blow) -> None:
    before = scene.submit("before")
    assert before.result(timeout=DEADLINE_S) == "before"
    blow(scene.cluster)
    during = [scene.submit(f"during-{n}", 0.0, before) for n in range(10)]
    assert scene.client.gather(during) == [f"during-{n}" for n in range(10)]
    assert set(scene.executions().values()) == {1}


def test_a_graph_that_was_never_committed_is_resubmitted_and_runs_once(tmp_path: Path) -> None:
    """With its followers frozen a leader commits nothing, but it does let the task run.

    It does so until its lease ends, which is made long here: the task must begin before.
    """
    patient = (f"--election-ticks={int(40 * SCALE)}",)
    with new_cluster(peer_options=patient) as cluster, cluster.get_client() as client:
        scene = Scene(cluster, client, tmp_path, tmp_path)
        leader, followers = cluster.leader, scene.others()
        for follower in followers:
            follower.pause()
        future = scene.submit("in-flight", 1.0)
        wait_until(
            lambda: scene.executions()["in-flight"], "the task runs, of an uncommitted graph"
        )
        leader.kill()
        for follower in followers:
            follower.resume()
        assert future.result(timeout=DEADLINE_S) == "in-flight"
        assert scene.executions() == {"in-flight": 1}


def test_a_frozen_leader_that_wakes_up_changes_nothing(scene: Scene) -> None:
    futures = [scene.submit(f"task-{n}", TASK_S) for n in range(N_TASKS)]
    wait_until(lambda: any(f.done() for f in futures), "some have finished")
    frozen = scene.cluster.leader
    frozen.pause()
    assert scene.cluster.leader is not frozen
    time.sleep(0.5)
    frozen.resume()
    assert scene.client.gather(futures) == [f"task-{n}" for n in range(N_TASKS)]
    assert set(scene.executions().values()) == {1}
    wait_until(lambda: frozen.status == "follower", "it follows")


def test_leaders_may_die_again_and_again(scene: Scene) -> None:
    futures = []
    for n in range(3):
        futures += [scene.submit(f"task-{n}-{m}", TASK_S) for m in range(20)]
        victim = scene.cluster.leader
        victim.kill()
        futures += [scene.submit(f"more-{n}-{m}", TASK_S) for m in range(5)]
        scene.client.gather(futures)
        victim.restart()
    assert len(scene.executions()) == 75
    assert set(scene.executions().values()) == {1}
    terms = [entry["term"] for entry in scene.cluster.history()]
    assert terms == sorted(set(terms))


def test_a_cell_that_was_down_altogether_carries_on(scene: Scene) -> None:
    """Every peer dies at once and starts again: what was committed is there, and runs once."""
    done = scene.submit("done")
    assert done.result(timeout=DEADLINE_S) == "done"
    futures = [scene.submit(f"task-{n}", 0.1) for n in range(20)]
    wait_until(lambda: futures[0].done(), "one has finished")
    for peer in scene.cluster.peers:
        peer.kill()
    for peer in scene.cluster.peers:
        peer.start()
    assert scene.client.gather(futures) == [f"task-{n}" for n in range(20)]
    assert scene.submit("next", 0.0, done).result(timeout=DEADLINE_S) == "next"
    assert set(scene.executions().values()) == {1}
