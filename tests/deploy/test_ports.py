"""Ports: different, free, and not those that the kernel gives to outgoing connections."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from ha_scheduler.deploy.ports import free_ports


def test_they_are_different_and_free() -> None:
    ports = free_ports("127.0.0.1", 9)
    assert len(set(ports)) == 9
    for port in ports:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))


def test_a_port_in_use_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        choices = iter([port, port, free_ports("127.0.0.1", 1)[0]])
        monkeypatch.setattr("random.SystemRandom.randrange", lambda *_: next(choices))
        assert free_ports("127.0.0.1", 1) != [port]


def test_no_outgoing_connection_can_take_one_meanwhile() -> None:
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(port < low for port in free_ports("127.0.0.1", 50))
