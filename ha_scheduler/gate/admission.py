"""Admission: which of the connections that have come may begin their handshake.

Guarantee: at most ``handshakes`` are under way at once and at most ``waiting`` wait. Those who have
said their first words are admitted in turn, one of each network after the other, so a crowd from
one place delays itself and hardly anybody else; none of them is ever refused. Of a crowd that
speaks at once, ``begins`` begin in one step of the event loop: a leader's heartbeats go on. Who has
said nothing costs a file descriptor, is let go after ``silence_s``, and before that if the room is
needed: then whoever has been silent the longest.

Pure: no clock and no socket. A connection is anything hashable.
"""

from __future__ import annotations

import ipaddress
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

IPV6_PREFIX = 64  # what one site has

C = TypeVar("C", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one port. Times in seconds."""

    waiting: int = 16_384  # each a file descriptor and some hundred bytes
    handshakes: int = 128  # more at once only take longer, each
    silence_s: float = 10.0  # a caller's first words are on their way already
    handshake_s: float = 5.0  # then the next one may begin as well
    begins: int = 8  # in one step of the event loop; each is some ms of the work of others


class Admission(Generic[C]):
    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._silent: dict[C, tuple[str, float]] = {}  # network and deadline; the oldest first
        self._ready: dict[str, deque[C]] = {}
        self._turns: deque[str] = deque()  # networks in ``_ready``
        self._begun: dict[C, float] = {}
        self._waiting = 0

    def __len__(self) -> int:
        """Connections that wait."""
        return self._waiting

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing is under way."""
        return not (self._waiting or self._begun)

    @property
    def is_full(self) -> bool:
        """Whether no more may come, since nobody who waits is silent."""
        return self._waiting >= self._limits.waiting and not self._silent

    def arrive(self, connection: C, network: str, now: float) -> list[C]:
        """A connection has come. Returns whom to let go for it."""
        dropped = self.relieve(self._waiting + 1 - self._limits.waiting)
        self._silent[connection] = network, now + self._limits.silence_s
        self._waiting += 1
        return dropped

    def relieve(self, count: int) -> list[C]:
        """Let go of as many silent ones, the oldest first."""
        dropped = list(self._silent)[: max(0, count)]
        for connection in dropped:
            self.leave(connection)
        return dropped

    def speak(self, connection: C) -> None:
        """Its first words are here."""
        network, _ = self._silent.pop(connection)
        if network not in self._ready:
            self._ready[network] = deque()
            self._turns.append(network)
        self._ready[network].append(connection)

    def begin(self, now: float) -> list[C]:
        """Those whose turn has come, in order: ``begins`` of them, if there are more."""
        chosen: list[C] = []
        while self._turns and len(chosen) < self._limits.begins and self._may_begin:
            network = self._turns.popleft()
            queue = self._ready[network]
            chosen.append(queue.popleft())
            self._waiting -= 1
            self._begun[chosen[-1]] = now + self._limits.handshake_s
            if queue:
                self._turns.append(network)
            else:
                del self._ready[network]
        return chosen

    @property
    def has_more(self) -> bool:
        """Whether some may begin still, in the next step."""
        return bool(self._turns) and self._may_begin

    @property
    def _may_begin(self) -> bool:
        return len(self._begun) < self._limits.handshakes

    def over(self, connection: C) -> None:
        """Its handshake is over, whatever came of it. Idempotent."""
        self._begun.pop(connection, None)

    def leave(self, connection: C) -> None:
        """It has gone, or is let go, while it was silent."""
        if self._silent.pop(connection, None) is not None:
            self._waiting -= 1

    def expire(self, now: float) -> list[C]:
        """Let go of the silent ones whose time is over; a handshake's place is free again."""
        for connection in [c for c, deadline in self._begun.items() if deadline <= now]:
            del self._begun[connection]
        late = []
        for connection, (_, deadline) in self._silent.items():
            if deadline > now:
                break
            late.append(connection)
        return self.relieve(len(late))


def network_of(host: str) -> str:
    """Whom an address is one with: itself, or a site's network of IPv6."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if address.version == 6 and address.ipv4_mapped is None:
        return str(ipaddress.ip_network((address, IPV6_PREFIX), strict=False))
    return str(address)
