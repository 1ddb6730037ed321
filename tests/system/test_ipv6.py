"""A cell whose peers, workers and clients have IPv6 addresses alone."""

from __future__ import annotations

import pytest

from ha_scheduler import LocalHACluster
from ha_scheduler.comm.address import parse
from ha_scheduler.deploy.cell import is_serving
from tests.system.conftest import LEADER_TIMEOUT_S, new_cluster, wait_until


@pytest.mark.slow
def test_a_cell_of_ipv6_survives_its_leader() -> None:
    cluster: LocalHACluster
    with new_cluster(host="::1", n_workers=1, nanny=False) as cluster:
        assert cluster.scheduler_address.startswith("ha://[::1]:")
        with cluster.get_client() as client:
            before = client.submit(lambda: 1)
            assert before.result(timeout=LEADER_TIMEOUT_S) == 1
            former = cluster.leader
            former.kill()
            assert client.submit(lambda x: x + 1, before).result(timeout=LEADER_TIMEOUT_S) == 2
            # What leaders name each other and those that watch is in brackets, too.
            (worker,) = client.scheduler_info()["workers"]
            assert worker.startswith("tls://[::1]:")
            wait_until(lambda: cluster.leader.name != former.name, "another leads")
            assert cluster.cell is not None
            status = cluster.cell.control.status(cluster.leader.name)
            assert is_serving(status)
            assert parse(status.address)[0].host == "::1"
            followed = client._ha.follower.directory
            assert {peer.host for peer in followed.peers} == {"::1"}
