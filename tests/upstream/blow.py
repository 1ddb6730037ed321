"""When the leader of a cell dies during a test: after so many messages, as drawn from a seed.

Messages are those between this process and the cell, in both directions: by their count the moment
is the same on a slow machine, and a test of a few messages is not over before it. A moment drawn is
anything from the first message to the ``MESSAGES_MAX``-th, early ones as likely as all later ones
that are ten times as many. If the test was over by then, the next is drawn from the messages there
were.
"""

from __future__ import annotations

import contextlib
import queue
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ha_scheduler.comm.address import parse
from tests.upstream.cell import CellLost, Victim

MESSAGES_MAX = 100
DELAY_SECONDS_MAX = 0.03  # in which the leader may work on the message, or a few more go
TRIES_MAX = 5  # the last is after the first message


@dataclass(frozen=True, slots=True)
class Moment:
    """After which message the leader dies, how much later, and with what."""

    after: int
    delay_s: float
    victim: Victim

    def __str__(self) -> str:
        return f"{self.victim} killed {1e3 * self.delay_s:.0f} ms after message {self.after}"


def moment(seed: int, test: str, attempt: int, there_were: int) -> Moment:
    """The moment of an attempt; of the one before, ``there_were`` so many messages."""
    drawn = random.Random(f"{seed} {test} {attempt}")
    victim: Victim = "peer" if drawn.random() < 0.5 else "engine"
    delay_s = drawn.uniform(0.0, DELAY_SECONDS_MAX)
    if attempt == 0:
        after = round(MESSAGES_MAX ** drawn.random())
    elif attempt < TRIES_MAX - 1:
        after = drawn.randint(1, max(1, there_were))
    else:
        after, delay_s = 1, 0.0
    return Moment(after, delay_s, victim)


class Blows:
    """Counts messages, and strikes in a thread of its own, which is there before any test."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._struck = threading.Event()  # no order is under way
        self._struck.set()
        self._orders: queue.SimpleQueue[tuple[Callable[[Victim], None], Moment] | None]
        self._orders = queue.SimpleQueue()
        self._ports: frozenset[int] = frozenset()
        self._moment: Moment | None = None
        self._strike: Callable[[Victim], None] = lambda victim: None
        self.messages = 0
        self.fell = False
        threading.Thread(target=self._run, name="blows", daemon=True).start()
        self._watch_messages()

    def arm(self, address: str, moment: Moment | None, strike: Callable[[Victim], None]) -> None:
        """From now on count the messages to and from ``address``, and ``strike`` at ``moment``."""
        with self._lock:
            self._ports = frozenset(endpoint.port for endpoint in parse(address))
            self._moment, self._strike = moment, strike
            self.messages, self.fell = 0, False

    def disarm(self) -> None:
        """No blow falls after this; one that is falling is waited for."""
        with self._lock:
            self._moment = None
        self._struck.wait()

    def _note(self, peer_address: str) -> None:
        if int(peer_address.rpartition(":")[2]) not in self._ports:
            return
        with self._lock:
            self.messages += 1
            if self._moment is not None and self.messages == self._moment.after:
                self._struck.clear()
                self._orders.put((self._strike, self._moment))

    def _run(self) -> None:
        while (order := self._orders.get()) is not None:
            strike, at = order
            time.sleep(at.delay_s)
            with self._lock:
                due, self._moment = self._moment is at, None
            with contextlib.suppress(CellLost):
                if due:
                    strike(at.victim)
                    self.fell = True
            self._struck.set()

    def _watch_messages(self) -> None:
        from distributed.comm.tcp import TCP

        read, write = TCP.read, TCP.write

        async def noted_read(comm: Any, *args: Any, **kwargs: Any) -> Any:
            message = await read(comm, *args, **kwargs)
            self._note(comm.peer_address)
            return message

        async def noted_write(comm: Any, *args: Any, **kwargs: Any) -> Any:
            size = await write(comm, *args, **kwargs)
            self._note(comm.peer_address)
            return size

        TCP.read, TCP.write = noted_read, noted_write
