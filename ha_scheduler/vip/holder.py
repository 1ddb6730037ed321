"""The virtual address of one peer: the only interpreter of ``ownership.py``.

Guarantee: ``give_up`` returns True only when the kernel has the address no more. So the order to
campaign, which lets another peer take it at once, leaves after it (``peer/replica.py``).

At the start an address that a killed daemon left behind is removed, and at the end the own one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future

from ha_scheduler import shared_lease
from ha_scheduler.vip import kernel
from ha_scheduler.vip.address import VirtualAddress
from ha_scheduler.vip.kernel import Kernel, Late
from ha_scheduler.vip.neighbours import Neighbours
from ha_scheduler.vip.no_address import NoAddress
from ha_scheduler.vip.ownership import (
    Announce,
    Effect,
    GiveUp,
    Hold,
    Ownership,
    Phase,
    Probe,
    TellConflict,
)

GIVE_UP_S = 0.5  # the kernel's lock is held for milliseconds
TELL_EVERY_S = 30.0

logger = logging.getLogger(__name__)


class AddressHolder(NoAddress):
    """Asks, takes, refreshes, announces and gives up. All calls on one loop; none waits but
    ``give_up``."""

    def __init__(
        self, vip: VirtualAddress, lease_s: float, clock: Callable[[], float] = shared_lease.now
    ) -> None:
        """``lease_s`` as of ``Ownership``. Raises ``OperatorError`` without the permissions."""
        self.vip: VirtualAddress = vip
        self._clock = clock
        self._ownership = Ownership(lease_s)
        kernel.refuse_unpermitted(vip)
        self._kernel = Kernel(vip, clock)
        self._neighbours = Neighbours(vip, self._on_answer)
        self._holding: Future[None] | None = None  # at most one, or a slow kernel has a queue
        self._told_at = -TELL_EVERY_S

    @property
    def held(self) -> bool:  # type: ignore[override]
        return self._ownership.phase is Phase.HELD

    def start(self) -> None:
        self._neighbours.listen()

    def stop(self) -> None:
        self.deposed()
        self._neighbours.close()
        self._kernel.close()

    def elected(self, handed_over_since: float | None) -> None:
        """As ``Ownership.elected``."""
        self._ownership.elected(self._clock(), handed_over_since)

    def deposed(self) -> None:
        self._run(self._ownership.deposed())

    def tick(self, certain_until: float) -> None:
        self._run(self._ownership.tick(self._clock(), certain_until))

    def give_up(self) -> bool:
        """Another peer is about to be told to lead. False: it may not be, yet."""
        self._ownership.handing_over(self._clock())
        try:
            self._kernel.give_up().result(GIVE_UP_S)
        except Exception as error:  # OSError, netlink's, TimeoutError: all mean the same to us
            if self._is_due():
                logger.error(
                    "%s cannot be given up: %r", self.vip, error, extra={"action": "vip_stuck"}
                )
            return False
        return True

    def _on_answer(self, hardware: str) -> None:
        self._run(self._ownership.answered(self._clock(), hardware))

    def _run(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Probe():
                    self._neighbours.probe()
                case Hold(by):
                    self._hold(by)
                case Announce():
                    self._neighbours.announce()
                case GiveUp():
                    self._kernel.give_up()
                    logger.info("this host gives %s up", self.vip, extra={"action": "vip_given_up"})
                case TellConflict(hardware, taken):
                    self._tell_conflict(hardware, taken=taken)

    def _hold(self, by: float) -> None:
        if self._holding is not None and not self._holding.done():
            return
        loop = asyncio.get_running_loop()
        self._holding = self._kernel.hold(by)
        self._holding.add_done_callback(lambda done: loop.call_soon_threadsafe(self._on_done, done))

    def _on_done(self, holding: Future[None]) -> None:
        error, now = holding.exception(), self._clock()
        if error is None:
            if self._ownership.phase is Phase.TAKING:
                logger.info("this host has %s", self.vip, extra={"action": "vip_taken"})
            self._run(self._ownership.taken(now))
            return
        self._ownership.lost(now)
        if not isinstance(error, Late) and self._is_due():
            logger.error(
                "this host cannot have %s: %r", self.vip, error, extra={"action": "vip_failed"}
            )

    def _tell_conflict(self, hardware: str, *, taken: bool) -> None:
        logger.error(
            "the host with the link address %s says that it has %s; %s. Find it, and take the "
            "address from it",
            hardware,
            self.vip.ip,
            "this host has it too" if taken else "it is not taken while that host answers",
            extra={"action": "vip_conflict"},
        )

    def _is_due(self) -> bool:
        """Whether a failure is to be told of (again)."""
        now = self._clock()
        if now - self._told_at < TELL_EVERY_S:
            return False
        self._told_at = now
        return True
