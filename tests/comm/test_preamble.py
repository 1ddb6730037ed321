"""The preamble on real sockets: who is let in, who is refused and hears why, and who has none.

An unmodified process is a process of its own, which never imports this package.
"""

from __future__ import annotations

import asyncio
import json
import logging
import pickle
import socket
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from distributed import Security
from distributed.comm import CommClosedError, connect, listen, tcp
from distributed.comm.core import FatalCommClosedError
from tornado.iostream import IOStream

from client_replay import Client
from ha_scheduler.comm import preamble
from ha_scheduler.comm.directory import forget_directories
from ha_scheduler.comm.preamble import ALPN, INTRODUCTION, IntroductionRefused, peer_introduction
from ha_scheduler.deploy.ports import free_ports
from ha_scheduler.protocol import FEATURES, RELEASE, VERSION, frames
from ha_scheduler.protocol.introduction import Introduction, Kind, Refused, call, introduce
from ha_scheduler.security.authority import client_files, engine_files
from ha_scheduler.worker.worker import Worker
from tests.certificates import certificate_of, issue, security_of
from tests.standalone import Scheduler

pytestmark = pytest.mark.filterwarnings("default")

ROOT = Path(__file__).parents[2]
SECURITY = Security.temporary()
REASON = "not on a Sunday"

ECHO = """
import asyncio, json, sys
from distributed import Security
from distributed.comm import connect, listen

async def main(role, address, security):
    security = Security(require_encryption=True, **security)
    if role == "calls":
        comm = await connect(address, timeout=10, **security.get_connection_args("client"))
        await comm.write("a word")
        assert await comm.read() == "a word"
        comm.abort()
        assert "ha_scheduler" not in sys.modules
        print("had its echo", flush=True)
        return

    async def echo(comm):
        await comm.write(await comm.read())

    async with listen(address, echo, **security.get_listen_args("scheduler")) as listener:
        assert "ha_scheduler" not in sys.modules
        print(listener.contact_address, flush=True)
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(main(*json.loads(sys.argv[1])))
"""


