"""The Dask port is nobody else's, whoever leads."""

from __future__ import annotations

import logging
import socket
import struct

import pytest

from ha_scheduler.deploy.ports import free_ports
from ha_scheduler.peer.held_port import hold

HOST = "127.0.0.1"
IP_LOCAL_PORT_RANGE = 51  # linux/in.h; since Linux 6.3


def listening(port: int) -> socket.socket:
    return socket.create_server((HOST, port))  # allows reuse, as tornado does


def dial_from(port: int, server: socket.socket) -> int:
    """Connect with the kernel's choice of a port among one. Returns it."""
    with socket.socket() as sock:
        try:
            sock.setsockopt(
                socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, struct.pack("=I", port | port << 16)
            )
        except OSError:
            pytest.skip("this kernel takes no range of ports for a socket")
        sock.connect(server.getsockname())
        return int(sock.getsockname()[1])


def test_no_connection_of_the_host_gets_a_held_port_as_its_own_end() -> None:
    with listening(0) as free, listening(0) as server:
        port = free.getsockname()[1]  # one that connections get, as few of ``free_ports`` are
        free.close()
        with hold(HOST, port), pytest.raises(OSError, match="Cannot assign"):
            dial_from(port, server)
        assert dial_from(port, server) == port, "it was the holder that kept it"


@pytest.mark.parametrize("host", [HOST, ""])
def test_an_engine_listens_at_a_held_port(host: str) -> None:
    (port,) = free_ports(HOST, 1)
    with hold(host, port):
        for _ in range(2):  # one engine after another
            with listening(port), socket.create_connection((HOST, port)):
                pass


def test_a_follower_refuses_connections_to_its_held_port() -> None:
    (port,) = free_ports(HOST, 1)
    with hold(HOST, port), pytest.raises(ConnectionRefusedError):
        socket.create_connection((HOST, port))


def test_a_port_that_another_process_listens_at_is_told_and_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING), listening(0) as other:
        port = other.getsockname()[1]
        hold(HOST, port).close()
    assert f"the Dask port {port} is in use" in caplog.text
