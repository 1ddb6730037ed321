"""The virtual address: somebody else has it, two hosts have it, or nobody hears of it.

    steal       a worker's host takes it and announces it, again and again
    duplicate   a follower's host has it without a word
    lost-arp    what the holder's host says of addresses is lost

A holder that is killed, frozen or cut off is ``kill:leader``, ``pause:leader``, ``partition:one``.

Proof: the other host's kernel had it; or the switch counted what it dropped.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

from chaos.faults.base import LASTS, Active, CannotInject, Command, Fault, Simple, lacks, one_of
from chaos.faults.network import network_of, take_away

if TYPE_CHECKING:
    from chaos.wire.network import Network

ANNOUNCE_S = 0.2


@dataclass
class Taken:
    """The address on a host that must not have it."""

    network: Network
    host: str
    address: str
    announces: bool
    seen: str | None = None
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    healed: bool = False

    def begin(self) -> None:
        _run(self.network, self.host, "ip", "address", "add", f"{self.address}/32", "dev", "eth0")
        shown = _run(self.network, self.host, "ip", "-brief", "address", "show", "dev", "eth0")
        if self.address in shown:
            self.seen = f"{self.host} had {self.address}"
        if self.announces:
            self._thread = threading.Thread(target=self._announce)
            self._thread.start()

    def heal(self) -> None:
        if self.healed:
            return
        self.healed = True
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self.network.run(self.will[0])

    def proof(self) -> str | None:
        return self.seen

    @property
    def will(self) -> Sequence[Command]:
        words = ("ip", "address", "delete", f"{self.address}/32", "dev", "eth0")
        return [[*self.network.enter(self.host), *words]]

    def _announce(self) -> None:
        while not self._stop.wait(ANNOUNCE_S):
            _run(self.network, self.host, "arping", "-U", "-c", "1", "-I", "eth0", self.address)


def _run(network: Network, host: str, *command: str) -> str:
    return network.run([*network.enter(host), *command])


def _take(target: Any, random: Random, kind: str, lasts_s: float | None) -> Active:
    network, leader = network_of(target), target.leader()
    if leader is None:
        raise CannotInject("nobody leads, so nobody has the address")
    if kind == "lost-arp":
        return take_away(network, "without_arp", [leader])
    followers = [peer for peer in target.peers if peer != leader]
    host = random.choice(followers if kind == "duplicate" else list(target.workers))
    active = Taken(network, host, target.vip, announces=kind == "steal")
    active.begin()
    return active


FAULTS: tuple[Fault, ...] = (
    Simple(
        "vip",
        "Another host takes the virtual address, or has it as well, or ARP is lost.",
        _take,
        (one_of("steal", "duplicate", "lost-arp"), LASTS),
        lacks("vip", "network"),
    ),
)
