"""What is answered over HTTP before, while and after nobody leads."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPResponse

from ha_scheduler.engine.scheduler import Scheduler
from ha_scheduler.protocol.client import Welcome
from tests.engine.conftest import KeptLog, Pair, end, follow, pair
from tests.engine.counted import begin, blocked, gate, work
from tests.web.test_guard import UPGRADE

#: Routes about workers and tasks: a leader alone answers for them.
OF_THE_LEADER = [
    *("/info", "/info/main/workers.html", "/info/main/exceptions.html", "/info/main/logs.html"),
    *("/info/worker/{worker}.html", "/info/logs/{worker}.html", "/info/task/x.html"),
    *("/info/call-stacks/{worker}.html", "/info/call-stack/running.html"),
    *("/json/counts.json", "/json/index.html"),
    *("/individual-plots.json", "/status", "/workers"),
    *("/api/v1", "/api/v1/get_workers", "/api/v1/adaptive_target", "/api/v1/check_idle"),
]
#: It fails when workers have told of tasks, with upstream as well: metrics are named by tuples.
IDENTITY = "/json/identity.json"
OF_THE_PROCESS = ["/health", "/metrics", "/statics/css/base.css"]


@pytest.fixture(autouse=True)
def _gates() -> None:
    begin()


async def fetch(scheduler: Scheduler, path: str, **request: Any) -> HTTPResponse:
    url = f"http://127.0.0.1:{scheduler.http_server.port}{path}"
    return await AsyncHTTPClient().fetch(url, raise_error=False, **request)


async def codes(scheduler: Scheduler, paths: list[str], worker: str) -> dict[str, int]:
    name = quote(worker, safe="")
    return {path: (await fetch(scheduler, path.format(worker=name))).code for path in paths}


@asynccontextmanager
async def furnished() -> AsyncIterator[tuple[Pair, str]]:
    async with pair(dashboard=True) as both:
        held = both.client.submit(work, 1, key="x")
        await held
        running = both.client.submit(blocked, 2, key="running")
        try:
            yield both, both.workers[0].address
        finally:
            gate.set()
            await running
            del held


async def test_every_page_is_answered_by_the_next_leader_as_by_the_former() -> None:
    async with furnished() as (both, worker):
        before = await codes(both.leader, OF_THE_LEADER + OF_THE_PROCESS, worker)
        assert set(before.values()) == {200}
        workers = (await fetch(both.leader, "/api/v1/get_workers")).body
        await both.kill_leader()
        leader = await both.take_over()
        assert await codes(leader, OF_THE_LEADER + OF_THE_PROCESS, worker) == before
        assert json.loads((await fetch(leader, "/api/v1/get_workers")).body) == json.loads(workers)
        counts = json.loads((await fetch(leader, "/json/counts.json")).body)
        assert (counts["workers"], counts["tasks"], counts["memory"]) == (2, 2, 1)


async def test_a_peer_that_does_not_lead_answers_for_its_process_alone() -> None:
    async with furnished() as (both, worker):
        follower = follow(both.log.records)
        assert set((await codes(follower, [*OF_THE_LEADER, IDENTITY], worker)).values()) == {503}
        assert set((await codes(follower, OF_THE_PROCESS, worker)).values()) == {200}
        answer = await fetch(
            follower, "/api/v1/retire_workers", method="POST", body='{"workers": ["x"]}'
        )
        assert answer.code == 503
        assert b"does not lead" in answer.body
        assert answer.headers["Retry-After"] == "1"
        await end(follower)


async def test_a_page_of_a_follower_says_so_and_leads_to_the_leader() -> None:
    follower = Scheduler(
        host="127.0.0.1", dashboard_address=":0", cell=Welcome(0, "cell", "peer-b")
    )
    pages = ["/", "/status", "/workers", "/info/main/workers.html", "/individual-progress"]
    for path in pages:
        page = await fetch(follower, path, headers={"Accept": "text/html"})
        assert (page.code, page.headers["Refresh"]) == (503, "5")
        assert b"peer-b is a follower" in page.body
        assert b"knows no leader" in page.body
    follower.known_leader = "a<b", "https://10.0.0.1:8787"
    page = await fetch(follower, "/status", headers={"Accept": "text/html"})
    assert b'<a href="https://10.0.0.1:8787/status">a&lt;b' in page.body
    script = await fetch(follower, "/api/v1/adaptive_target")
    assert b"Peer a<b leads, at https://10.0.0.1:8787." in script.body
    # A page that was open at a former leader must not be drawn again, and empty.
    socket = await fetch(follower, "/status/ws", headers=UPGRADE)
    assert socket.code == 503
    # By this JupyterLab's extension takes a dashboard for one.
    assert (await fetch(follower, "/individual-plots.json")).code == 503
    await end(follower)


async def test_all_paths_are_listed_with_a_dashboard_too() -> None:
    async with pair(dashboard=True) as both:
        answer = await fetch(both.leader, "/sitemap.json")
        paths = set(json.loads(answer.body)["paths"])
        assert {"/status", "/info/main/workers.html", "/api/v1/retire_workers"} <= paths


async def test_the_dashboard_of_a_worker_is_where_the_worker_is_and_nowhere_else() -> None:
    async with furnished() as (both, worker):
        ((host, port),) = [
            (ws.host, ws.services["dashboard"])
            for ws in both.leader.workers.values()
            if ws.address == worker
        ]
        page = await fetch(both.leader, f"/proxy/{port}/{host}/status", follow_redirects=False)
        assert (page.code, page.headers["Location"]) == (302, f"http://{host}:{port}/status")
        for place in (f"{port}/10.0.0.1", f"22/{host}"):
            assert (
                await fetch(both.leader, f"/proxy/{place}/", follow_redirects=False)
            ).code == 404
        assert (await fetch(both.leader, f"/proxy/22/{host}/ws", headers=UPGRADE)).code == 404


async def test_a_leader_that_recovers_or_is_not_certain_to_lead_answers_for_nobody() -> None:
    class Lease:
        held = True

        def valid(self) -> bool:
            return self.held

    lease = Lease()
    leader = Scheduler(host="127.0.0.1", dashboard_address=":0", lease=lease)
    assert (await fetch(leader, "/api/v1/get_workers")).code == 503
    leader.prepare_to_lead(1, KeptLog(), lambda phase, detail: None)
    leader.recovery.begin([])
    assert (await fetch(leader, "/api/v1/get_workers")).code == 200
    lease.held = False
    assert (await fetch(leader, "/api/v1/get_workers")).code == 503
    await end(leader)


async def test_routes_with_a_prefix_are_the_leaders_alone_as_well() -> None:
    follower = Scheduler(host="127.0.0.1", dashboard_address=":0", http_prefix="/dask")
    assert (await fetch(follower, "/dask/api/v1/get_workers")).code == 503
    assert (await fetch(follower, "/dask/health")).code == 200
    await end(follower)


async def test_workers_can_be_retired_over_http_under_the_next_leader() -> None:
    async with furnished() as (both, worker):
        await both.kill_leader()
        leader = await both.take_over()
        gate.set()
        body = json.dumps({"workers": [worker]})
        answer = await fetch(leader, "/api/v1/retire_workers", method="POST", body=body)
        assert list(json.loads(answer.body)) == [worker]
        assert set(leader.workers) == {both.workers[1].address}


async def test_metrics_are_those_of_the_present_leader() -> None:
    async with furnished() as (both, _):
        await both.kill_leader()
        leader = await both.take_over()
        metrics = (await fetch(leader, "/metrics")).body.decode()
        assert "dask_scheduler_desired_workers" in metrics
        assert 'dask_scheduler_tasks{state="memory"} 1.0' in metrics
        assert 'dask_ha_engine_adopted_tasks_total{what="result"} 1.0' in metrics
        assert "dask_ha_engine_sessions 1.0" in metrics
        assert "dask_ha_engine_recovered 1.0" in metrics


async def test_a_task_that_is_tried_again_is_counted_as_one_that_is_run_again() -> None:
    async with pair() as both:
        future = both.client.submit(lambda: 1 / 0, retries=2)
        assert isinstance(await future.exception(), ZeroDivisionError)
        metrics = (await fetch(both.leader, "/metrics")).body.decode()
        assert "dask_ha_engine_rerun_tasks_total 2.0" in metrics


async def test_the_dashboard_of_the_next_leader_shows_its_state() -> None:
    pytest.importorskip("bokeh")
    async with furnished() as (both, worker):
        pages = ["/status", "/workers", "/tasks", "/individual-progress"]
        before = await codes(both.leader, pages, worker)
        await both.kill_leader()
        leader = await both.take_over()
        assert await codes(leader, pages, worker) == before == dict.fromkeys(pages, 200)
