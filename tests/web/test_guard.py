"""Who gets past the guard of an HTTP server, over real TLS."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPRequest, HTTPResponse
from tornado.web import Application, RequestHandler
from tornado.websocket import WebSocketHandler, websocket_connect

from ha_scheduler.gate.servers import GatedHTTPServer
from ha_scheduler.security.authority import client_files
from ha_scheduler.security.contexts import web_context
from ha_scheduler.security.key_ring import KeyRing
from ha_scheduler.web import guard
from ha_scheduler.web.attempts import BURST
from tests.certificates import issue
from tests.deadlines import SCALE
from tests.web import tokens

PAGE = "text/html,*/*"
UPGRADE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}


class Status(RequestHandler):
    def get(self) -> None:
        self.write("the page")


class Acts(RequestHandler):
    """A page of a plugin, perhaps."""

    def post(self) -> None:
        self.write("done")


class Retire(RequestHandler):
    def post(self) -> None:
        self.write("retired")


class Socket(WebSocketHandler):
    def check_origin(self, origin: str) -> bool:
        return True  # as Dask's configuration of bokeh: the guard has to do it

    def open(self, *args: Any, **kwargs: Any) -> None:
        self.write_message("hello")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return issue(tmp_path_factory.mktemp("certs"), "a")


class Server:
    """With everything that the guard is before; ``ring`` may be changed."""

    def __init__(self, certificates: Path, prefix: str) -> None:
        self.ring: KeyRing | None = tokens.ring()
        self.prefix = prefix
        routes = [("/health", Status), ("/status", Status), ("/api/v1/retire_workers", Retire)]
        routes += [("/info/main/workers.html", Status), ("/status/ws", Socket)]
        routes += [("/of-a-plugin", Acts)]
        application = Application([(prefix + path, handler) for path, handler in routes])
        files = client_files(certificates)
        self.server = GatedHTTPServer(application, ssl_options=web_context(files))
        self.server.listen(0, "127.0.0.1")
        (sock,) = self.server._sockets.values()
        self.port = sock.getsockname()[1]
        self.guard = guard.install(
            application, lambda: self.ring, self.port, secure=True, prefix=prefix
        )
        self.trust = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
        self.trust.check_hostname = False

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}{self.prefix}"

    async def fetch(
        self, path: str, token: str | None = None, cookie: str = "", **more: Any
    ) -> HTTPResponse:
        headers = dict(more.pop("headers", {}))
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        if cookie:
            headers["Cookie"] = cookie
        return await AsyncHTTPClient().fetch(
            self.url + path,
            headers=headers,
            ssl_options=self.trust,
            raise_error=False,
            follow_redirects=False,
            **more,
        )

    async def log_in(self, token: str, path: str = "/login", **headers: str) -> HTTPResponse:
        body = urlencode({"token": token})
        return await self.fetch(path, method="POST", body=body, headers=headers)

    async def cookie(self, role: str, **claims: Any) -> str:
        answer = await self.log_in(tokens.token(role, **claims))
        assert answer.code == 303, answer.body
        return answer.headers["Set-Cookie"].partition(";")[0]

    async def websocket(self, headers: dict[str, str]) -> Any:
        url = self.url.replace("https", "wss") + "/status/ws"
        request = HTTPRequest(url, headers=headers, ssl_options=self.trust)
        return await websocket_connect(request)


@pytest.fixture(params=["", "/dask"])
def prefix(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextmanager
def serving(certificates: Path, prefix: str = "") -> Iterator[Server]:
    server = Server(certificates, prefix)
    try:
        yield server
    finally:
        server.server.stop()


async def test_a_stranger_learns_that_it_is_up_and_nothing_else(
    certificates: Path, prefix: str
) -> None:
    with serving(certificates, prefix) as server:
        assert (await server.fetch("/health")).code == 200
        for path in ("/status", "/info/main/workers.html", "/there-is-no-such-page", "/Health"):
            answer = await server.fetch(path)
            assert (answer.code, answer.headers["WWW-Authenticate"]) == (401, 'Bearer realm="dask"')
            assert b"the page" not in answer.body
        answer = await server.fetch("/api/v1/retire_workers", method="POST", body="{}")
        assert answer.code == 401


async def test_a_browser_is_led_to_the_login_and_back_behind_any_prefix(
    certificates: Path, prefix: str
) -> None:
    with serving(certificates, prefix) as server:
        answer = await server.fetch("/info/main/workers.html?a=1", headers={"Accept": PAGE})
        assert answer.code == 302
        where = answer.headers["Location"]
        assert where == "../../login?next=info%2Fmain%2Fworkers.html%3Fa%3D1"
        form = await server.fetch("/login?next=info%2Fmain%2Fworkers.html%3Fa%3D1")
        assert b'action="login?next=info%2Fmain%2Fworkers.html%3Fa%3D1"' in form.body
        # Without a referrer Chromium sends the form with "Origin: null", which is refused.
        assert form.headers["Referrer-Policy"] == "same-origin"
        done = await server.log_in(tokens.token("observer"), "/login?next=info%2Fmain")
        assert (done.code, done.headers["Location"]) == (303, "info/main")
        cookie = done.headers["Set-Cookie"]
        assert cookie.startswith("__Host-dask-ha-")
        assert {"HttpOnly", "Secure", "Path=/"} <= set(cookie.split("; "))
        assert "samesite=lax" in cookie.lower()
        page = await server.fetch("/status", cookie=cookie.partition(";")[0])
        assert (page.code, page.body) == (200, b"the page")


@pytest.mark.parametrize(
    "target",
    [
        *("//evil.example", "https://evil.example", "/\\evil", "\\\\evil", "javascript:alert(1)"),
        *("/status", "x" * 2000, "a\r\nSet-Cookie: b=1", "data:text/html,x"),
    ],
)
async def test_a_login_leads_to_no_other_site(certificates: Path, target: str) -> None:
    with serving(certificates) as server:
        path = f"/login?{urlencode({'next': target})}"
        done = await server.log_in(tokens.token("client"), path)
        assert (done.code, done.headers["Location"]) == (303, "status")
        assert "evil" not in str((await server.fetch(path)).body)


async def test_the_token_is_neither_in_the_cookie_nor_in_an_answer(certificates: Path) -> None:
    with serving(certificates) as server:
        secret = tokens.token("client")
        answers = [
            await server.log_in(secret),
            await server.log_in(secret + "x"),
            await server.fetch("/status", secret + "x"),
        ]
        for answer in answers:
            said = f"{dict(answer.headers)} {answer.body!r}"
            assert not [part for part in secret.split(".") if part in said]
        refused = await server.fetch(f"/status?token={secret}")
        assert refused.code == 401  # in a URL it opens nothing


@pytest.mark.parametrize(
    ("role", "looks", "retires"),
    [("observer", 200, 403), ("client", 200, 200), ("admin", 200, 200), ("join", 403, 403)],
)
async def test_a_role_may_what_its_row_says(
    certificates: Path, role: str, looks: int, retires: int
) -> None:
    with serving(certificates) as server:
        held = tokens.token(role)
        assert (await server.fetch("/status", held)).code == looks
        answer = await server.fetch("/api/v1/retire_workers", held, method="POST", body="{}")
        assert answer.code == retires
        assert (await server.fetch("/of-a-plugin", held, method="POST", body="")).code == retires
        if looks == 200:
            cookie = await server.cookie(role)
            answer = await server.fetch(
                "/api/v1/retire_workers", cookie=cookie, method="POST", body="{}"
            )
            assert answer.code == retires
        else:
            assert (await server.log_in(held)).code == 403


async def test_what_is_no_token_of_this_cell_opens_nothing(certificates: Path) -> None:
    wrong = ["", "x", "a.b.c", tokens.token("client", cell="d" * 32)]
    wrong += [tokens.token("client", lives_s=-120), "é" * 10, "x" * 20_000]
    with serving(certificates) as server:
        for held in wrong:
            if held.isascii():
                assert (await server.fetch("/status", held)).code in (401, 429)
            assert (await server.log_in(held)).code in (401, 429)


async def test_who_is_refused_too_often_waits_with_a_good_token_too(certificates: Path) -> None:
    with serving(certificates) as server:
        codes = [(await server.log_in("wrong")).code for _ in range(BURST + 1)]
        assert codes == [401] * BURST + [429]
        answer = await server.log_in(tokens.token("client"))
        assert answer.code == 429
        assert int(answer.headers["Retry-After"]) > 0
        # A scraper of the same network goes on.
        assert (await server.fetch("/status", tokens.token("observer"))).code == 200


async def test_a_revocation_ends_tokens_and_cookies_at_once(certificates: Path) -> None:
    with serving(certificates) as server:
        held, other = tokens.token("client", token_id="a" * 32), tokens.token("client")
        cookie = await server.cookie("client", token_id="a" * 32)
        server.ring = tokens.ring("a" * 32)
        assert (await server.fetch("/status", held)).code == 401
        assert (await server.fetch("/status", cookie=cookie)).code == 401
        assert (await server.fetch("/status", other)).code == 200


async def test_after_a_logout_a_copy_of_the_cookie_opens_nothing(certificates: Path) -> None:
    with serving(certificates) as server:
        cookie, other = await server.cookie("client"), await server.cookie("client")
        done = await server.fetch("/logout", cookie=cookie, method="POST", body="")
        assert (done.code, done.headers["Location"]) == (303, "login")
        assert (await server.fetch("/status", cookie=cookie)).code == 401
        assert (await server.fetch("/status", cookie=other)).code == 200


async def test_a_page_of_another_site_opens_no_websocket_and_acts_on_nothing(
    certificates: Path,
) -> None:
    with serving(certificates) as server:
        cookie, own = await server.cookie("admin"), f"https://127.0.0.1:{server.port}"
        for origin in ("http://evil.example", "null", own + "1", own.replace("127", "128")):
            headers = {"Cookie": cookie, "Origin": origin}
            assert (await server.fetch("/status/ws", headers=UPGRADE | headers)).code == 403
            path, body = "/api/v1/retire_workers", {"method": "POST", "body": "{}"}
            assert (await server.fetch(path, headers=headers, **body)).code == 403
            assert (await server.log_in(tokens.token("client"), Origin=origin)).code == 403
        ws = await server.websocket({"Cookie": cookie, "Origin": own})
        assert await ws.read_message() == "hello"
        ws.close()


async def test_a_websocket_takes_a_login_and_ends_with_what_opened_it(certificates: Path) -> None:
    with serving(certificates) as server:
        assert (await server.fetch("/status/ws", headers=UPGRADE)).code == 401
        cookie = await server.cookie("client", token_id="b" * 32)
        bearer = {"Authorization": f"Bearer {tokens.token('observer')}"}
        revoked, stays = await server.websocket({"Cookie": cookie}), await server.websocket(bearer)
        assert await revoked.read_message() == await stays.read_message() == "hello"
        server.ring = tokens.ring("b" * 32)
        async with asyncio.timeout(2 * SCALE):
            assert await revoked.read_message() is None
        stays.write_message("still here")
        await asyncio.sleep(0)
        assert stays.protocol is not None
        stays.close()
        revoked.close()
        await asyncio.sleep(0.05)  # tornado complains of a connection that was not seen to close


async def test_before_it_knows_the_keys_it_says_so_and_serves_nothing(certificates: Path) -> None:
    with serving(certificates) as server:
        cookie = await server.cookie("client")
        server.ring = None
        answer = await server.fetch("/status", tokens.token("client"))
        assert (answer.code, answer.headers["Retry-After"]) == (503, "2")
        assert (await server.fetch("/status", cookie=cookie)).code == 401
        assert (await server.fetch("/health")).code == 200


async def test_it_speaks_tls_1_3_alone_and_resumes_nothing(certificates: Path) -> None:
    with serving(certificates) as server:

        def handshake(version: ssl.TLSVersion) -> ssl.SSLSocket:
            context = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
            context.check_hostname = False
            context.minimum_version = context.maximum_version = version
            sock = socket.create_connection(("127.0.0.1", server.port))
            try:
                return context.wrap_socket(sock)
            except OSError:
                sock.close()
                raise

        with pytest.raises(ssl.SSLError):
            await asyncio.to_thread(handshake, ssl.TLSVersion.TLSv1_2)

        def ask() -> Any:
            with handshake(ssl.TLSVersion.TLSv1_3) as link:
                link.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                while link.recv(4096):
                    pass
                return link.session

        session = await asyncio.to_thread(ask)
        assert session is None or not session.has_ticket
