"""The certificate of the called side is looked at before the caller says a word to it.

Method: an impostor, which has a certificate of the cell that is not for what it pretends to be,
listens at a real port and counts what it is told.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from distributed.comm import CommClosedError, connect

from ha_scheduler.cell.tls_files import TlsFiles
from ha_scheduler.comm.backend import why
from ha_scheduler.comm.directory import forget_directories
from ha_scheduler.comm.preamble import ALPN, CHECK_SERVER
from ha_scheduler.comm.roles import NotALeader, check_leader, check_member, check_worker
from ha_scheduler.comm.security import renew
from ha_scheduler.errors import OperatorError
from ha_scheduler.security.authority import client_files, engine_files, peer_files
from ha_scheduler.security.contexts import Reloading, server_context
from ha_scheduler.worker.worker import Worker
from tests.certificates import certificate_of, issue, security_of
from tests.standalone import Scheduler

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return issue(tmp_path, "a", "b")


@asynccontextmanager
async def impostor(files: TlsFiles) -> AsyncIterator[tuple[str, list[bytes]]]:
    """Its address, and what it has heard after TLS."""
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while said := await reader.read(1000):
                heard.append(said)
        writer.transport.abort()

    context = server_context(files)
    context.set_alpn_protocols([ALPN])
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", heard


def test_a_client_in_a_leaders_place_hears_nothing(directory: Path) -> None:
    arguments = security_of(client_files(directory)).get_connection_args("client")

    async def test() -> None:
        forget_directories()
        async with impostor(client_files(directory)) as (address, heard):
            with pytest.raises(OSError) as caught:
                await connect(f"ha://{address}", timeout=0.5, **arguments)
            assert "has the certificate of a client" in why(caught.value)
            assert heard == []

    asyncio.run(test())


@pytest.mark.parametrize("check", [check_worker, check_member])
def test_who_is_no_worker_hears_nothing_of_an_engine_or_a_worker(
    directory: Path, check: Any
) -> None:
    stranger = certificate_of(directory, "guest") if check is check_member else None
    security = security_of(client_files(directory))
    arguments = {**security.get_connection_args("worker"), CHECK_SERVER: check}

    async def test() -> None:
        async with impostor(stranger or engine_files(directory, "a")) as (address, heard):
            with pytest.raises(CommClosedError, match="guest" if stranger else "of a engine"):
                await connect(f"tls://{address}", timeout=5, **arguments)
            assert heard == []

    asyncio.run(test())


def test_an_engine_sends_no_task_to_who_shows_an_engines_certificate(directory: Path) -> None:
    """An engine of another peer has listened in a worker's place."""
    leading = security_of(engine_files(directory, "a"))

    async def test() -> None:
        async with (
            Scheduler(
                protocol="tls://", host="127.0.0.1", dashboard_address=":0", security=leading
            ) as scheduler,
            impostor(engine_files(directory, "b")) as (address, heard),
        ):
            with pytest.raises(CommClosedError, match="has the certificate of a engine"):
                await scheduler.rpc(f"tls://{address}").identity()
            assert heard == []

    asyncio.run(test())


@pytest.mark.parametrize("kind", [engine_files, peer_files])
def test_a_leader_is_the_peer_of_its_certificate(directory: Path, kind: Any) -> None:
    """``b``'s key does not lead in the name of ``a``."""
    arguments = security_of(client_files(directory)).get_connection_args("client")

    async def test() -> None:
        serving = security_of(kind(directory, "b"))
        async with Scheduler(
            protocol="tls://", host="127.0.0.1", dashboard_address=":0", security=serving
        ) as scheduler:
            comm = await connect(scheduler.address, **arguments)
            check_leader(comm)
            check_leader(comm, "b")
            with pytest.raises(NotALeader, match="and says that it is a"):
                check_leader(comm, "a")
            comm.abort()

    asyncio.run(test())


def test_contexts_of_distributed_are_ours(directory: Path) -> None:
    security = security_of(client_files(directory))
    for role in ("client", "worker", "scheduler"):
        for arguments in (security.get_connection_args(role), security.get_listen_args(role)):
            assert isinstance(arguments["ssl_context"], Reloading)


def test_a_context_from_before_is_made_anew(directory: Path) -> None:
    security = security_of(client_files(directory))
    arguments: dict[str, Any] = {"ssl_context": ssl.create_default_context()}
    renew(arguments, security, "client")
    assert isinstance(arguments["ssl_context"], Reloading)
    plain: dict[str, Any] = {"ssl_context": None}
    renew(plain, security, "client")
    assert plain == {"ssl_context": None}


def test_a_process_that_may_not_speak_tls_1_3_is_told_so(directory: Path) -> None:
    security = security_of(client_files(directory))
    security.tls_max_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(OperatorError, match=r"leave out distributed\.comm\.tls\.max-version"):
        security.get_connection_args("client")


def old(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(files.ca_file))
    context.check_hostname = False
    context.load_cert_chain(files.cert_file, files.key_file)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


def test_no_port_of_dask_speaks_tls_1_2(directory: Path) -> None:
    """Of an engine and of a worker."""
    leading, working = engine_files(directory, "a"), client_files(directory)

    async def test() -> None:
        quiet = {"host": "127.0.0.1", "dashboard_address": ":0"}
        async with (
            Scheduler(protocol="tls://", **quiet, security=security_of(leading)) as scheduler,
            Worker(scheduler.address, **quiet, security=security_of(working)) as worker,
        ):
            for server in (scheduler, worker):
                with pytest.raises(OSError):
                    await asyncio.open_connection(
                        "127.0.0.1", server.port, ssl=old(working), server_hostname=""
                    )

    asyncio.run(test())
