"""Tasks that submit tasks, while leaders die at each stage. Real processes, counted by files."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from distributed import as_completed, fire_and_forget, get_client, get_worker, worker_client

from tests.system.conftest import DEADLINE_S, Scene, recorded, wait_until

pytestmark = pytest.mark.system

N_CHILDREN = 4
CHILD_S = 0.3


def wait_for(directory: str, name: str) -> None:
    """Inside of a task: until the test says so."""
    wait_until(Path(directory, name).exists, name)


def children(client: Any, directory: str) -> list[Any]:
    return [
        client.submit(recorded, directory, f"child-{n}", CHILD_S, key=f"child-{n}")
        for n in range(N_CHILDREN)
    ]


def by_get_client(directory: str) -> list[str]:
    """Submits, waits (and so secedes), gathers; each stage leaves a line."""
    recorded(directory, "parent", 0.0)
    client = get_client()
    wait_for(directory, "submit")
    futures = children(client, directory)
    recorded(directory, "submitted", 0.0)
    wait_for(directory, "gather")
    return list(client.gather(futures))


def by_worker_client(directory: str) -> list[str]:
    recorded(directory, "parent", 0.0)
    with worker_client() as client:
        wait_for(directory, "submit")
        futures = children(client, directory)
        recorded(directory, "submitted", 0.0)
        wait_for(directory, "gather")
        return sorted(future.result() for future in as_completed(futures))


def leave_behind(directory: str) -> str:
    """A task whose own tasks outlive it."""
    recorded(directory, "parent", 0.0)
    wait_for(directory, "submit")
    for future in children(get_client(), directory):
        fire_and_forget(future)
    return str(get_worker().name)


every_parent = pytest.mark.parametrize("parent", [by_get_client, by_worker_client])


def tell(scene: Scene, *names: str) -> None:
    for name in names:
        (scene.directory / name).touch()


def kill(scene: Scene) -> None:
    scene.cluster.leader.kill_engine()


def begin(scene: Scene, parent: Callable[[str], Any]) -> Any:
    future = scene.client.submit(parent, str(scene.directory), key="parent")
    wait_until(lambda: scene.executions()["parent"], "the parent runs")
    return future


def check(scene: Scene, future: Any) -> None:
    assert future.result(timeout=DEADLINE_S) == [f"child-{n}" for n in range(N_CHILDREN)]
    executions = scene.executions()
    assert set(executions.values()) == {1}, executions


@every_parent
@pytest.mark.parametrize("stage", ["before it submits", "while they run", "before it gathers"])
def test_a_task_and_its_own_tasks_run_once(
    scene: Scene, parent: Callable[[str], Any], stage: str
) -> None:
    future = begin(scene, parent)
    if stage == "before it submits":
        kill(scene)
        tell(scene, "submit", "gather")
    elif stage == "while they run":
        tell(scene, "submit", "gather")
        wait_until(lambda: scene.executions()["child-0"], "a child runs")
        kill(scene)
    else:
        tell(scene, "submit")
        wait_until(lambda: scene.executions()["submitted"], "all are submitted")
        kill(scene)
        tell(scene, "gather")
    check(scene, future)


@every_parent
def test_a_task_whose_worker_dies_with_the_leader_runs_anew_with_its_own_tasks(
    scene: Scene, parent: Callable[[str], Any]
) -> None:
    """Its client went with its worker; that of the second run asks for tasks of the same names."""
    future = begin(scene, parent)
    tell(scene, "submit")
    wait_until(lambda: scene.executions()["submitted"], "all are submitted")
    victim, leader = worker_of(scene, "parent"), scene.cluster.leader
    for end in (victim.kill, leader.kill_engine):  # without waiting for the first to have effect
        threading.Thread(target=end).start()
    wait_until(lambda: scene.executions()["submitted"] == 2, "the second run has submitted them")
    tell(scene, "gather")
    assert future.result(timeout=DEADLINE_S) == [f"child-{n}" for n in range(N_CHILDREN)]
    executions = scene.executions()
    assert executions.pop("parent") == executions.pop("submitted") == 2
    assert set(executions.values()) <= {1, 2}, executions


def worker_of(scene: Scene, key: str) -> Any:
    """The process that runs the task, by the leader's account."""
    info = scene.client.scheduler_info(n_workers=-1)["workers"]
    (address,) = [a for a, keys in scene.client.processing().items() if key in keys]
    return scene.cluster.workers[str(info[address]["name"])]


def test_what_a_task_fires_and_forgets_runs_once_though_the_task_is_over(scene: Scene) -> None:
    future = begin(scene, leave_behind)
    kill(scene)
    tell(scene, "submit")
    assert future.result(timeout=DEADLINE_S)
    wait_until(lambda: scene.executions()["child-0"], "a child runs")
    kill(scene)
    wait_until(
        lambda: all(scene.executions()[f"child-{n}"] for n in range(N_CHILDREN)), "all have run"
    )
    late = scene.submit("late")
    assert late.result(timeout=DEADLINE_S) == "late"
    assert set(scene.executions().values()) == {1}
