"""What this daemon tells the service manager that started it, as sd_notify(3) has it.

Guarantee: READY=1 is said after every port of this peer answers, STOPPING=1 before a leader hands
over, and WATCHDOG=1 by the event loop alone, so a loop that hangs is silent and the manager
restarts the peer. Nobody else speaks for the daemon: what it starts (the engine with the code of
users, commands of the site) does not inherit where to.

Ready is not that a peer leads, or that a majority is there: the units of a cell's first start would
wait for each other.

A manager that is gone or busy holds nothing up: a datagram that its queue has no room for is
offered again at the next tick.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, MutableMapping

_SOCKET, _WATCHDOG_USEC, _WATCHDOG_PID = VARIABLES = (
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
)
_BEATS = 2  # in the time after which the manager would act


class ServiceManager:
    """``address``: of its datagram socket, None if there is no manager; ``watchdog_s``: the time of
    silence after which it acts, None if it never does.
    """

    def __init__(self, address: str | None, watchdog_s: float | None) -> None:
        self._address = address
        self._every_s = watchdog_s / _BEATS if watchdog_s is not None else None
        self._next_beat = 0.0
        self._owes_ready = False
        self._socket: socket.socket | None = None

    @classmethod
    def of(cls, environment: MutableMapping[str, str]) -> ServiceManager:
        """The one that ``environment`` names, which names none afterwards."""
        found = {name: environment.pop(name, "") for name in VARIABLES}
        return cls(_address(found[_SOCKET]), _watchdog_s(found))

    def ready(self) -> None:
        self._owes_ready = not self._say(b"READY=1")

    def stopping(self) -> None:
        self._say(b"STOPPING=1")

    def tick(self, now: float) -> None:
        """Sign of life, when it is time for one. ``now``: seconds of a monotonic clock."""
        if self._owes_ready:
            self.ready()
        if self._every_s is not None and now >= self._next_beat and self._say(b"WATCHDOG=1"):
            self._next_beat = now + self._every_s

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _say(self, state: bytes) -> bool:
        """Whether it was taken, or there is nobody to take it."""
        if self._address is None:
            return True
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                self._socket.setblocking(False)
            self._socket.sendto(state, self._address)
        except OSError:
            return False
        return True


def _address(named: str) -> str | None:
    """Of a path or, after ``@``, of an abstract socket; None for what is neither."""
    if named.startswith("@"):
        return "\0" + named[1:]
    return named if named.startswith("/") else None


def _watchdog_s(found: Mapping[str, str]) -> float | None:
    """None: none is asked for, or of another process than this."""
    if found[_WATCHDOG_PID] not in ("", str(os.getpid())):
        return None
    usec = found[_WATCHDOG_USEC]
    return int(usec) / 1e6 if usec.isdecimal() and int(usec) else None
