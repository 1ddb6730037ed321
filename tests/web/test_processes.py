"""HTTP of engines and workers: TLS and a login where they serve a cell, loopback where not."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask
import distributed
import pytest
from distributed import Security
from tornado.httpclient import AsyncHTTPClient, HTTPResponse

from ha_scheduler.comm import http
from ha_scheduler.comm.dashboard_link import dashboard_link
from ha_scheduler.deploy.ports import free_ports
from ha_scheduler.engine.scheduler import Scheduler
from ha_scheduler.protocol.client import Welcome
from ha_scheduler.security.authority import client_files, engine_files
from ha_scheduler.worker import preload
from ha_scheduler.worker.worker import Worker
from tests.certificates import issue, security_of
from tests.deadlines import SCALE
from tests.engine.conftest import KeptLog
from tests.web import tokens

CELL = Welcome(0, "cell", "a", addresses=("tls://127.0.0.1:1",))


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return issue(tmp_path_factory.mktemp("certs"), "a")


async def fetch(
    certificates: Path, server: Any, path: str, token: str | None = None, **more: Any
) -> HTTPResponse:
    trust = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
    trust.check_hostname = False
    headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
    url = f"https://127.0.0.1:{server.http_server.port}{path}"
    return await AsyncHTTPClient().fetch(
        url, headers=headers, ssl_options=trust, raise_error=False, **more
    )


@asynccontextmanager
async def leading_engine(certificates: Path, **options: Any) -> AsyncIterator[Scheduler]:
    security = security_of(engine_files(certificates, "a"))
    options = {"dashboard": False, "dashboard_address": ":0", "cell": CELL, **options}
    engine = Scheduler(host="127.0.0.1", protocol="tls://", security=security, **options)
    engine.callers.take(tokens.ring().ring)
    engine.prepare_to_lead(1, KeptLog(), lambda phase, detail: None)
    engine.recovery.begin([])
    try:
        yield engine
    finally:
        engine.http_server.stop()


async def test_an_engine_of_a_cell_serves_http_by_tls_to_who_has_a_token(
    certificates: Path,
) -> None:
    async with leading_engine(certificates) as engine:
        assert (await fetch(certificates, engine, "/health")).code == 200
        for path in ("/metrics", "/json/counts.json", "/info/main/logs.html", "/api/v1"):
            assert (await fetch(certificates, engine, path)).code == 401
            for role in ("observer", "client", "admin"):
                found = await fetch(certificates, engine, path, tokens.token(role))
                assert found.code == 200, (path, role, found.body)
        for role, code in (("observer", 403), ("client", 200)):
            found = await fetch(
                certificates,
                engine,
                "/api/v1/retire_workers",
                tokens.token(role),
                method="POST",
                body='{"workers": []}',
            )
            assert found.code == code
        with pytest.raises(Exception):  # noqa: B017  # of several libraries: there is no plaintext
            await AsyncHTTPClient().fetch(f"http://127.0.0.1:{engine.http_server.port}/health")


async def test_a_follower_tells_a_stranger_nothing_of_the_cell(certificates: Path) -> None:
    lost = SimpleNamespace(valid=lambda: False)
    async with leading_engine(certificates, lease=lost) as engine:
        page = await fetch(certificates, engine, "/json/counts.json")
        assert (page.code, b"lead" in page.body) == (401, False)
        held = tokens.token("observer")
        assert (await fetch(certificates, engine, "/json/counts.json", held)).code == 503


async def test_it_listens_at_all_addresses_only_with_tls_and_a_ring(certificates: Path) -> None:
    async with leading_engine(certificates) as engine:
        assert engine.http_server.address == "0.0.0.0"
    async with leading_engine(certificates, cell=None) as alone:
        assert alone.http_server.address == "127.0.0.1"
        assert (await fetch(certificates, alone, "/json/counts.json")).code == 200
    for given in (":0", "0.0.0.0:0", "[::]:0", "localhost:0"):
        plain = Scheduler(host="127.0.0.1", dashboard_address=given, cell=CELL)
        assert plain.http_server.address == "127.0.0.1", given
        plain.http_server.stop()
    plain = Scheduler(host="127.0.0.1", dashboard_address="[::1]:0")
    assert plain.http_server.address == "::1"
    plain.http_server.stop()


async def test_a_certificate_for_browsers_is_served_where_one_is_configured(
    certificates: Path,
) -> None:
    other = client_files(certificates)
    files = {"cert": str(other.cert_file), "key": str(other.key_file)}
    with dask.config.set({f"distributed.scheduler.dashboard.tls.{k}": v for k, v in files.items()}):
        async with leading_engine(certificates) as engine:
            pem = await asyncio.to_thread(
                ssl.get_server_certificate, ("127.0.0.1", engine.http_server.port)
            )
    assert pem.strip() in other.cert_file.read_text()


@asynccontextmanager
async def worker_that_looks_for_its_leader(made: Any) -> AsyncIterator[Any]:
    """A worker whose HTTP server is up; it has joined no cell yet."""
    starting = asyncio.ensure_future(made.start())
    try:
        async with asyncio.timeout(10 * SCALE):
            while getattr(made, "http_server", None) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        yield made
    finally:
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await made.close(timeout=0)


@pytest.mark.parametrize("kind", ["ours", "plain at ha://", "plain with the preload"])
async def test_a_worker_of_a_cell_asks_for_a_token_from_the_start(
    certificates: Path, kind: str
) -> None:
    (port,) = free_ports("127.0.0.1", 1)
    options: dict[str, Any] = {"security": security_of(client_files(certificates))}
    options |= {"dashboard": True, "dashboard_address": ":0", "nthreads": 1}
    if kind == "ours":
        made: Any = Worker(f"ha://127.0.0.1:{port}", **options)
    elif kind == "plain at ha://":
        made = distributed.Worker(f"ha://127.0.0.1:{port}", protocol="tls", **options)
    else:
        options["preload"] = [preload.__name__]
        made = distributed.Worker(f"tls://127.0.0.1:{port}", **options)
    async with worker_that_looks_for_its_leader(made) as worker:
        assert (await fetch(certificates, worker, "/health")).code == 200
        held = tokens.token("observer")
        assert (await fetch(certificates, worker, "/metrics")).code == 401
        assert (await fetch(certificates, worker, "/metrics", held)).code == 503  # no ring yet
        worker.callers = SimpleNamespace(ring=tokens.ring())  # as of a daemon that it watches
        assert (await fetch(certificates, worker, "/metrics", held)).code == 200
        assert (await fetch(certificates, worker, "/status")).code == 401
        page = await fetch(certificates, worker, "/status", held)
        assert page.code == 200, page.body


async def test_a_worker_of_no_cell_is_left_as_it_is() -> None:
    async with (
        distributed.Scheduler(port=0, dashboard_address=":0", host="127.0.0.1") as plain,
        distributed.Worker(plain.address, dashboard_address=":0", nthreads=1) as worker,
    ):
        url = f"http://127.0.0.1:{worker.http_server.port}/metrics"
        assert (await AsyncHTTPClient().fetch(url)).code == 200
        assert not hasattr(worker.http_server, "guard")
        assert plain.http_server.address == "0.0.0.0"


async def test_a_pair_in_memory_serves_loopback_alone() -> None:
    server = SimpleNamespace(
        security=Security.temporary(), cell=CELL, scheduler=None, serves_a_cell=True
    )
    assert http.files_of(server) is None
    assert http.ring_of(server) is None


@pytest.mark.parametrize(
    ("address", "found"),
    [
        (":8787", [("", 8787)]),
        ("8787", [("", 8787)]),
        ("10.0.0.1:8787", [("10.0.0.1", 8787)]),
        ("[::1]:8787", [("::1", 8787)]),
        (":1,[fd77::1]:2", [("", 1), ("fd77::1", 2)]),
        (None, [("", 8787)]),
        (0, [("", 8787)]),
    ],
)
def test_addresses_of_dashboards_are_read(address: Any, found: list[tuple[str, int]]) -> None:
    assert http.places(address, 8787) == found


@pytest.mark.parametrize(
    ("scheduler", "link"),
    [
        ("tls://10.0.0.1:8786", "https://10.0.0.1:8787/status"),
        ("tcp://127.0.0.1:8786", "http://127.0.0.1:8787/status"),
        ("tls://[fd77::1]:8786", "https://[fd77::1]:8787/status"),
    ],
)
def test_the_link_to_a_dashboard_is_as_the_dask_port_is(scheduler: str, link: str) -> None:
    assert dashboard_link(scheduler, 8787) == link