@contextmanager
def unmodified(role: str, address: str) -> Iterator[subprocess.Popen[str]]:
    fields = ("tls_ca_file", "tls_client_cert", "tls_client_key")
    fields += ("tls_scheduler_cert", "tls_scheduler_key")
    security = {name: getattr(SECURITY, name) for name in fields}
    process = subprocess.Popen(
        [sys.executable, "-c", ECHO, json.dumps([role, address, security])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


async def said_by(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return (await asyncio.to_thread(process.stdout.readline)).strip()


def calling(introduction: Introduction | None = None, scheme: str = "tls") -> dict[str, Any]:
    arguments = SECURITY.get_connection_args("client") if scheme == "tls" else {}
    return arguments if introduction is None else {**arguments, INTRODUCTION: introduction}


@asynccontextmanager
async def echoing(scheme: str = "tls") -> AsyncIterator[tuple[str, list[Any]]]:
    """A server that echoes, and what it was told of its callers."""
    callers: list[Any] = []

    async def echo(comm: Any) -> None:
        callers.append(peer_introduction(comm))
        try:
            await comm.write(await comm.read())
        except CommClosedError:
            pass
        finally:
            comm.abort()

    arguments = SECURITY.get_listen_args("scheduler") if scheme == "tls" else {}
    async with listen(f"{scheme}://127.0.0.1:0", echo, **arguments) as listener:
        yield listener.contact_address, callers


@asynccontextmanager
async def stranger(address: str) -> AsyncIterator[tuple[Any, Any]]:
    """Somebody with a certificate who negotiates the preamble, and then says what he likes."""
    context = calling()["ssl_context"]
    context.set_alpn_protocols([ALPN])
    host, port = address.removeprefix("tls://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


@asynccontextmanager
async def refusing(security: Security = SECURITY) -> AsyncIterator[int]:
    """A server of ours that lets nobody in."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await frames.read(reader.readexactly, frames.INTRODUCTION_BYTES_MAX)
        writer.write(frames.pack(Refused(REASON)))
        await writer.drain()
        writer.close()

    context = security.get_listen_args("scheduler")["ssl_context"]
    context.set_alpn_protocols([ALPN])
    server = await asyncio.start_server(refuse, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize("scheme", ["tls", "tcp"])
def test_each_side_knows_version_and_features_of_the_other(scheme: str) -> None:
    async def test() -> None:
        async with echoing(scheme) as (address, callers):
            comm = await connect(address, timeout=5, **calling(introduce(Kind.WORKER), scheme))
            await comm.write("a word")
            assert await comm.read() == "a word"
            ((caller,), called) = callers, peer_introduction(comm)
            for side in (caller, called):
                assert (side.version, side.release, side.features) == (VERSION, RELEASE, FEATURES)
            assert caller.kind == Kind.WORKER
            comm.abort()

    asyncio.run(test())


def test_an_unmodified_caller_is_served_as_ever() -> None:
    async def test() -> None:
        async with echoing() as (address, callers):
            with unmodified("calls", address) as process:
                assert await said_by(process) == "had its echo"
            assert callers == [None]

    asyncio.run(test())


def test_an_unmodified_server_is_called_as_ever() -> None:
    async def test() -> None:
        with unmodified("listens", "tls://127.0.0.1:0") as process:
            comm = await connect(await said_by(process), timeout=5, **calling())
            await comm.write("a word")
            assert await comm.read() == "a word"
            assert peer_introduction(comm) is None
            comm.abort()

    asyncio.run(test())


def test_a_caller_of_another_version_hears_whom_to_upgrade() -> None:
    newer = msgspec.structs.replace(introduce(Kind.CLIENT), version=VERSION + 1)

    async def test() -> None:
        async with echoing() as (address, callers):
            began = time.monotonic()
            with pytest.raises(FatalCommClosedError, match="upgrade the called one"):
                await connect(address, timeout=5, **calling(newer))
            assert time.monotonic() - began < 2
            assert not callers

    asyncio.run(test())


def test_without_tls_another_version_is_refused_by_both_sides(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test() -> None:
        async with echoing("tcp") as (address, callers):
            other = preamble.accept()
            other = msgspec.structs.replace(other, version=VERSION + 1)
            monkeypatch.setattr(preamble, "accept", lambda: other)
            with pytest.raises(IntroductionRefused, match="upgrade the"):
                await connect(address, timeout=5)
            assert not callers

    asyncio.run(test())


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_nothing_is_unpickled_before_a_caller_has_said_who_it_is(tmp_path: Path) -> None:
    """What distributed's handshake would run, in place of an introduction."""
    exploded = tmp_path / "exploded"
    bomb = pickle.dumps(Bomb(exploded))
    as_a_frame = struct.pack(">I", len(bomb)) + bomb

    async def test() -> None:
        async with echoing() as (address, callers):
            for payload in (as_a_frame, frames.pack(bomb), frames.pack(("introduction", bomb))):
                async with stranger(address) as (reader, writer):
                    writer.write(payload)
                    assert await reader.read() == b""
            assert not exploded.exists()
            assert not callers

    asyncio.run(test())


def test_a_caller_that_hangs_up_behind_its_introduction_is_no_defect(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As whoever tries all peers at once does when one of them has answered."""

    async def test() -> None:
        async with echoing() as (address, callers):
            for _ in range(20):
                async with stranger(address) as (_, writer):
                    writer.write(frames.pack(introduce(Kind.CLIENT)))
            comm = await connect(address, timeout=5, **calling())
            comm.abort()
        assert len(callers) <= 1

    with caplog.at_level(logging.INFO):
        asyncio.run(test())
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_caller_that_would_say_too_much_is_hung_up_on_at_once() -> None:
    async def test() -> None:
        async with echoing() as (address, _), stranger(address) as (reader, writer):
            writer.write(struct.pack(">I", frames.INTRODUCTION_BYTES_MAX + 1))
            async with asyncio.timeout(2):
                assert await reader.read() == b""

    asyncio.run(test())


def test_a_caller_that_says_nothing_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """After TLS; who does not begin with that either, does not pass the gate."""
    monkeypatch.setattr(preamble, "TIMEOUT_S", 0.2)

    async def test() -> None:
        async with echoing() as (address, _), stranger(address) as (reader, _), asyncio.timeout(2):
            assert await reader.read() == b""

    asyncio.run(test())


def test_a_caller_whose_tls_handshake_had_to_wait_is_let_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server that a thousand call at once has many handshakes before this one."""
    monkeypatch.setattr(preamble, "TIMEOUT_S", 0.3)

    async def test() -> None:
        async with echoing() as (address, _):
            with socket.create_connection(address.removeprefix("tls://").split(":")) as sock:
                await asyncio.sleep(0.6)
                context = calling()["ssl_context"]
                context.set_alpn_protocols([ALPN])
                reader, writer = await asyncio.open_connection(
                    sock=sock, ssl=context, server_hostname=""
                )
                await call(reader, writer, introduce(Kind.CLIENT))
                writer.transport.abort()

    asyncio.run(test())


def test_a_caller_with_a_certificate_of_elsewhere_hears_so_at_once() -> None:
    elsewhere = Security.temporary()
    security = Security(
        tls_ca_file=SECURITY.tls_ca_file,
        tls_client_cert=elsewhere.tls_client_cert,
        tls_client_key=elsewhere.tls_client_key,
    )

    async def test() -> None:
        async with echoing() as (address, callers):
            with pytest.raises(FatalCommClosedError, match="UNKNOWN_CA"):
                await connect(address, timeout=5, **security.get_connection_args("client"))
            assert not callers

    asyncio.run(test())


@pytest.mark.parametrize("scheme", ["tls", "ha"])
def test_a_client_that_is_refused_says_why_at_once(scheme: str, tmp_path: Path) -> None:
    engine = security_of(engine_files(issue(tmp_path, "a"), "a"))
    security = security_of(client_files(tmp_path))

    async def test() -> None:
        forget_directories()
        async with refusing(engine) as port:
            (nobody,) = free_ports("127.0.0.1", 1)
            hosts = f"127.0.0.1:{port}" + (f",127.0.0.1:{nobody}" if scheme == "ha" else "")
            began = time.monotonic()
            with pytest.raises(IntroductionRefused, match=REASON):
                await Client(f"{scheme}://{hosts}", security=security, asynchronous=True)
            assert time.monotonic() - began < 5

    asyncio.run(test())


def test_a_worker_that_is_refused_ends_and_says_why() -> None:
    async def test() -> None:
        async with refusing() as port:
            worker = Worker(f"tls://127.0.0.1:{port}", security=SECURITY, dashboard=False)
            with pytest.raises(RuntimeError) as caught:
                await worker
            assert REASON in str(caught.value.__cause__)

    asyncio.run(test())


def test_client_engine_and_workers_all_know_each_other(tmp_path: Path) -> None:
    leading = security_of(engine_files(issue(tmp_path, "a"), "a"))
    security = security_of(client_files(tmp_path))

    async def test() -> None:
        quiet = {"host": "127.0.0.1", "dashboard_address": ":0", "security": security}
        async with (
            Scheduler(protocol="tls://", **{**quiet, "security": leading}) as scheduler,
            Worker(scheduler.address, nthreads=1, **quiet) as one,
            Worker(scheduler.address, nthreads=1, **quiet) as two,
            Client(scheduler.address, security=security, asynchronous=True) as client,
        ):
            on_one = client.submit(int, 1, workers=one.address)
            assert await client.submit(abs, on_one, workers=two.address) == 1
            streams = [*scheduler.stream_comms.values(), *scheduler.client_comms.values()]
            kinds = [peer_introduction(stream.comm).kind for stream in streams]
            assert kinds == [Kind.WORKER, Kind.WORKER, Kind.CLIENT]
            fetched_over = next(iter(two.rpc.available[one.address]))
            assert peer_introduction(fetched_over).version == VERSION

    asyncio.run(test())


@pytest.mark.parametrize("with_package", [True, False])
def test_a_certificate_without_a_role_opens_no_port_of_a_cell(
    tmp_path: Path, with_package: bool
) -> None:
    """The cell's own authority has signed it, and it gets as far as TLS."""
    security = security_of(engine_files(issue(tmp_path, "a"), "a"))
    guest = security_of(certificate_of(tmp_path, "guest")).get_connection_args("client")

    async def test() -> None:
        quiet = {"host": "127.0.0.1", "dashboard_address": ":0", "security": security}
        async with Scheduler(protocol="tls://", **quiet) as scheduler:
            if with_package:
                with pytest.raises(CommClosedError, match="guest"):
                    await connect(scheduler.address, timeout=5, **guest)
            else:
                connector = tcp.TLSConnector()
                address = scheduler.address.removeprefix("tls://")
                comm = await connector.connect(address, **guest)
                with pytest.raises(CommClosedError):
                    await comm.read()
            comm = await connect(scheduler.address, **security.get_connection_args("client"))
            comm.abort()

    asyncio.run(test())


@pytest.mark.parametrize("end", ["the listener stops", "the process ends"])
def test_a_connection_that_ends_before_its_first_step_is_closed(end: str) -> None:
    """Its caller would wait for ever: there is no deadline in distributed's handshake."""

    async def test() -> None:
        listener = preamble.TCPListener("127.0.0.1:0", lambda comm: None)
        await listener.start()
        ours, theirs = socket.socketpair()
        with theirs:
            stream = IOStream(ours)
            task = listener._handle_stream(stream, ("127.0.0.1", 1))
            if end == "the listener stops":
                listener.stop()
            else:
                task.cancel()
            await asyncio.wait([task])
            await asyncio.sleep(0)
            assert stream.closed()
        listener.stop()

    asyncio.run(test())
