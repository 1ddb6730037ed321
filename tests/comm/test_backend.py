"""Connecting to whichever peer leads. Real sockets: a server, a refusing port, a deaf host."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import dask
import distributed
import pytest
from distributed import Security
from distributed.comm import connect, listen
from distributed.comm.registry import get_backend
from tornado.iostream import IOStream

from ha_scheduler.backoff import Backoff
from ha_scheduler.comm.address import Endpoint, HAAddressError
from ha_scheduler.comm.backend import HABackend, TLSNotConfigured, why
from ha_scheduler.comm.directory import View, directory_of, forget_directories
from ha_scheduler.security.authority import client_files, engine_files
from ha_scheduler.worker.nanny import Nanny
from ha_scheduler.worker.worker import Worker
from tests.certificates import issue, security_of
from tests.worker.cell import free_ports

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    with dask.config.set({"distributed.worker.preload": []}):
        forget_directories()
        yield
        forget_directories()


@contextmanager
def deaf() -> Iterator[int]:
    """A port whose kernel accepts and whose process says nothing: a frozen leader."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as sock:
        yield sock.getsockname()[1]


@asynccontextmanager
async def answering(scheme: str = "tcp", **kwargs: Any) -> AsyncIterator[tuple[int, list[Any]]]:
    """A server that keeps its connections."""
    comms: list[Any] = []

    async def keep(comm: Any) -> None:
        comms.append(comm)
        await comm.write("here")

    async with listen(f"{scheme}://127.0.0.1:0", keep, **kwargs) as listener:
        yield int(listener.contact_address.rpartition(":")[2]), comms
        for comm in comms:
            comm.abort()


async def reach(*ports: int, **kwargs: Any) -> tuple[Any, float]:
    began = time.monotonic()
    address = "ha://" + ",".join(f"127.0.0.1:{port}" for port in ports)
    comm = await connect(address, timeout=3, **kwargs)
    assert await comm.read() == "here"
    return comm, time.monotonic() - began


async def test_the_only_one_that_does_not_refuse_is_found_at_once() -> None:
    async with answering() as (port, _):
        first, last = free_ports(2)
        comm, took_s = await reach(first, port, last)
        assert comm.peer_address == f"tcp://127.0.0.1:{port}"
        assert took_s < 0.2
        comm.abort()


async def test_a_deaf_host_does_not_delay_the_others() -> None:
    with deaf() as silent:
        async with answering() as (port, _):
            comm, took_s = await reach(silent, port)
            assert took_s < 0.2
            comm.abort()


async def test_a_leader_that_froze_costs_its_head_start_and_no_more() -> None:
    with deaf() as silent:
        async with answering() as (port, _):
            cell = directory_of([Endpoint("127.0.0.1", silent), Endpoint("127.0.0.1", port)])
            cell.connected(Endpoint("127.0.0.1", silent))
            comm, took_s = await reach(silent, port)
            assert 0.2 < took_s < 0.6
            assert cell.leader_hint == Endpoint("127.0.0.1", port)
            comm.abort()


async def test_the_known_leader_alone_is_asked() -> None:
    async with answering() as (one, at_one), answering() as (two, at_two):
        directory_of([Endpoint("127.0.0.1", one), Endpoint("127.0.0.1", two)]).connected(
            Endpoint("127.0.0.1", two)
        )
        comm, _ = await reach(one, two)
        assert (len(at_one), len(at_two)) == (0, 1)
        comm.abort()


async def test_the_losers_of_a_race_are_closed() -> None:
    async def ended(comm: Any) -> bool:
        try:
            await asyncio.wait_for(comm.read(), 0.1)
        except TimeoutError:
            return False
        except OSError:
            return True
        raise AssertionError("nobody says anything")

    async with answering() as (one, at_one), answering() as (two, at_two):
        comm, _ = await reach(one, two)
        await asyncio.sleep(0.1)
        open_comms = [c for c in at_one + at_two if not await ended(c)]
        assert len(open_comms) == 1
        comm.abort()


async def test_a_peer_that_is_said_to_lead_is_tried_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Backoff, "next_s", lambda self: 3600.0)  # of attempts that were refused
    one, two = free_ports(2)
    cell = directory_of([Endpoint("127.0.0.1", one), Endpoint("127.0.0.1", two)])
    connector = HABackend().get_connector()
    reaching = asyncio.ensure_future(connector.connect(f"127.0.0.1:{one},127.0.0.1:{two}"))
    await asyncio.sleep(0.1)  # both have refused
    comms: list[Any] = []

    async def keep(comm: Any) -> None:
        comms.append(comm)
        await comm.write("here")

    async with listen(f"tcp://127.0.0.1:{two}", keep):
        cell.observe(View("cell", 2, "b", Endpoint("127.0.0.1", two)))
        comm = await reaching
        assert comm.peer_address == f"tcp://127.0.0.1:{two}"
        comm.abort()
        for served in comms:
            served.abort()


async def test_nobody_leads_is_a_timeout_that_names_everybody() -> None:
    one, two = free_ports(2)
    with pytest.raises(OSError, match="ha://127") as caught:
        await connect(f"ha://127.0.0.1:{one},127.0.0.1:{two}", timeout=0.3)
    said, error = "", caught.value.__cause__
    while error is not None:
        said, error = said + str(error), error.__cause__
    assert str(one) in said
    assert str(two) in said


