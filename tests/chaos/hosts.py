"""Hosts of a small network that send each other datagrams: a cell, as far as a cut can tell."""

from __future__ import annotations

import contextlib
import socket
import time
from itertools import permutations

from chaos.wire.network import Network
from tests.deadlines import SCALE

PEERS, WORKERS = ("a", "b", "c"), ("w0",)
HOSTS = (*PEERS, *WORKERS, "client")
PORT = 7000
SETTLED_S = 10 * SCALE
HEARD_S = 0.05 * SCALE  # the frames of a machine's own network are there at once


class Hosts:
    """Hosts with a socket each, as far as a partition is concerned a cell."""

    name = "hosts"
    abilities = frozenset({"network", "wire"})
    peers, workers = PEERS, WORKERS

    def __init__(self, network: Network) -> None:
        self.network = network
        self._sockets: dict[str, socket.socket] = {}
        for host in HOSTS:
            with network.inside(host):
                self._sockets[host] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                self._sockets[host].bind((network.addresses[host], PORT))
        self.settles(set())  # all know each other's MAC address

    def leader(self) -> str | None:
        return "b"

    def hearing(self) -> set[tuple[str, str]]:
        """From whom each host gets what was sent to it."""
        for a, b in permutations(HOSTS, 2):
            self._sockets[a].sendto(a.encode(), (self.network.addresses[b], PORT))
        time.sleep(HEARD_S)
        heard = set()
        for host, sock in self._sockets.items():
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    heard.add((sock.recv(100).decode(), host))
        return heard

    def settles(self, deaf: set[tuple[str, str]]) -> None:
        """Wait until these hear nothing and all others do: carriers and ARP take their time."""
        deadline = time.monotonic() + SETTLED_S
        while (found := self.deaf_links()) != deaf:
            assert time.monotonic() < deadline, found ^ deaf

    def deaf_links(self) -> set[tuple[str, str]]:
        return set(permutations(HOSTS, 2)) - self.hearing()

    def receiver(self, host: str) -> socket.socket:
        return self._sockets[host]

    def close(self) -> None:
        for sock in self._sockets.values():
            sock.close()
