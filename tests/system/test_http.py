"""HTTP of a whole cell: those that do not lead say so, and the next leader answers."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from ha_scheduler import LocalHACluster
from tests.security.test_canaries import held
from tests.system.conftest import DEADLINE_S, new_cluster, wait_until

pytestmark = pytest.mark.system


def fetch(
    cluster: LocalHACluster,
    peer: Any,
    path: str,
    headers: dict[str, str] | None = None,
    with_token: bool = True,
) -> tuple[int, bytes]:
    assert cluster.cell is not None
    url = cluster.cell.dashboard_url(peer.name)
    assert url is not None
    assert cluster.cell.certificates is not None
    trust = ssl.create_default_context(cafile=str(cluster.cell.certificates / "ca.pem"))
    token = (cluster.cell.certificates / "client.token").read_text().strip()
    given = {"Authorization": f"Bearer {token}"} if with_token else {}
    request = urllib.request.Request(
        url.removesuffix("/status") + path, headers={**given, **(headers or {})}
    )
    try:
        with urllib.request.urlopen(request, timeout=DEADLINE_S, context=trust) as page:
            return page.status, page.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def page(cluster: LocalHACluster, peer: Any) -> str:
    """What a browser shows of a follower."""
    code, body = fetch(cluster, peer, "/status", {"Accept": "text/html"})
    assert code == 503
    assert f"{peer.name} is a follower" in body.decode()
    return body.decode()


def dashboard_of(cluster: LocalHACluster, peer: Any) -> str:
    assert cluster.cell is not None
    return str(cluster.cell.dashboard_url(peer.name))


SHOWN = ("/status", "/json/counts.json", "/metrics", "/info/main/logs.html")
OF_WORKERS = ("/info/main/workers.html", "/info/logs/{}.html", "/info/worker/{}.html")


def shown(cluster: LocalHACluster, client: Any, directory: Path) -> str:
    """The cluster dump and the pages of the leader, on which worker and scheduler log."""
    client.dump_cluster_state(str(directory / "dump"), format="yaml")
    (worker,) = client.scheduler_info()["workers"]
    of_worker = [path.format(urllib.parse.quote_plus(worker)) for path in OF_WORKERS]
    pages = [fetch(cluster, cluster.leader, path) for path in (*SHOWN, *of_worker)]
    assert [(code, body[:300]) for code, body in pages if code != 200] == []
    dump = (directory / "dump.yaml").read_text()
    assert "workers:" in dump
    return "\n".join((dump, *(body.decode() for _, body in pages)))


def test_the_leader_alone_answers_for_workers_and_tasks(tmp_path: Path) -> None:
    with (
        new_cluster(n_workers=1, nanny=False, dashboard_address=":0") as cluster,
        cluster.get_client() as client,
    ):
        future = client.submit(abs, -1)
        assert future.result() == 1
        leader = cluster.leader
        followers = [peer for peer in cluster.peers if peer is not leader]
        link = f'href="{cluster.dashboard_link}"'
        assert cluster.dashboard_link == client.dashboard_link == dashboard_of(cluster, leader)
        assert fetch(cluster, leader, "/json/counts.json")[0] == 200
        assert held(shown(cluster, client, tmp_path), cluster.cell.certificates) == []
        for path in ("/json/counts.json", "/metrics", "/status", "/info/main/workers.html"):
            assert fetch(cluster, leader, path, with_token=False)[0] == 401
        for peer in followers:
            assert fetch(cluster, peer, "/health") == (200, b"ok")
            assert fetch(cluster, peer, "/json/counts.json")[0] == 503
            wait_until(
                lambda peer=peer: link in page(cluster, peer), "its page leads to the leader"
            )
        leader.kill()
        wait_until(lambda: cluster.leader in followers, "another leads")
        heir = cluster.leader
        wait_until(lambda: fetch(cluster, heir, "/json/counts.json")[0] == 200, "it answers")
        counts = json.loads(fetch(cluster, heir, "/json/counts.json")[1])
        assert (counts["workers"], counts["tasks"], counts["memory"]) == (1, 1, 1)
        link = f'href="{dashboard_of(cluster, heir)}"'
        wait_until(lambda: client.dashboard_link == dashboard_of(cluster, heir), "the link follows")
        (other,) = [peer for peer in followers if peer is not heir]
        assert fetch(cluster, other, "/json/counts.json")[0] == 503
        wait_until(lambda: link in page(cluster, other), "its page leads to the next leader")
