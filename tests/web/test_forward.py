"""The door on this machine to the dashboard of whoever leads."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPRequest, HTTPResponse
from tornado.httpserver import HTTPServer
from tornado.websocket import websocket_connect

from ha_scheduler.security.authority import client_files
from ha_scheduler.security.contexts import client_context
from ha_scheduler.web import forward
from ha_scheduler.web.server import bind
from tests.certificates import issue
from tests.web import tokens
from tests.web.test_guard import UPGRADE, serving


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return issue(tmp_path_factory.mktemp("certs"), "a")


class Door:
    def __init__(self, certificates: Path, role: str = "client") -> None:
        self.leader = ""  # the URL of its dashboard
        trust, held = client_context(client_files(certificates)), tokens.token(role).encode()
        found = forward.Leader(self._find, lambda: held, trust)
        application, self.secret = forward.door(found)
        sock = bind("127.0.0.1", 0)
        sock.listen()
        self.origin = f"http://127.0.0.1:{sock.getsockname()[1]}"
        self.server = HTTPServer(application)
        self.server.add_sockets([sock])

    async def _find(self) -> str:
        return self.leader

    async def fetch(self, path: str, secret: str | None = None, **more: Any) -> HTTPResponse:
        secret = self.secret if secret is None else secret
        url = f"{self.origin}/{secret}{path}"
        return await AsyncHTTPClient().fetch(url, raise_error=False, follow_redirects=False, **more)


@asynccontextmanager
async def opened(certificates: Path, role: str = "client") -> AsyncIterator[Door]:
    door = Door(certificates, role)
    try:
        yield door
    finally:
        door.server.stop()
        await door.server.close_all_connections()


async def test_a_browser_without_a_token_sees_the_dashboard_through_the_door(
    certificates: Path,
) -> None:
    with serving(certificates) as server:
        async with opened(certificates) as door:
            door.leader = server.url
            page = await door.fetch("/status")
            assert (page.code, page.body) == (200, b"the page")
            assert (await door.fetch("/info/main/workers.html")).code == 200
            assert (await door.fetch("/nowhere")).code == 404
            retired = await door.fetch("/api/v1/retire_workers", method="POST", body="{}")
            assert (retired.code, retired.body) == (200, b"retired")


async def test_who_does_not_know_the_path_finds_nothing(certificates: Path) -> None:
    with serving(certificates) as server:
        async with opened(certificates) as door:
            door.leader = server.url
            for secret in ("", "x", door.secret[:-1], door.secret + "x"):
                assert (await door.fetch("/status", secret)).code == 404


async def test_a_page_of_another_site_does_nothing_through_the_door(certificates: Path) -> None:
    with serving(certificates) as server:
        async with opened(certificates) as door:
            door.leader = server.url
            evil = {"Origin": "http://evil.example"}
            assert (await door.fetch("/status/ws", headers=UPGRADE | evil)).code == 403
            path, body = "/api/v1/retire_workers", {"method": "POST", "body": "{}"}
            assert (await door.fetch(path, headers=evil, **body)).code == 403


async def test_a_web_socket_goes_both_ways(certificates: Path) -> None:
    with serving(certificates) as server:
        async with opened(certificates) as door:
            door.leader = server.url
            url = f"{door.origin}/{door.secret}/status/ws".replace("http", "ws")
            request = HTTPRequest(url, headers={"Origin": door.origin})
            ws = await websocket_connect(request)
            assert await ws.read_message() == "hello"
            ws.close()
            assert await ws.read_message() is None


async def test_the_door_leads_to_the_next_leader(
    certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward, "LOOK_AGAIN_S", 0.0)
    async with opened(certificates) as door:
        assert (await door.fetch("/status")).code == 503  # nobody leads
        with serving(certificates) as server:
            door.leader = server.url
            assert (await door.fetch("/status")).code == 200
        with serving(certificates) as heir:
            door.leader = heir.url
            assert (await door.fetch("/status")).code == 200


async def test_it_shows_no_more_than_its_token_does(certificates: Path) -> None:
    with serving(certificates) as server:
        async with opened(certificates, "observer") as door:
            door.leader = server.url
            assert (await door.fetch("/status")).code == 200
            path, body = "/api/v1/retire_workers", {"method": "POST", "body": "{}"}
            assert (await door.fetch(path, **body)).code == 403
