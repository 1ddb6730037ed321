"""The leader lease: until when leadership is certain, by the followers' answers. Pure.

Guarantee: ``certain_until`` lies before the earliest possible election of another peer.

A follower that hears its leader refuses other candidates for ``election_ticks``. Messages carry the
leader's tick and answers echo it, so an answer proves contact at the moment its *question* left,
however long the network held either. The quorum's newest common moment of contact, plus the
election timeout less a margin, is the end of the lease.

The margin covers the phase between two peers' ticks (one) and the drift of their clocks. The
follower's side is in ``driver.py``: it counts due ticks before it takes in a message, so none of
them is counted after it.

A leader that told another peer to campaign (``TIMEOUT_NOW``) has no certainty: that message may
arrive at any time. It has it again when that peer answers a message of a later tick, from which on
the peer ignores the old order.
"""

from __future__ import annotations

from collections.abc import Iterable

from ha_scheduler.raft.messages import FROM_LEADER, Message, MessageKind

MARGIN_TICKS = 2  # taken off the promise of a follower
REMEMBERED_MAX = 4096  # own ticks whose time is kept; minutes more than an answer takes

_ANSWERS = frozenset({MessageKind.HEARTBEAT_RESPONSE, MessageKind.APPEND_RESPONSE})


class LeaderLease:
    """The leader's contacts with its followers, by time."""

    def __init__(self, own_id: int, lease_s: float) -> None:
        self._own_id = own_id
        self._lease_s = lease_s
        self._sent_at: dict[int, float] = {}  # tick → when the first message of it left
        self._heard: dict[int, float] = {}  # peer → when the question it answered left
        self._given_away: dict[int, int] = {}  # peer told to campaign → tick
        self.term = 0

    @property
    def closed(self) -> bool:
        """Whether a transfer target may campaign at any moment."""
        return bool(self._given_away)

    def begin(self, term: int) -> None:
        """We lead in ``term``; earlier contact proves nothing."""
        self.term = term
        self._heard.clear()
        self._sent_at.clear()
        self._given_away.clear()

    def sent(self, message: Message, now: float) -> None:
        """A message is about to leave."""
        if message.kind is MessageKind.TIMEOUT_NOW:
            self._given_away[message.to] = message.tick
        elif message.kind in FROM_LEADER and message.tick not in self._sent_at:
            self._sent_at[message.tick] = now
            while len(self._sent_at) > REMEMBERED_MAX:
                del self._sent_at[next(iter(self._sent_at))]

    def answered(self, message: Message) -> bool:
        """A message came in; whether it proves newer contact."""
        if message.kind not in _ANSWERS or message.term != self.term:
            return False
        if message.tick > self._given_away.get(message.source, message.tick):
            del self._given_away[message.source]
        at = self._sent_at.get(message.tick)
        if at is None or at <= self._heard.get(message.source, 0.0):
            return False
        self._heard[message.source] = at
        return True

    def certain_until(self, voters: Iterable[int], now: float) -> float:
        """The end of the lease, by the clock of ``now``; 0.0 without certainty."""
        if self.closed:
            return 0.0
        newest = sorted(
            (now if peer == self._own_id else self._heard.get(peer, 0.0) for peer in voters),
            reverse=True,
        )
        if not newest:
            return 0.0
        contact = newest[len(newest) // 2]  # a majority has heard us at or after this moment
        return contact + self._lease_s if contact else 0.0
