"""What an engine may say to its daemon, beside the records that it proposes.

The engine runs the code of users, so nothing that it says is believed because it says it.

Guarantee: an engine makes its daemon hold, tell other peers or tell watchers nothing but this, once
each: that it is ready, with the port of its dashboard; that it serves the term for which it was
activated, at an address of its own peer; the times of the ``Phase`` of that term. How many workers
an owner should have it says again and again, and the latest counts (``scale_command.py``). Whatever
else it says is an ``OverstepError``, which ends it.
"""

from __future__ import annotations

import ipaddress
import math
import socket
from collections.abc import Collection

from msgspec.structs import replace

from ha_scheduler.protocol.engine import Confirm, EngineReady, Mark, Phase, ScaleWanted, Serving
from ha_scheduler.protocol.peer import PeerAddress


class OverstepError(Exception):
    """Engine: it said what is not its to say; the text goes on "it …"."""


class EngineRights:
    """The rights of one engine of peer ``own``, whose Dask port speaks ``protocol``."""

    def __init__(self, protocol: str, own: PeerAddress) -> None:
        self.resolved: Collection[str] = ()  # the IP addresses of ``own.host``, where it is a name
        self._protocol = protocol
        self._own = own
        self._ready = self._serving = False
        self._term: int | None = None
        self._phases: set[Phase] = set()
        self._asking: int | None = None  # the ``Confirm`` that was not answered yet

    def activated(self, term: int) -> None:
        """The daemon has activated it, which it does once."""
        self._term = term

    def check_confirm(self, message: Confirm) -> None:
        """Raises ``OverstepError``."""
        if self._term is None:
            raise OverstepError("asked whether it leads though it was not activated")
        if self._asking is not None:
            raise OverstepError("asked whether it leads before the answer to an earlier question")
        self._asking = message.number

    def answered(self) -> None:
        """Its ``Confirm`` is answered."""
        self._asking = None

    def check_ready(self, message: EngineReady) -> None:
        """Raises ``OverstepError``."""
        if self._ready:
            raise OverstepError("said twice that it is ready")
        self._ready = True

    def check_serving(self, message: Serving) -> None:
        """Raises ``OverstepError``."""
        self._check_term(message.term)
        if self._serving:
            raise OverstepError("said twice that it serves")
        if not self._is_own(message.address):
            raise OverstepError(
                f"said that it serves at {message.address}, which is not port "
                f"{self._own.dask_port} of this peer by {self._protocol}"
            )
        self._serving = True

    def check_scale(self, message: ScaleWanted) -> None:
        """Raises ``OverstepError``."""
        self._check_term(message.term)

    def check_mark(self, message: Mark, now: float) -> Mark | None:
        """The mark, not later than ``now``; None if the phase was reached before.

        Raises ``OverstepError``.
        """
        self._check_term(message.term)
        if message.phase in self._phases:
            return None  # as of an honest engine whose clients went and came back
        self._phases.add(message.phase)
        at = min(message.at, now) if math.isfinite(message.at) else now
        return replace(message, at=at)

    def _check_term(self, term: int) -> None:
        if term != self._term:
            raise OverstepError(f"spoke of term {term}, for which it was not activated")

    def _is_own(self, address: str) -> bool:
        """Whether it is this peer's Dask address, by any address of this host or of its name."""
        protocol, _, place = address.partition("://")
        text, _, port = place.rpartition(":")
        if protocol != self._protocol or port != str(self._own.dask_port):
            return False
        try:
            host = ipaddress.ip_address(text.removeprefix("[").removesuffix("]"))
        except ValueError:
            return text == self._own.host
        try:
            return host == ipaddress.ip_address(self._own.host)
        except ValueError:  # a name: what it resolves to, here perhaps otherwise than elsewhere
            return str(host) in self.resolved or _is_local(host)


def _is_local(host: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether an interface of this host has it: only then the kernel binds a socket to it."""
    family = socket.AF_INET if host.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(host), 0))
    except OSError:
        return False
    return not host.is_unspecified
