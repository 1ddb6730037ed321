"""Actors on real processes, counted by files: a leader dies, alone or with the actor's worker."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from tests.system.conftest import DEADLINE_S, Scene, recorded, wait_until

pytestmark = pytest.mark.system


class Tally:
    """An actor that leaves a line for each time that it is made."""

    def __init__(self, directory: str) -> None:
        recorded(directory, "made", 0.0)
        self.value = 0

    def increment(self) -> int:
        self.value += 1
        return self.value

    def pid(self) -> int:
        return os.getpid()


def make(scene: Scene) -> tuple[Any, Any]:
    """An actor, and its future."""
    future = scene.client.submit(Tally, str(scene.directory), actor=True)
    return future.result(timeout=DEADLINE_S), future


def test_an_actor_outlives_the_leader_with_its_state(scene: Scene) -> None:
    actor, _ = make(scene)
    assert actor.increment().result(timeout=DEADLINE_S) == 1
    scene.cluster.leader.kill()
    # A call that the client hands to the dead leader, because it has not noticed, is not repeated.
    assert scene.submit("after").result(timeout=DEADLINE_S) == "after"
    assert actor.increment().result(timeout=DEADLINE_S) == 2
    assert scene.executions() == {"made": 1, "after": 1}


def test_an_actor_whose_worker_dies_with_the_leader_is_lost_and_not_made_anew(scene: Scene) -> None:
    actor, future = make(scene)
    pid = actor.pid().result(timeout=DEADLINE_S)
    scene.cluster.leader.kill()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: future.status == "error", "the client is told")
    with pytest.raises(RuntimeError, match="Worker holding Actor was lost"):
        future.result(timeout=DEADLINE_S)
    assert scene.submit("late").result(timeout=DEADLINE_S) == "late"
    assert scene.executions() == {"made": 1, "late": 1}