async def test_tls_is_used_when_it_is_configured(tmp_path: Path) -> None:
    files = issue(tmp_path, "a")
    served = security_of(engine_files(files, "a")).get_listen_args("scheduler")
    async with answering("tls", **served) as (port, _):
        (refusing,) = free_ports(1)
        client = security_of(client_files(files)).get_connection_args("client")
        comm, _ = await reach(refusing, port, **client)
        assert comm.peer_address == f"tls://127.0.0.1:{port}"
        comm.abort()


async def test_who_shows_a_clients_certificate_on_the_port_of_a_peer_is_no_leader(
    tmp_path: Path,
) -> None:
    files = issue(tmp_path, "a")
    client = security_of(client_files(files))
    engine = security_of(engine_files(files, "a"))
    async with (
        answering("tls", **client.get_listen_args("scheduler")) as (impostor, _),
        answering("tls", **engine.get_listen_args("scheduler")) as (port, _),
    ):
        for _ in range(3):
            comm, _ = await reach(impostor, port, **client.get_connection_args("client"))
            assert comm.peer_address == f"tls://127.0.0.1:{port}"
            comm.abort()
        with pytest.raises(OSError) as caught:
            await connect(
                f"ha://127.0.0.1:{impostor}", timeout=1, **client.get_connection_args("client")
            )
        assert "has the certificate of a client" in why(caught.value)


async def test_a_peer_that_hangs_up_before_tls_began_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """tornado's iostream.py:1307 calls a stream that was closed meanwhile "not idle"."""
    security = security_of(engine_files(issue(tmp_path, "a"), "a"))
    start_tls, hung_up = IOStream.start_tls, []

    def hang_up_first(stream: IOStream, server_side: bool, *args: Any, **kwargs: Any) -> Any:
        if not server_side and not hung_up:
            hung_up.append(stream)
            stream.close()
        return start_tls(stream, server_side, *args, **kwargs)

    monkeypatch.setattr(IOStream, "start_tls", hang_up_first)
    async with answering("tls", **security.get_listen_args("scheduler")) as (port, _):
        comm, _ = await reach(port, **security.get_connection_args("client"))
        assert hung_up
        comm.abort()


async def test_without_tls_another_machine_is_refused_at_once_and_says_what_to_configure() -> None:
    with pytest.raises(TLSNotConfigured, match="--tls-ca-file") as caught:
        await connect("ha://127.0.0.1:1,10.1.2.3:8786", timeout=30)
    assert "tls.client.cert" in str(caught.value)


def test_one_does_not_listen_on_a_cell() -> None:
    with pytest.raises(HAAddressError, match="--host"):
        HABackend().get_listener("a:1,b:2", lambda comm: None)


async def test_listening_on_ha_is_listening_on_the_transport_beneath() -> None:
    async with listen("ha://127.0.0.1:0", lambda comm: None) as listener:
        assert listener.contact_address.startswith("tcp://127.0.0.1:")
    kwargs = Security.temporary().get_listen_args("worker")
    async with listen("ha://", lambda comm: None, **kwargs) as listener:
        assert listener.contact_address.startswith("tls://127.0.0.1:")


def test_the_entry_point_is_installed_and_leaves_the_configuration_alone() -> None:
    """comm/registry.py:83 loads it by the name of the scheme."""
    assert isinstance(get_backend("ha"), HABackend)
    HABackend()
    assert dask.config.get("distributed.worker.preload") == []


class Special(distributed.Worker):
    """A class of the user's own."""


@pytest.mark.parametrize(
    ("given", "arguments", "expected"),
    [
        (None, None, (["ha_scheduler.worker.preload"], [])),
        (["theirs"], ["--x"], (["theirs", "ha_scheduler.worker.preload"], ["--x"])),
        (["theirs"], [["--x"]], (["theirs", "ha_scheduler.worker.preload"], [["--x"], []])),
    ],
)
async def test_a_nanny_that_names_its_protocol_has_its_worker_upgraded(
    given: Any, arguments: Any, expected: Any
) -> None:
    nanny = distributed.Nanny(
        "ha://127.0.0.1:1",
        nthreads=1,
        protocol="tcp",
        worker_class=Special,
        preload=given,
        preload_argv=arguments,
    )
    nanny.instantiate().close()  # it was made ours when it was asked to start its worker
    assert isinstance(nanny, Nanny)
    assert (nanny.preload, nanny.preload_argv) == expected
    await nanny.close()


async def test_a_worker_that_names_its_protocol_is_upgraded_before_it_registers() -> None:
    worker = distributed.Worker("ha://127.0.0.1:1", protocol="tcp", dashboard=False)
    worker._register_with_scheduler().close()
    assert isinstance(worker, Worker)
    await worker.close()


async def test_a_plain_worker_that_listens_because_of_ha_is_upgraded() -> None:
    """worker.py:1304 hands the worker's own method to the listener before the preloads run."""
    (port,) = free_ports(1)
    worker = distributed.Worker(f"ha://127.0.0.1:{port}", dashboard=False)
    starting = asyncio.ensure_future(worker.start())
    while type(worker) is distributed.Worker:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    assert isinstance(worker, Worker)
    assert type(worker).__name__ == "Worker"
    assert worker.address.startswith("tcp://127.0.0.1:")
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    await worker.close()
