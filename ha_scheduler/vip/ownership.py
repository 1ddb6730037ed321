"""When this peer may have the virtual address. Pure: events in, effects out.

Guarantee: no two peers have it at once, whatever was killed, frozen or cut off between them.

The kernel takes the address away by itself, ``GONE_S`` after its last refresh at the latest; so
nobody must be alive to lose it. A leader refreshes only while a quorum's last contact is younger
than ``fresh_s``. Whoever is elected without its help was elected no sooner than the lease length
after that contact (``peer/consensus/lease.py``), and waits for the rest of ``GONE_S``. A leader
that *hands over* gives the address up before the order to campaign leaves it, and its heir waits
for no more than it had to wait itself.

Before the address is taken the network is asked for it. Who answers is no peer of the cell, or a
peer whose clock stands still: the address is not taken while anybody answers.

Assumed: the kernels' clocks run at one rate, and a kernel removes what has expired within
``KERNEL_LATE_S``. A suspended host that resumes has the address until its daemon runs again; its
lease is over, so nothing is served there.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

LIFETIME_S = 1  # of the address in the kernel, which counts in seconds
#: Linux looks for expired addresses up to HZ/4 late (net/ipv4/devinet.c, check_lifetime).
KERNEL_LATE_S = 0.4
GONE_S = LIFETIME_S + KERNEL_LATE_S
FRESH_S_MAX = 0.25  # two missed heartbeats; a longer silence of the quorum is doubt
PROBE_S = 0.1  # how long an answer to a probe is waited for; a LAN answers within milliseconds
REFRESH_S = 0.1
#: After it was taken: switches and neighbours forget one packet in many.
ANNOUNCE_AT_S = (0.0, 0.1, 0.5, 1.0, 2.0, 5.0)
DEFEND_EVERY_S = 10.0  # RFC 5227, 2.4(c), DEFEND_INTERVAL
TELL_EVERY_S = 30.0


@dataclass(frozen=True, slots=True)
class Probe:
    """Ask the network who has the address."""


@dataclass(frozen=True, slots=True)
class Hold:
    """Give the address to this host for ``LIFETIME_S``: ``by`` this moment, or not at all."""

    by: float


@dataclass(frozen=True, slots=True)
class Announce:
    """Tell the neighbours that the address is here."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Take the address from this host now."""


@dataclass(frozen=True, slots=True)
class TellConflict:
    """Tell the operator who else has it. ``taken``: whether this peer has it all the same."""

    hardware: str
    taken: bool


Effect = Probe | Hold | Announce | GiveUp | TellConflict


class Phase(enum.Enum):
    """Of the way to the address."""

    OTHERS = "others"  # this peer does not lead
    WAITING = "waiting"  # until the predecessor's host has it no more
    ASKING = "asking"
    TAKING = "taking"  # the kernel was told to have it
    HELD = "held"


class Ownership:
    """Of one virtual address. All times are of the lease's clock."""

    def __init__(self, lease_s: float) -> None:
        """``lease_s``: how long after a quorum's contact no other peer can be elected."""
        self.fresh_s = min(FRESH_S_MAX, lease_s / 2)
        self.wait_s = max(0.0, GONE_S + self.fresh_s - lease_s)
        self.phase = Phase.OTHERS
        self._lease_s = lease_s
        self._since = 0.0  # of the phase; of ``WAITING`` the end
        self._fresh_until = 0.0  # a quorum's last contact is young
        self._refreshed_at = 0.0
        self._announced = 0
        self._answered_by = ""
        self._defended_at = self._told_at = -TELL_EVERY_S

    # -- events

    def elected(self, now: float, handed_over_since: float | None) -> None:
        """This peer leads.

        ``handed_over_since``: by the order of its predecessor, which led since this moment at the
        latest, and may itself have waited for the one before; None: elected without an order.
        """
        since = now if handed_over_since is None else handed_over_since
        self._enter(Phase.WAITING, max(now, since + self.wait_s - PROBE_S))

    def deposed(self) -> list[Effect]:
        """It leads no longer."""
        had = self.phase in (Phase.TAKING, Phase.HELD)
        self._enter(Phase.OTHERS, 0.0)
        return [GiveUp()] if had else []

    def handing_over(self, now: float) -> None:
        """The order to campaign is about to leave, and the address with it. If nobody obeys, this
        peer's lease comes back, and it takes the address again."""
        if self.phase not in (Phase.OTHERS, Phase.WAITING):
            self._enter(Phase.WAITING, now)

    def taken(self, now: float) -> list[Effect]:
        """The kernel has the address."""
        if self.phase is not Phase.TAKING:
            return []
        self._enter(Phase.HELD, now)
        self._announced = 0
        return self._announcements(now)

    def lost(self, now: float) -> None:
        """The kernel could not be given it, or not in time."""
        if self.phase in (Phase.TAKING, Phase.HELD):
            self._enter(Phase.WAITING, now)

    def answered(self, now: float, hardware: str) -> list[Effect]:
        """Another host says that it has the address."""
        if self.phase is not Phase.HELD:
            self._answered_by = hardware
            return []
        if now >= self._fresh_until:
            return []  # this peer was frozen, and that is the next leader's
        effects = self._tell(now, hardware, taken=True)
        if now - self._defended_at >= DEFEND_EVERY_S:
            self._defended_at = now
            effects.append(Announce())
        return effects

    def tick(self, now: float, certain_until: float) -> list[Effect]:
        """A moment. ``certain_until``: the end of the lease, 0.0 without one."""
        by = self._fresh_until = certain_until - self._lease_s + self.fresh_s
        if now >= by:
            return []
        match self.phase:
            case Phase.WAITING if now >= self._since:
                self._enter(Phase.ASKING, now)
                self._answered_by = ""
                return [Probe()]
            case Phase.ASKING if now >= self._since + PROBE_S:
                return self._judge(now, by)
            case Phase.TAKING | Phase.HELD if now >= self._refreshed_at + REFRESH_S:
                self._refreshed_at = now
                return [Hold(by), *self._announcements(now)]
        return []

    def check_invariants(self) -> None:
        assert self.fresh_s <= self._lease_s
        assert self.wait_s + self._lease_s >= GONE_S + self.fresh_s - 1e-9

    # -- decisions

    def _enter(self, phase: Phase, since: float) -> None:
        self.phase, self._since = phase, since

    def _judge(self, now: float, by: float) -> list[Effect]:
        if self._answered_by:
            self._enter(Phase.WAITING, now)
            return self._tell(now, self._answered_by, taken=False)
        self._enter(Phase.TAKING, now)
        self._refreshed_at = now
        return [Hold(by)]

    def _announcements(self, now: float) -> list[Effect]:
        if self.phase is not Phase.HELD or self._announced == len(ANNOUNCE_AT_S):
            return []
        if now < self._since + ANNOUNCE_AT_S[self._announced]:
            return []
        self._announced += 1
        return [Announce()]

    def _tell(self, now: float, hardware: str, *, taken: bool) -> list[Effect]:
        if now - self._told_at < TELL_EVERY_S:
            return []
        self._told_at = now
        return [TellConflict(hardware, taken)]
