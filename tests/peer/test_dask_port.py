"""The Dask port is open from the start of a daemon to its end, whoever leads."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import distributed
import pytest
from distributed.comm import connect

from ha_scheduler.comm import preamble
from ha_scheduler.comm.address import Endpoint
from ha_scheduler.comm.directory import forget_directories
from ha_scheduler.deploy.ports import free_ports
from ha_scheduler.errors import OperatorError
from ha_scheduler.peer.engine import dask_port
from ha_scheduler.peer.engine.dask_port import PATIENCE_S, Budget, DaskPort, listen
from ha_scheduler.protocol.watch import WatchView
from ha_scheduler.security.authority import client_files, engine_files, peer_files
from ha_scheduler.security.contexts import server_context
from tests.certificates import issue, security_of
from tests.deadlines import SCALE
from tests.peer.toy_cell import ToyCell, within

HOST = "127.0.0.1"


def view(address: str = "", leader: str | None = None) -> WatchView:
    return WatchView("cell", "b", 3, leader, address, ())


@asynccontextmanager
async def follower(files: Path, said: WatchView) -> AsyncIterator[tuple[DaskPort, int]]:
    (port,) = free_ports(HOST, 1)
    answering = DaskPort(
        listen(HOST, port),
        server_context(peer_files(files, "b")),
        lambda: said,
        lambda: said.address,
    )
    answering.answer()
    try:
        yield answering, port
    finally:
        await answering.stop()
        forget_directories()


@asynccontextmanager
async def leader(files: Path) -> AsyncIterator[int]:
    security, comms = security_of(engine_files(files, "a")), []

    async def keep(comm: Any) -> None:
        comms.append(comm)
        await comm.write("here")

    arguments = security.get_listen_args("scheduler")
    async with distributed.comm.listen(f"tls://{HOST}:0", keep, **arguments) as listener:
        yield int(listener.contact_address.rpartition(":")[2])
        for comm in comms:
            comm.abort()


@pytest.mark.parametrize("scheme", ["ha", "tls"])
async def test_our_callers_go_from_a_follower_to_the_leader_at_once(
    scheme: str, tmp_path: Path
) -> None:
    files = issue(tmp_path, "a", "b")
    client = security_of(client_files(files)).get_connection_args("client")
    async with leader(files) as port, follower(files, view(f"tls://{HOST}:{port}", "a")) as (_, at):
        began = time.monotonic()
        comm = await connect(f"{scheme}://{HOST}:{at}", timeout=5, **client)
        assert comm.peer_address == f"tls://{HOST}:{port}"
        assert await comm.read() == "here"
        assert time.monotonic() - began < 1 * SCALE
        comm.abort()


async def test_our_callers_hear_why_where_nobody_leads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask_port, "PATIENCE_S", 0.0)
    files = issue(tmp_path, "a", "b")
    client = security_of(client_files(files)).get_connection_args("client")
    async with follower(files, view()) as (answering, at):
        answering.tick()
        with pytest.raises(preamble.CommClosedError, match="b of this cell does not lead, and nob"):
            await preamble.TLSConnector().connect(f"{HOST}:{at}", **client)


async def test_an_engine_that_lies_of_the_leader_is_not_believed(tmp_path: Path) -> None:
    """It runs the code of users; a daemon does not."""
    files = issue(tmp_path, "a", "b")
    client = security_of(client_files(files)).get_connection_args("client")
    (port,) = free_ports(HOST, 1)
    said = view(f"tls://{HOST}:1", "a")
    lying = DaskPort(
        listen(HOST, port), server_context(engine_files(files, "b")), lambda: said, lambda: True
    )
    lying.answer()
    with pytest.raises(preamble.CommClosedError) as caught:
        await preamble.TLSConnector().connect(f"{HOST}:{port}", **client)
    assert not isinstance(caught.value, preamble.NotLeading)
    await lying.stop()


UNMODIFIED = """
import asyncio, sys
from distributed import Client, Security, Worker
from distributed.core import rpc
ca, cert, key, address, what = sys.argv[1:]
security = Security(tls_ca_file=ca, tls_client_cert=cert, tls_client_key=key, tls_worker_cert=cert,
                    tls_worker_key=key, require_encryption=True)
