"""What a client says without waiting for an answer, while its leader dies at a named moment.

A leader's engine ends itself with SIGKILL when a request has *arrived* (nothing is recorded), when
its record is *appended* (whether it commits, it will not know), or when it has *committed* (and the
client was not told).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import fire_and_forget
from distributed.client import FutureCancelledError

from client_replay import Client
from ha_scheduler.failpoints import VARIABLE
from tests.system.conftest import DEADLINE_S, Scene, new_cluster, wait_until

pytestmark = pytest.mark.system

every_moment = pytest.mark.parametrize(
    "moment",
    [
        "appended",
        pytest.param("arrived", marks=pytest.mark.slow),
        pytest.param("committed", marks=pytest.mark.slow),
    ],
)


class Cell(Scene):
    """A scene whose leaders can be told when to die."""

    def arm(self, op: str, moment: str) -> Path:
        """The engine that next reaches this moment of ``op`` dies."""
        token = self.directory / f"{op}.{moment}"
        token.touch()
        return token


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cell]:
    directory = tmp_path_factory.mktemp("failpoints")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(directory))
        cluster = new_cluster()
    with cluster, cluster.get_client() as client:
        yield Cell(cluster, client, directory)


@pytest.fixture(autouse=True)
def _steady(cell: Cell) -> None:
    """Each test begins with a leader and with somebody to follow it."""
    wait_until(lambda: all(peer.engine_pid for peer in cell.cluster.peers), "all have engines")
    cell.client.submit(int, pure=False).result(timeout=DEADLINE_S)


def wait_for(gate: Path, *inputs: Any) -> str:
    while not gate.exists():
        time.sleep(0.02)
    return gate.name


def gone(token: Path) -> None:
    wait_until(lambda: not token.exists(), f"a leader reached {token.name}")


@every_moment
def test_a_cancellation_is_done_once_and_spares_what_was_submitted_after_it(
    cell: Cell, moment: str
) -> None:
    gate = cell.directory / f"gate-{moment}"
    base = cell.client.submit(int, 1, key=f"base-{moment}")
    assert base.result(timeout=DEADLINE_S) == 1
    pending = cell.client.submit(wait_for, gate, base, key=f"pending-{moment}")
    with Client(cell.cluster, set_as_default=False) as other:
        theirs = other.submit(int, 1, key=f"base-{moment}")
        assert theirs.result(timeout=DEADLINE_S) == 1
        token = cell.arm("cancel-keys", moment)
        cell.client.cancel([base], force=True, reason="no need", msg="any more")
        again = cell.client.submit(int, 2, key=f"base-{moment}")
        gone(token)
        wait_until(lambda: pending.cancelled() and theirs.cancelled(), "all have heard of it")
        for future in (pending, theirs):
            with pytest.raises(FutureCancelledError, match=r"(?s)no need.*any more"):
                future.result(timeout=DEADLINE_S)
        gate.touch()  # a thread that was cancelled is not free before its task is over
        assert again.result(timeout=DEADLINE_S) == 2
        cell.cluster.leader.kill_engine()
        assert cell.client.submit(int, again, pure=False).result(timeout=DEADLINE_S) == 2
        assert not again.cancelled()


@pytest.mark.parametrize("moment", ["arrived", pytest.param("committed", marks=pytest.mark.slow)])
def test_what_shall_run_anyway_is_run_once(cell: Cell, moment: str) -> None:
    future = cell.submit(f"anyway-{moment}", 0.5)
    token = cell.arm("fire-and-forget", moment)
    fire_and_forget(future)
    del future
    gone(token)
    wait_until(lambda: cell.executions()[f"anyway-{moment}"], "it ran")
    cell.client.submit(int, pure=False).result(timeout=DEADLINE_S)
    cell.cluster.leader.kill_engine()
    cell.client.submit(int, pure=False).result(timeout=DEADLINE_S)
    assert cell.executions()[f"anyway-{moment}"] == 1
