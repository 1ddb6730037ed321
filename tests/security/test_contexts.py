"""Contexts take in renewed files, and forget an authority that is removed.

Method: a server of asyncio that goes on listening with the context that it was given, and callers
with certificates of two authorities. Files are replaced as operators replace them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import ssl
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from ha_scheduler.cell.peers import parse_peers
from ha_scheduler.cell.tls_files import TlsFiles
from ha_scheduler.security import contexts
from ha_scheduler.security.authority import (
    ISSUING,
    client_files,
    create_authority,
    load,
    peer_files,
    reissue,
)
from ha_scheduler.security.contexts import (
    client_context,
    reload_all,
    server_context,
    web_context,
)
from ha_scheduler.security.tls import Role, role_in
from tests.certificates import odd

CELL = parse_peers("a=127.0.0.1:1/2")
TIMEOUT_S = 10.0


@pytest.fixture
def one(tmp_path: Path) -> Path:
    create_authority(tmp_path / "one", CELL)
    return tmp_path / "one"


@pytest.fixture
def two(tmp_path: Path) -> Path:
    create_authority(tmp_path / "two", CELL)
    return tmp_path / "two"


@contextlib.asynccontextmanager
async def echo(context: ssl.SSLContext) -> AsyncIterator[int]:
    """The port of a server that answers each byte."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1):
                writer.write(data)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


class Caller:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.shown = writer.get_extra_info("peercert")

    async def answers(self) -> bool:
        self._writer.write(b"x")
        return await self._reader.read(1) == b"x"

    def close(self) -> None:
        self._writer.transport.abort()


async def call(port: int, context: ssl.SSLContext) -> Caller:
    streams = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="")
    return Caller(*streams)


async def is_let_in(port: int, context: ssl.SSLContext) -> bool:
    async with asyncio.timeout(TIMEOUT_S):
        try:
            caller = await call(port, context)
            try:
                return await caller.answers()
            finally:
                caller.close()
        except OSError:
            return False


def replace(files: TlsFiles, others: TlsFiles) -> None:
    """As `cp` to another name and `mv` do."""
    for path, other in zip(paths(files), paths(others), strict=True):
        beside = path.with_suffix(".new")
        beside.write_bytes(other.read_bytes())
        beside.chmod(0o600)
        os.replace(beside, path)


def paths(files: TlsFiles) -> tuple[Path, Path, Path]:
    return files.ca_file, files.cert_file, files.key_file


@pytest.fixture(autouse=True)
def looks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contexts, "LOOK_EVERY_S", -1.0)


def test_a_removed_authority_is_trusted_no_more_and_connections_live_on(
    one: Path, two: Path
) -> None:
    async def scenario() -> None:
        own = peer_files(one, "a")
        old, new = client_context(client_files(one)), client_context(client_files(two))
        async with echo(server_context(own)) as port:
            in_use = await call(port, old)
            assert await in_use.answers()
            assert not await is_let_in(port, new)
            stay = TlsFiles(*(path.with_name("kept-" + path.name) for path in paths(own)))
            replace(stay, client_files(one))
            replace(own, peer_files(two, "a"))
            assert await is_let_in(port, new)
            assert not await is_let_in(port, client_context(stay))
            assert await in_use.answers()
            in_use.close()

    asyncio.run(scenario())


def test_loading_into_the_old_context_would_trust_it(one: Path, two: Path) -> None:
    """Why each change takes a new context: what OpenSSL does, which we do not."""

    async def scenario() -> None:
        naive = server_context(peer_files(one, "a"))._inner
        async with echo(naive) as port:
            renewed = peer_files(two, "a")
            naive.load_verify_locations(renewed.ca_file)
            naive.load_cert_chain(renewed.cert_file, renewed.key_file)
            removed = client_files(one)
            mixed = TlsFiles(renewed.ca_file, removed.cert_file, removed.key_file)
            assert await is_let_in(port, client_context(mixed))

    asyncio.run(scenario())


def test_a_caller_shows_its_renewed_certificate(one: Path) -> None:
    async def scenario() -> None:
        serial = []
        context = server_context(peer_files(one, "a"))
        calling = client_context(client_files(one))
        for _ in range(2):
            async with echo(context) as port:
                caller = await call(port, calling)
                assert await caller.answers()
                serial.append(caller.shown["serialNumber"])
                caller.close()
            reissue(one, CELL)
        assert serial[0] != serial[1]

    asyncio.run(scenario())


def test_half_copied_files_change_nothing_and_are_told_of_once(
    one: Path, two: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        own, calling = peer_files(one, "a"), client_context(client_files(one))
        async with echo(server_context(own)) as port:
            key = own.key_file.read_bytes()
            own.key_file.write_bytes(peer_files(two, "a").key_file.read_bytes())
            assert await is_let_in(port, calling)
            assert await is_let_in(port, calling)
            own.key_file.unlink()
            assert await is_let_in(port, calling)
            own.key_file.write_bytes(key)
            own.key_file.chmod(0o600)
            assert reload_all() == []

    with caplog.at_level(logging.WARNING):
        asyncio.run(scenario())
    told = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(told) == 2  # another key, and none
    assert {getattr(record, "action", "") for record in told} == {"certificate_not_reloaded"}


def test_a_reload_keeps_what_was_negotiated(one: Path) -> None:
    async def scenario() -> None:
        context, calling = server_context(peer_files(one, "a")), client_context(client_files(one))
        for made in (context, calling):
            made.set_alpn_protocols(["dask-ha/1"])
        reissue(one, CELL)
        async with echo(context) as port:
            _, writer = await asyncio.open_connection(
                "127.0.0.1", port, ssl=calling, server_hostname=""
            )
            assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "dask-ha/1"
            writer.transport.abort()

    asyncio.run(scenario())


def test_files_are_looked_at_once_a_second_at_most(
    one: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contexts, "LOOK_EVERY_S", 3600.0)
    context = server_context(peer_files(one, "a"))
    before = context._newest()
    reissue(one, CELL)
    assert context._newest() is before
    assert reload_all() == []
    assert context._newest() is not before


def test_browsers_need_no_certificate(one: Path) -> None:
    async def scenario() -> None:
        browser = ssl.create_default_context(cafile=str(one / "ca.pem"))
        async with echo(web_context(peer_files(one, "a"))) as port:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port, ssl=browser, server_hostname="127.0.0.1"
            )
            writer.write(b"x")
            assert await reader.read(1) == b"x"
            assert role_in(writer.get_extra_info("peercert")) is Role.PEER
            writer.transport.abort()

    asyncio.run(scenario())


def test_an_expired_certificate_is_refused_to_callers_and_by_them(one: Path) -> None:
    """In the handshake itself, whatever was checked before."""
    day = timedelta(days=1)
    by, subject = load(one, ISSUING), [("OU", "client"), ("CN", "client")]
    for valid in ((-2 * day, -day), (day, 2 * day)):
        files = odd(one, "odd", subject, by, valid=valid)

        async def scenario(files: TlsFiles = files) -> None:
            async with echo(server_context(peer_files(one, "a"))) as port:
                assert not await is_let_in(port, client_context(files))
            async with echo(server_context(files)) as port:
                assert not await is_let_in(port, client_context(client_files(one)))

        asyncio.run(scenario())
