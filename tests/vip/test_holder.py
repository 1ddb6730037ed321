"""The virtual address on real interfaces: two hosts on one wire, a network namespace each."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

pyroute2 = pytest.importorskip("pyroute2")  # of Linux
from pyroute2 import NetNS, netns  # noqa: E402

from ha_scheduler import shared_lease  # noqa: E402
from ha_scheduler.vip.address import VirtualAddress  # noqa: E402
from ha_scheduler.vip.holder import AddressHolder  # noqa: E402
from ha_scheduler.vip.ownership import GONE_S  # noqa: E402
from tests.deadlines import SCALE  # noqa: E402

LEASE_S = 0.5
LONG_AGO = 0.0
NODAD = 0x02

VIPS = ["10.9.0.100/24", "fd99::100/64"]


@dataclass(frozen=True)
class Host:
    """A namespace with one interface ``eth0``, 10.9.0.N and fd99::N."""

    namespace: str

    @contextmanager
    def inside(self) -> Iterator[None]:
        """In here this thread, and the threads and sockets that it makes, are on this host."""
        netns.pushns(self.namespace)
        try:
            yield
        finally:
            netns.popns()

    def ask(self, question: Callable[[Any, int], Any]) -> Any:
        def ask_there() -> Any:
            with NetNS(self.namespace) as route:
                return question(route, route.link_lookup(ifname="eth0")[0])

        with ThreadPoolExecutor(1) as thread:  # pyroute2 runs a loop of its own
            return thread.submit(ask_there).result()

    def has(self, ip: object) -> bool:
        return str(ip) in self.ask(lambda r, i: [a.get("address") for a in r.get_addr(index=i)])

    def hardware(self) -> str:
        return str(self.ask(lambda r, i: r.get_links(i)[0].get("address")))

    def knows(self, ip: object) -> str | None:
        """Where its neighbour table has ``ip``."""
        found = self.ask(lambda r, i: list(r.get_neighbours(ifindex=i)))
        return next((n.get("lladdr") for n in found if n.get("dst") == str(ip)), None)

    def add(self, interface: Any, **lifetime: int) -> None:
        self.ask(
            lambda r, i: r.addr(
                "add",
                index=i,
                address=str(interface.ip),
                prefixlen=interface.network.prefixlen,
                flags=NODAD if interface.version == 6 else 0,
                **lifetime,
            )
        )

    def remove(self, interface: Any) -> None:
        length = interface.network.prefixlen
        self.ask(
            lambda r, i: r.addr("delete", index=i, address=str(interface.ip), prefixlen=length)
        )


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    names = [f"dask-ha-vip-{os.getpid()}-{n}" for n in "ab"]
    made: list[str] = []
    try:
        try:
            for name in names:
                netns.create(name)
                made.append(name)
        except OSError as error:
            pytest.skip(f"no network namespaces: {error}")
        with NetNS(names[0]) as route:
            peer = {"ifname": "eth0", "net_ns_fd": names[1]}
            route.link("add", ifname="eth0", kind="veth", peer=peer)
        both = Host(names[0]), Host(names[1])
        for number, host in enumerate(both, start=1):
            host.ask(lambda r, i: r.link("set", index=i, state="up"))
            host.add(ipaddress.ip_interface(f"10.9.0.{number}/24"))
            host.add(ipaddress.ip_interface(f"fd99::{number}/64"))
        yield both
    finally:
        for name in made:
            netns.remove(name)


class Leader:
    """Its daemon's part: ticks, as long as it hears a quorum."""

    def __init__(self, holder: AddressHolder) -> None:
        self.holder = holder
        self.hears_a_quorum = True

    async def run(self) -> None:
        while True:
            if self.hears_a_quorum:
                self.holder.tick(shared_lease.now() + LEASE_S)
            await asyncio.sleep(0.02)


@asynccontextmanager
async def leading(host: Host, vip: str) -> AsyncIterator[Leader]:
    """A peer on ``host`` that was told to lead by one that had led for long."""
    with host.inside():
        address = VirtualAddress(ipaddress.ip_interface(vip), "eth0")
        holder = AddressHolder(address, LEASE_S)
        holder.give_up()  # its thread begins on this host
    holder.start()
    holder.elected(LONG_AGO)
    leader = Leader(holder)
    task = asyncio.create_task(leader.run())
    try:
        yield leader
    finally:
        task.cancel()
        holder.stop()


