"""HTTP of a whole cell: those that do not lead say so, and the next leader answers."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

import pytest

from ha_scheduler import LocalHACluster
from tests.system.conftest import DEADLINE_S, new_cluster, wait_until

pytestmark = pytest.mark.system


def fetch(cluster: LocalHACluster, peer: Any, path: str) -> tuple[int, bytes]:
    assert cluster.cell is not None
    url = cluster.cell.dashboard_url(peer.name)
    assert url is not None
    try:
        with urllib.request.urlopen(url.removesuffix("/status") + path, timeout=DEADLINE_S) as page:
            return page.status, page.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_the_leader_alone_answers_for_workers_and_tasks() -> None:
    with (
        new_cluster(n_workers=1, nanny=False, dashboard_address=":0") as cluster,
        cluster.get_client() as client,
    ):
        future = client.submit(abs, -1)
        assert future.result() == 1
        leader = cluster.leader
        followers = [peer for peer in cluster.peers if peer is not leader]
        assert fetch(cluster, leader, "/json/counts.json")[0] == 200
        for peer in followers:
            assert fetch(cluster, peer, "/health") == (200, b"ok")
            assert fetch(cluster, peer, "/json/counts.json")[0] == 503
        leader.kill()
        wait_until(lambda: cluster.leader in followers, "another leads")
        heir = cluster.leader
        wait_until(lambda: fetch(cluster, heir, "/json/counts.json")[0] == 200, "it answers")
        counts = json.loads(fetch(cluster, heir, "/json/counts.json")[1])
        assert (counts["workers"], counts["tasks"], counts["memory"]) == (1, 1, 1)
        (other,) = [peer for peer in followers if peer is not heir]
        assert fetch(cluster, other, "/json/counts.json")[0] == 503
