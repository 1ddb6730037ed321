"""What a client says without waiting for an answer, while its leader dies at a named moment.

A leader's engine ends itself with SIGKILL when a request has *arrived* (nothing is recorded), when
its record is *appended* (whether it commits, it will not know), or when it has *committed* (and the
client was not told).
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from distributed import fire_and_forget
from distributed.client import FutureCancelledError

from client_replay import Client
from tests.system.conftest import DEADLINE_S, Scene, every_moment, reached, wait_until

pytestmark = pytest.mark.system


def wait_for(gate: Path, *inputs: Any) -> str:
    while not gate.exists():
        time.sleep(0.02)
    return gate.name


@every_moment
def test_a_cancellation_is_done_once_and_spares_what_was_submitted_after_it(
    scene: Scene, moment: str
) -> None:
    gate = scene.directory / f"gate-{moment}"
    base = scene.client.submit(int, 1, key=f"base-{moment}")
    assert base.result(timeout=DEADLINE_S) == 1
    pending = scene.client.submit(wait_for, gate, base, key=f"pending-{moment}")
    with Client(scene.cluster, set_as_default=False) as other:
        theirs = other.submit(int, 1, key=f"base-{moment}")
        assert theirs.result(timeout=DEADLINE_S) == 1
        token = scene.arm(f"cancel-keys.{moment}")
        scene.client.cancel([base], force=True, reason="no need", msg="any more")
        again = scene.client.submit(int, 2, key=f"base-{moment}")
        reached(token)
        wait_until(lambda: pending.cancelled() and theirs.cancelled(), "all have heard of it")
        for future in (pending, theirs):
            with pytest.raises(FutureCancelledError, match=r"(?s)no need.*any more"):
                future.result(timeout=DEADLINE_S)
        gate.touch()  # a thread that was cancelled is not free before its task is over
        assert again.result(timeout=DEADLINE_S) == 2
        scene.cluster.leader.kill_engine()
        assert scene.client.submit(int, again, pure=False).result(timeout=DEADLINE_S) == 2
        assert not again.cancelled()


@pytest.mark.parametrize("moment", ["arrived", pytest.param("committed", marks=pytest.mark.slow)])
def test_what_shall_run_anyway_is_run_once(scene: Scene, moment: str) -> None:
    future = scene.submit(f"anyway-{moment}", 0.5)
    token = scene.arm(f"fire-and-forget.{moment}")
    fire_and_forget(future)
    del future
    reached(token)
    wait_until(lambda: scene.executions()[f"anyway-{moment}"], "it ran")
    scene.client.submit(int, pure=False).result(timeout=DEADLINE_S)
    scene.cluster.leader.kill_engine()
    scene.client.submit(int, pure=False).result(timeout=DEADLINE_S)
    assert scene.executions()[f"anyway-{moment}"] == 1
