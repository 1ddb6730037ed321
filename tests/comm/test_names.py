"""What names stand for. Real sockets; a DNS server of dnspython's on loopback."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import dns.asyncresolver
import dns.flags
import dns.message
import dns.resolver
import dns.rrset
import pytest
from distributed.comm import connect, get_address_host, listen, resolve_address

from ha_scheduler.comm.address import Endpoint, HAAddressError, is_ha, parse, unparse
from ha_scheduler.comm.directory import directory_of, forget_directories
from ha_scheduler.comm.names import NameNotResolved, is_name, spread
from tests.worker.cell import free_ports

SERVICE = "_dask-ha._tcp.cell.test"


class NameServer(asyncio.DatagramProtocol):
    def __init__(self, *lines: str) -> None:
        self.records = dns.rrset.from_text(f"{SERVICE}.", 5, "IN", "SRV", *lines)
        self.asked = 0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, caller: Any) -> None:
        self.asked += 1
        query = dns.message.from_wire(data)
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.RA
        if query.question[0].name == self.records.name:
            answer.answer.append(self.records)
        self.transport.sendto(answer.to_wire(), caller)


@asynccontextmanager
async def name_server(monkeypatch: pytest.MonkeyPatch, *lines: str) -> AsyncIterator[NameServer]:
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(
        lambda: NameServer(*lines), local_addr=("127.0.0.1", 0)
    )
    for kind in (dns.resolver, dns.asyncresolver):
        ours = kind.Resolver(configure=False)
        ours.nameservers, ours.port = ["127.0.0.1"], transport.get_extra_info("sockname")[1]
        monkeypatch.setattr(kind, "default_resolver", ours)
    try:
        yield server
    finally:
        transport.close()
        forget_directories()


@asynccontextmanager
async def leader(host: str = "127.0.0.1") -> AsyncIterator[int]:
    comms: list[Any] = []

    async def keep(comm: Any) -> None:
        comms.append(comm)
        await comm.write("here")

    async with listen(f"tcp://{host}:0", keep) as listener:
        yield int(listener.contact_address.rpartition(":")[2])
        for comm in comms:
            comm.abort()


def resolving(monkeypatch: pytest.MonkeyPatch, **names: list[str]) -> None:
    """The resolver of the system, with some names more."""
    ask = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        found = []
        for address in names.get(host, [host]):
            found += ask(address, port, *args, **kwargs)
        return found

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def test_a_service_is_written_in_two_ways_and_has_no_port() -> None:
    assert parse("ha+srv://cell.test") == (Endpoint(SERVICE, 0),)
    assert unparse(parse("ha+srv://cell.test")) == f"ha://{SERVICE}"
    assert parse(f"ha://a,{SERVICE}") == (Endpoint("a", 8786), Endpoint(SERVICE, 0))
    assert parse("ha+srv://_dask._tcp.cell.test") == (Endpoint("_dask._tcp.cell.test", 0),)
    assert resolve_address("ha+srv://cell.test") == f"ha+srv://{SERVICE}"
    assert is_ha("ha+srv://cell.test")
    with pytest.raises(HAAddressError, match="records of a service have ports"):
        parse("ha+srv://cell.test:8786")


@pytest.mark.parametrize("host", ["10.0.0.1", "::1", "fe80::1%eth0", "localhost"])
def test_nobody_is_asked_for_an_address(host: str) -> None:
    assert not is_name(Endpoint(host, 1))


async def test_every_address_of_a_name_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a headless service: the first may be that of a follower, or of a host that is off."""
    async with leader("127.0.0.3") as port:
        resolving(monkeypatch, cell=["127.0.0.1", "127.0.0.2", "127.0.0.3"])
        monkeypatch.setattr("ha_scheduler.comm.backend.is_loopback", lambda host: True)
        comm = await connect(f"ha://cell:{port}", timeout=3)
        assert comm.peer_address == f"tcp://127.0.0.3:{port}"
        assert directory_of(parse(f"ha://cell:{port}")).leader_hint == Endpoint("127.0.0.3", port)
        comm.abort()
    forget_directories()


async def test_a_name_has_addresses_of_both_families(monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, cell=["127.0.0.1", "::1"])
    assert await spread(Endpoint("cell", 7)) == (Endpoint("127.0.0.1", 7), Endpoint("::1", 7))


async def test_a_name_of_one_address_stays_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its address may be another one at the next attempt."""
    resolving(monkeypatch, a=["127.0.0.1"])
    assert await spread(Endpoint("a", 7)) == (Endpoint("a", 7),)


async def test_an_unknown_name_hinders_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ha_scheduler.comm.backend.is_loopback", lambda host: True)
    async with leader() as port:
        comm = await connect(f"ha://nobody.invalid,127.0.0.1:{port}", timeout=3)
        assert comm.peer_address == f"tcp://127.0.0.1:{port}"
        comm.abort()
    forget_directories()


async def test_the_leader_is_found_by_the_records_of_a_service(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ha_scheduler.comm.backend.is_loopback", lambda host: True)
    (refusing,) = free_ports(1)
    async with leader() as port:
        lines = f"1 0 {refusing} localhost.", f"0 0 {port} localhost."
        async with name_server(monkeypatch, *lines) as server:
            comm = await connect("ha+srv://cell.test", timeout=3)
            assert comm.peer_address == f"tcp://localhost:{port}"
            comm.abort()
            before = server.asked
            known = directory_of(parse("ha+srv://cell.test"))
            known.connected(Endpoint("127.0.0.1", refusing))  # who led is gone
            (await connect("ha+srv://cell.test", timeout=3)).abort()
            assert server.asked > before, "the records may have changed"


async def test_a_service_that_dns_does_not_know_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    async with name_server(monkeypatch, "0 0 1 localhost."):
        with pytest.raises(NameNotResolved, match=r"no service _dask-ha\._tcp\.other\.test"):
            await spread(Endpoint("_dask-ha._tcp.other.test", 0))


async def test_the_host_of_a_service_is_known_where_nothing_can_be_awaited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """worker.py:1298 asks for it when it chooses the interface to listen on."""
    async with name_server(monkeypatch, "0 0 8786 localhost."):
        host = await asyncio.to_thread(get_address_host, "ha+srv://cell.test")
        assert host == "localhost"
