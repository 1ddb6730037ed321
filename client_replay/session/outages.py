"""The outages that a client has seen, and what it says of them.

Guarantee: of each one sentence at once, one every ``REMIND_S`` while it lasts, and one at its end,
with the reasons for which nobody was found. ``Client.outages`` has the past ones with their phases.
The clock is handed in; nothing here waits or sends.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

logger = logging.getLogger("distributed.client.ha")

REMIND_S = 30.0
OUTAGES_MAX = 100  # remembered
PEERS_SHOWN = 7


@dataclass(frozen=True, slots=True)
class Outage:
    """Times of day in seconds; ``phases`` are seconds since ``began``, in their order.

    Phases: ``connected`` to a leader, which has ``welcomed`` us; or we ``gave up``. ``ended`` is
    None while it lasts.
    """

    began: float
    leader: str  # that was lost
    ended: float | None = None
    successor: str = ""
    term: int = 0  # of the successor
    phases: dict[str, float] = field(default_factory=dict)
    silent: dict[str, str] = field(default_factory=dict)  # peers that did not answer last, and why

    @property
    def seconds(self) -> float | None:
        return None if self.ended is None else self.ended - self.began


class Outages:
    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._past: deque[Outage] = deque(maxlen=OUTAGES_MAX)
        self._present: Outage | None = None
        self._silent_since: dict[str, float] = {}

    @property
    def present(self) -> Outage | None:
        return self._present

    def since(self) -> str:
        """Of the present one."""
        return clock(self._present.began) if self._present else ""

    def all(self) -> list[Outage]:
        """Oldest first; the present one is the last."""
        return [*self._past, *([self._present] if self._present else ())]

    def begin(self, leader: str, open_requests: int) -> None:
        """The stream of the leader is over. Another that breaks meanwhile is the same outage."""
        if self._present is not None:
            return
        self._present = Outage(self._now(), leader)
        self._silent_since = {}
        logger.warning(
            "The leader%s is lost. Futures stay as they are, what is submitted waits for the next "
            "leader (%d requests are open); looking for it.",
            f" {leader}" if leader else "",
            open_requests,
            extra={"action": "outage_began"},
        )

    def reached(self, phase: str) -> None:
        if self._present is not None:
            after = self._now() - self._present.began
            phases = {**self._present.phases, phase: after}
            self._present = replace(self._present, phases=phases)

    def over(self, leader: str, term: int) -> None:
        """A leader has welcomed us."""
        if self._present is None:
            return
        self.reached("welcomed")
        self._end(leader, term)
        logger.warning(
            "%s leads, in term %d; the outage lasted %.1f s.",
            leader,
            term,
            self._past[-1].seconds,
            extra={"action": "outage_over"},
        )

    def gave_up(self) -> None:
        self.reached("gave up")
        self._end("", 0)

    def _end(self, successor: str, term: int) -> None:
        if self._present is not None:
            ended = replace(self._present, ended=self._now(), successor=successor, term=term)
            self._past.append(ended)
        self._present = None

    def heard_of(self, silent: Mapping[str, str]) -> None:
        """Which peers do not answer, and why."""
        now = self._now()
        self._silent_since = {name: self._silent_since.get(name, now) for name in silent}
        if self._present is not None:
            self._present = replace(self._present, silent=dict(silent))

    def remind(self, refusals: Mapping[str, str], peers: int) -> None:
        """It still lasts."""
        logger.warning("%s", self.story(refusals, peers), extra={"action": "outage_lasts"})

    def story(self, refusals: Mapping[str, str], peers: int) -> str:
        """Who was tried, since when, and why each refused. ``peers``: how many are known."""
        outage = self._present
        began = outage.began if outage else self._now()
        words = [f"no leader was found since {clock(began)} ({self._now() - began:.0f} s)"]
        if outage and outage.silent:
            since = clock(min(self._silent_since.values()))
            words.append(
                f"{len(outage.silent)} of {peers} peers do not answer since {since}: "
                + _listed(outage.silent)
            )
        if refusals:
            words.append(f"tried {_listed(refusals)}")
        return "; ".join(words) + "."


def clock(seconds: float) -> str:
    """A time of day, local."""
    return time.strftime("%H:%M:%S", time.localtime(seconds))


def _listed(reasons: Mapping[str, str]) -> str:
    shown = [f"{name} ({why})" for name, why in list(reasons.items())[:PEERS_SHOWN]]
    return ", ".join([*shown, "…"] if len(reasons) > PEERS_SHOWN else shown)
