"""The address an engine announces is the one its cell knows, whatever routes its host has."""

from __future__ import annotations

import socket

import pytest

from ha_scheduler.engine.options import contact_address, scheduler_arguments
from ha_scheduler.engine.scheduler import Scheduler
from ha_scheduler.protocol.peer import PeerAddress
from tests.engine.conftest import KeptLog, end


def test_an_ip_address_is_announced_as_the_cell_has_it() -> None:
    assert contact_address("tls", PeerAddress("a", "10.1.2.3", 8785, 8786)) == "tls://10.1.2.3:8786"
    assert contact_address("tls", PeerAddress("a", "fd00::3", 1, 8786)) == "tls://[fd00::3]:8786"
    assert contact_address("tcp", PeerAddress("a", "127.0.0.1", 1, 99)) == "tcp://127.0.0.1:99"


@pytest.mark.parametrize(
    ("resolved", "announced"),
    [
        (["192.0.2.7"], "tls://192.0.2.7:8786"),
        (["127.0.1.1", "192.0.2.7"], "tls://192.0.2.7:8786"),
        (["127.0.1.1"], None),  # Debian's /etc/hosts: true on this host only
        ([], None),
    ],
)
def test_a_host_name_is_announced_by_an_address_that_others_can_reach(
    resolved: list[str], announced: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def getaddrinfo(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        if not resolved:
            raise socket.gaierror
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in resolved]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert contact_address("tls", PeerAddress("a", "node-a", 8785, 8786)) == announced


async def test_a_leader_listens_everywhere_and_announces_that_address() -> None:
    scheduler = Scheduler(
        port=0, protocol="tcp://", dashboard_address=":0", contact_address="tcp://10.1.2.3:8786"
    )
    await scheduler.activate(1, KeptLog(), lambda phase, detail: None)
    try:
        assert scheduler.address == "tcp://10.1.2.3:8786"
        assert scheduler.identity()["address"] == "tcp://10.1.2.3:8786"
    finally:
        await end(scheduler)


async def test_an_engine_listens_at_an_ipv6_address_that_its_cell_has_without_brackets() -> None:
    arguments = scheduler_arguments({"host": "::1", "protocol": "tcp", "dashboard_address": ":0"})
    scheduler = Scheduler(**arguments, contact_address="tcp://[::1]:8786")
    await scheduler.activate(1, KeptLog(), lambda phase, detail: None)
    try:
        (listener,) = scheduler.listeners
        assert listener.listen_address.startswith("tcp://[::1]:")
    finally:
        await end(scheduler)
