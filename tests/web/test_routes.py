"""The daemon's port of HTTP: each answer, its code, and that it is as the description says."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import given, settings
from msgspec.structs import replace
from schemathesis.checks import not_a_server_error
from tornado.httpclient import AsyncHTTPClient, HTTPResponse

from ha_scheduler.peer.operators.metrics import Facts, Metrics
from ha_scheduler.protocol.control import EngineStatus, Order, Status
from ha_scheduler.protocol.peer import Failover
from ha_scheduler.security.authority import peer_files
from ha_scheduler.web.routes import PAGES, NotCurrent, Source, description
from ha_scheduler.web.server import Server, bind
from tests.certificates import issue
from tests.web import tokens
from tests.web.test_conditions import FOLLOWER, LEADER

FACTS = Facts(4, 2**20, 2**30, 1, True, {"peer-a.pem": 2e9}, (2e9, 1e9))
FAILOVER = Failover(3, "b", 1.7e9, {"detected": 0.0, "serving": 0.4}, {"serving": {"n": 1}})
CHECKS = ("/health", "/ready", "/leader", "/follower")


class Peer:
    """A server of HTTP in a thread of its own; its status may be changed."""

    def __init__(self, certificates: Path) -> None:
        self.files = peer_files(certificates, "a")
        self.trust = ssl.create_default_context(cafile=str(self.files.ca_file))
        self.status = FOLLOWER
        self.dashboard = ""
        self.current = True
        self._up = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        self._up.wait()

    async def _current(self) -> None:
        if not self.current:
            raise NotCurrent("no quorum")

    async def _serve(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        sock = bind("127.0.0.1", 0)
        self.url = f"https://127.0.0.1:{sock.getsockname()[1]}"
        ring = tokens.ring()
        server = Server(sock, self.files, lambda: ring)
        metrics = Metrics(lambda: self.status, lambda: FACTS)
        server.start(
            Source(
                lambda: self.status,
                lambda: (FAILOVER,),
                metrics.text,
                lambda: self.dashboard,
                self._current,
            )
        )
        self._up.set()
        await self._over.wait()
        await server.stop()

    def end(self) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    async def fetch(self, path: str, method: str = "GET", role: str = "") -> HTTPResponse:
        """``role``: of the token that is shown; none if it is empty."""
        headers = {"Authorization": f"Bearer {tokens.token(role)}"} if role else {}
        body = b"" if method in ("POST", "PUT", "PATCH") else None
        return await AsyncHTTPClient().fetch(
            self.url + path,
            method=method,
            body=body,
            headers=headers,
            ssl_options=self.trust,
            raise_error=False,
            follow_redirects=False,
        )


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    made = Peer(issue(tmp_path_factory.mktemp("certs"), "a"))
    yield made
    made.end()


NOBODY_LEADS = replace(FOLLOWER, leader=None, role="candidate")


@pytest.mark.parametrize(
    ("status", "codes"),
    [
        (LEADER, (200, 200, 200, 503)),
        (FOLLOWER, (200, 200, 503, 200)),
        (NOBODY_LEADS, (200, 503, 503, 503)),
        (replace(LEADER, lease_s=0.0), (200, 200, 503, 503)),
    ],
    ids=["leader", "follower", "nobody leads", "leader whose lease is over"],
)
async def test_each_check_says_yes_or_no_and_nothing_else(
    peer: Peer, status: Status, codes: tuple[int, ...]
) -> None:
    peer.status = status
    for path, code in zip(CHECKS, codes, strict=True):
        answer = await peer.fetch(path)
        told = json.loads(answer.body)
        assert (path, answer.code) == (path, code)
        if path == "/health":
            assert told == {"up": True, "leader": codes[2] == 200}
        else:
            assert told == {path[1:]: code == 200}
        assert ("Retry-After" in answer.headers) == (code == 503)
        head = await peer.fetch(path, "HEAD")
        assert (head.code, head.body) == (code, b"")


async def test_the_cell_and_its_history_are_told(peer: Peer) -> None:
    peer.status, peer.dashboard = replace(FOLLOWER, commit=5000), "https://b:8787"
    cell = json.loads((await peer.fetch("/cell", role="observer")).body)
    assert (cell["name"], cell["leader"], cell["is_ready"]) == ("a", "b", False)
    assert "4900 entries" in cell["unready"]
    assert cell["leader_dashboard"] == "https://b:8787"
    (told,) = json.loads((await peer.fetch("/history", role="client")).body)["failovers"]
    assert (told["term"], told["phases"]["serving"]) == (3, 0.4)


async def test_a_standby_leads_to_the_dashboard_of_the_leader(peer: Peer) -> None:
    peer.dashboard = "https://10.0.0.2:8787"
    answer = await peer.fetch("/dashboard", role="observer")
    assert (answer.code, answer.headers["Location"]) == (307, "https://10.0.0.2:8787/status")
    peer.dashboard = ""
    assert (await peer.fetch("/dashboard", role="observer")).code == 503


async def test_what_there_is_not_is_refused(peer: Peer) -> None:
    assert (await peer.fetch("/", role="observer")).code == 404
    assert (await peer.fetch("/status", role="observer")).code == 404
    for path in PAGES:
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            assert (await peer.fetch(path, method, "admin")).code == 405, (path, method)


@pytest.mark.parametrize("path", ["/cell", "/history", "/metrics", "/dashboard", "/", "/x"])
async def test_more_than_yes_and_no_takes_a_token(peer: Peer, path: str) -> None:
    peer.status, peer.dashboard = LEADER, "https://10.0.0.2:8787"
    answer = await peer.fetch(path)
    assert answer.code == 401
    assert b"10.0.0.2" not in answer.body
    assert (await peer.fetch(path, role="join")).code == 403
    for role in ("observer", "client", "worker", "admin"):
        assert (await peer.fetch(path, role=role)).code in (200, 307, 404)


async def test_the_metrics_are_in_prometheus_format_and_have_values(peer: Peer) -> None:
    peer.status = replace(LEADER, history_tail=(FAILOVER,))
    answer = await peer.fetch("/metrics", role="observer")
    text = answer.body.decode()
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    for line in (
        'dask_ha_role{role="leader"} 1.0',
        "dask_ha_leader 1.0",
        "dask_ha_term 3.0",
        "dask_ha_transitions_total 4.0",
        "dask_ha_commit_index 100.0",
        'dask_ha_failover_phase_seconds{phase="serving"} 0.4',
        'dask_ha_certificate_expiry_timestamp_seconds{certificate="peer-a.pem"} 2e+09',
        "dask_ha_tokens_valid 1.0",
        "dask_ha_vip_owner 1.0",
        "dask_ha_fsync_duration_seconds_count 0.0",
    ):
        assert line in text, line


async def test_the_metrics_tell_of_orders_and_of_engines_that_fail(peer: Peer) -> None:
    orders = (
        Order("", 2_000_000_000, "root", 1),
        Order("b", 0, "root", 1),
        Order("gone", 0, "", 1),
    )
    failing = EngineStatus("starting", 7, "", 0, 0.0, failing="exit status 1")
    peer.status = replace(LEADER, maintenance=orders, engine=failing, ledgers_differ=("b",))
    told = (await peer.fetch("/metrics", role="observer")).body.decode().splitlines()
    for line in (
        "dask_ha_failover_off 1.0",
        "dask_ha_failover_off_until_timestamp_seconds 2e+09",
        'dask_ha_peer_drained{peer="a"} 0.0',
        'dask_ha_peer_drained{peer="b"} 1.0',
        "dask_ha_engine_failing 1.0",
        "dask_ha_ledgers_differing 1.0",
    ):
        assert line in told, line
    assert not [line for line in told if "gone" in line], "a peer that was removed is not drained"
    peer.status = LEADER
    told = (await peer.fetch("/metrics", role="observer")).body.decode().splitlines()
    quiet = ("failover_off", "failover_off_until_timestamp_seconds", "engine_failing")
    assert {f"dask_ha_{name} 0.0" for name in quiet} <= set(told)
    assert 'dask_ha_peer_drained{peer="b"} 0.0' in told


schema: Any = schemathesis.openapi.from_dict(json.loads(description()))


def test_the_description_has_every_route_and_no_other() -> None:
    assert set(json.loads(description())["paths"]) == set(PAGES)


@pytest.mark.parametrize("status", [LEADER, NOBODY_LEADS], ids=["leads", "nobody leads"])
@pytest.mark.parametrize("path", PAGES)
def test_every_answer_is_as_the_description_says(peer: Peer, path: str, status: Status) -> None:
    """Also to requests that the description does not allow; see schemathesis."""
    peer.status, peer.dashboard = status, "https://b:8787" if status.leader else ""

    @_generated(path)
    def each(case: Any) -> None:
        case.call_and_validate(
            base_url=peer.url,
            headers={"Authorization": f"Bearer {tokens.token('observer')}"},
            verify=str(peer.files.ca_file),
            allow_redirects=False,
            excluded_checks=[not_a_server_error],
        )  # 503 is an answer here; that each code is a described one is checked

    each()


def _generated(path: str) -> Callable[[Any], Any]:
    strategy = schema[path]["GET"].as_strategy()

    def decorate(test: Any) -> Any:
        checked = settings(max_examples=3, deadline=None, database=None)
        return checked(given(case=strategy)(test))

    return decorate


@pytest.mark.parametrize("path", ["/cell", "/history"])
async def test_what_is_to_be_current_and_is_not_confirmed_is_unavailable(
    peer: Peer, path: str
) -> None:
    linearizable = f"{path}?consistency=linearizable"
    peer.current = False
    assert (await peer.fetch(path, role="observer")).code == 200
    refused = await peer.fetch(linearizable, role="observer")
    assert (refused.code, json.loads(refused.body)) == (503, {"error": "no quorum"})
    peer.current = True
    assert (await peer.fetch(linearizable, role="observer")).code == 200
    assert (await peer.fetch(linearizable, "HEAD", role="observer")).code == 200
