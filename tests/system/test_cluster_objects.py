"""``Cluster`` objects and ``Adaptive`` on a real cell whose leaders die."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ha_scheduler import HACluster
from tests.system.conftest import DEADLINE_S, Scene, wait_until

pytestmark = pytest.mark.system


@pytest.fixture
def n_workers() -> int:
    """Those of the cluster that is attached to the cell are all."""
    return 0


def attached(scene: Scene) -> HACluster:
    return HACluster(scene.cluster.scheduler_address, security=scene.cluster.security)


def kill_peer(scene: Scene) -> None:
    scene.cluster.leader.kill()


def freeze_peer(scene: Scene) -> None:
    scene.cluster.leader.pause()


@pytest.mark.parametrize("blow", [kill_peer, pytest.param(freeze_peer, marks=pytest.mark.slow)])
def test_a_live_adaptive_goes_on_scaling_under_the_next_leader(
    scene: Scene, blow: Callable[[Scene], None]
) -> None:
    with attached(scene) as cluster:
        adaptive = cluster.adapt(minimum=1, maximum=3, interval="100ms", target_duration="1s")
        first = scene.submit("first", 3.0)
        wait_until(lambda: scene.executions()["first"], "a worker came and it runs")
        before = cluster.scheduler_info["address"]
        blow(scene)
        more = [scene.submit(f"more-{n}", 0.5) for n in range(20)]
        wait_until(lambda: len(cluster.observed) == 3, "it has scaled up")
        assert cluster.scheduler_info["address"] != before
        assert scene.client.gather([first, *more]) == ["first", *(f"more-{n}" for n in range(20))]
        assert set(scene.executions().values()) == {1}
        del first, more
        wait_until(lambda: len(cluster.observed) == 1 == len(cluster.plan), "it has scaled down")
        adaptive.stop()


def test_a_worker_that_died_with_the_leader_is_replaced(scene: Scene) -> None:
    with attached(scene) as cluster:
        cluster.scale(2)
        cluster.wait_for_workers(2, timeout=DEADLINE_S)
        scene.cluster.leader.kill()
        nanny = next(iter(cluster.workers.values()))
        nanny.process.process._process.kill()  # the nanny starts another, at another address
        former = nanny.worker_address
        wait_until(
            lambda: (
                len(cluster.scheduler_info["workers"]) == 2
                and former not in cluster.scheduler_info["workers"]
            ),
            "another worker is in its place",
        )
        assert cluster.observed == cluster.requested == cluster.plan
        assert scene.submit("after").result(timeout=DEADLINE_S) == "after"