async def main():
    if what == "client":
        await Client(address, security=security, asynchronous=True, timeout=5)
    elif what == "worker":
        await Worker(address, security=security, dashboard=False)
    else:
        await rpc(address, connection_args=security.get_connection_args("client")).who_has()
asyncio.run(main())
"""


@pytest.mark.parametrize("what", ["client", "worker", "call"])
async def test_an_unmodified_caller_prints_who_leads(what: str, tmp_path: Path) -> None:
    import os
    import sys

    files = issue(tmp_path, "a", "b")
    shown = client_files(files)
    async with follower(files, view("tls://10.0.0.1:8786", "a")) as (_, at):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", UNMODIFIED),
            *(str(shown.ca_file), str(shown.cert_file), str(shown.key_file)),
            *(f"tls://{HOST}:{at}", what),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={name: value for name, value in os.environ.items() if name != "DASK_CONFIG"},
        )
        output, _ = await asyncio.wait_for(process.communicate(), 30 * SCALE)
    assert process.returncode != 0
    assert "does not lead; the leader is a at tls://10.0.0.1:8786" in output.decode()


async def test_a_crowd_is_reset_beyond_what_a_daemon_has_time_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask_port, "ANSWERS_PER_S", 2)
    files = issue(tmp_path, "a", "b")
    client = security_of(client_files(files)).get_connection_args("client")
    async with follower(files, view("tls://10.0.0.1:8786", "a")) as (_, at):
        connector = preamble.TLSConnector()
        calls = [
            connector.connect(f"{HOST}:{at}", **{**client, preamble.RACING: True}) for _ in range(8)
        ]
        answers = await asyncio.gather(*calls, return_exceptions=True)
    told = [answer for answer in answers if isinstance(answer, preamble.NotLeading)]
    assert 1 <= len(told) <= 4
    assert {answer.leader for answer in told} == {Endpoint("10.0.0.1", 8786)}
    assert all(isinstance(answer, OSError | ValueError) for answer in answers)


async def test_nobody_is_answered_while_an_election_is_likely_under_way(tmp_path: Path) -> None:
    """From the first caller on, who comes before the daemon ticks again."""
    async with follower(issue(tmp_path, "a", "b"), view()) as (_, at):
        reader, writer = await asyncio.open_connection(HOST, at)
        writer.write(b"\x16\x03\x01\x00\x05hello")  # a first record of TLS
        began = time.monotonic()
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        assert time.monotonic() - began < PATIENCE_S
        writer.close()


def test_the_budget_is_as_many_a_second_and_as_many_at_once() -> None:
    budget = Budget(2)
    assert [budget.take(100.0) for _ in range(3)] == [True, True, False]
    assert budget.take(100.5)
    assert not budget.take(100.5)


def test_the_port_of_another_process_ends_the_start_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dask_port, "TAKEN_S_MAX", 0.0)
    with socket.create_server((HOST, 0)) as other, pytest.raises(OperatorError, match="free it"):
        listen(HOST, other.getsockname()[1])


def test_all_addresses_of_a_host_are_listened_at() -> None:
    (port,) = free_ports(HOST, 1)
    sockets = listen("", port)
    try:
        with socket.create_connection((HOST, port)), socket.create_connection(("::1", port)):
            pass
    finally:
        for sock in sockets:
            sock.close()


def test_the_port_is_open_while_engines_come_and_go(tmp_path: Path) -> None:
    """No other process can get it between two, so none fails to lead (Errno 98)."""
    with ToyCell(tmp_path) as cell:
        name = cell.settled()
        port = cell.cell.peer(name).dask_port
        pid = cell.engine_pid(name)
        cell.order(name, op="exit")
        within(10, lambda: cell.engine_pid(name) not in (0, pid))
        with socket.create_connection((HOST, port)), pytest.raises(OSError, match="in use"):
            socket.create_server((HOST, port))