async def until(condition: Callable[[], object], within_s: float = 3.0) -> float:
    began = asyncio.get_running_loop().time()
    while not condition():
        assert asyncio.get_running_loop().time() - began < within_s * SCALE, "not in time"
        await asyncio.sleep(0.01)
    return asyncio.get_running_loop().time() - began


@pytest.mark.parametrize("vip", VIPS)
async def test_the_leaders_host_has_it_and_a_neighbour_that_knew_another_learns_where(
    hosts: tuple[Host, Host], vip: str
) -> None:
    ours, theirs = hosts
    ip = ipaddress.ip_interface(vip).ip
    theirs.ask(
        lambda r, i: r.neigh("add", dst=str(ip), lladdr="02:00:00:00:00:07", ifindex=i, state=4)
    )
    async with leading(ours, vip) as leader:
        await until(lambda: leader.holder.held)
        assert ours.has(ip)
        await until(lambda: theirs.knows(ip) == ours.hardware())
    await until(lambda: not ours.has(ip))


@pytest.mark.parametrize("vip", VIPS)
async def test_a_leader_that_hears_no_quorum_loses_it_by_its_kernel(
    hosts: tuple[Host, Host], vip: str
) -> None:
    ip = ipaddress.ip_interface(vip).ip
    async with leading(hosts[0], vip) as leader:
        await until(lambda: leader.holder.held)
        leader.hears_a_quorum = False
        took_s = await until(lambda: not hosts[0].has(ip))
        assert took_s < LEASE_S + GONE_S * SCALE
        leader.hears_a_quorum = True
        await until(lambda: hosts[0].has(ip))


@pytest.mark.parametrize("vip", VIPS)
async def test_it_is_gone_from_the_host_when_giving_it_up_returns(
    hosts: tuple[Host, Host], vip: str
) -> None:
    ip = ipaddress.ip_interface(vip).ip
    async with leading(hosts[0], vip) as leader:
        await until(lambda: leader.holder.held)
        assert leader.holder.give_up()
        assert not hosts[0].has(ip)
        await until(lambda: leader.holder.held)  # nobody followed the order


@pytest.mark.parametrize("vip", VIPS)
async def test_it_is_not_taken_from_a_host_of_others_and_the_log_names_that_one(
    hosts: tuple[Host, Host], vip: str, caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = hosts
    interface = ipaddress.ip_interface(vip)
    theirs.add(interface)
    async with leading(ours, vip) as leader:
        await until(lambda: theirs.hardware() in caplog.text)
        assert not leader.holder.held
        assert not ours.has(interface.ip)
        theirs.remove(interface)
        await until(lambda: leader.holder.held)


async def test_a_host_that_takes_it_later_is_named_and_not_given_way_to(
    hosts: tuple[Host, Host], caplog: pytest.LogCaptureFixture
) -> None:
    vip = "10.9.0.100/24"
    ip = ipaddress.ip_interface(vip).ip
    async with leading(hosts[0], vip) as leader, leading(hosts[1], vip) as thief:
        thief.holder.deposed()
        await until(lambda: leader.holder.held)
        with caplog.at_level(logging.ERROR):
            thief.holder._neighbours.announce()
            await until(lambda: "this host has it too" in caplog.text)
        assert leader.holder.held
        assert hosts[0].has(ip)


@pytest.mark.parametrize("vip", VIPS)
async def test_what_a_killed_daemon_left_behind_is_removed_at_the_start(
    hosts: tuple[Host, Host], vip: str
) -> None:
    interface = ipaddress.ip_interface(vip)
    hosts[0].add(interface, valid_lft=60, preferred_lft=0)
    with hosts[0].inside():
        holder = AddressHolder(VirtualAddress(interface, "eth0"), LEASE_S)
    assert not hosts[0].has(interface.ip)
    holder.stop()
