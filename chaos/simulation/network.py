"""The network between peers: everything that TCP and what lies below it may do, and more.

A message is lost, delivered twice, held for seconds, overtaken, or stopped by a cut. A cut drops
what is sent over it or holds it until the cut heals: an old message is a greater danger than a
lost one. Cuts have a direction and may overlap. Every message crosses as the wire format of the
product.

``shape`` draws who is cut from whom.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from chaos.simulation.clock import Timeline
from chaos.simulation.options import Options
from ha_scheduler.raft.messages import Message
from ha_scheduler.raft.wire import message_from_wire, message_to_wire

Link = tuple[int, int]
"""From one peer to another."""


@dataclass(slots=True, eq=False)
class Cut:
    """Some links do not work for a while. Two cuts of the same links are still two."""

    links: frozenset[Link]
    holds: bool
    held: list[Message] = field(default_factory=list)


class Network:
    """Takes messages and gives them to ``deliver``, now and then."""

    def __init__(
        self,
        timeline: Timeline,
        rng: random.Random,
        options: Options,
        deliver: Callable[[Message], None],
        lost: Callable[[Message], None],
    ) -> None:
        self.cuts: list[Cut] = []
        self.calm = False
        self._timeline = timeline
        self._rng = rng
        self._options = options
        self._deliver = deliver
        self._lost = lost
        self._last_arrival: dict[Link, float] = {}

    def send(self, message: Message) -> None:
        """A message leaves its peer."""
        rng, options = self._rng, self._options
        if not self.calm:
            if rng.random() < options.loss:
                self._lost(message)
                return
            if rng.random() < options.duplicate:
                self._travel(message)
        self._travel(message)

    def open(self, source: int, to: int) -> bool:
        """Whether a connection between the two works, in both directions."""
        return not any((source, to) in c.links or (to, source) in c.links for c in self.cuts)

    def cut(self, links: frozenset[Link], *, holds: bool) -> Cut:
        """From now on these links do not work."""
        cut = Cut(links, holds)
        self.cuts.append(cut)
        return cut

    def heal(self, cut: Cut) -> None:
        """This cut is over; what it held goes on its way."""
        if cut in self.cuts:
            self.cuts.remove(cut)
            for message in cut.held:
                self._travel(message)

    def heal_all(self) -> None:
        """No cut is left."""
        for cut in list(self.cuts):
            self.heal(cut)

    def _travel(self, message: Message) -> None:
        rng, options, link = self._rng, self._options, (message.source, message.to)
        delay = options.delay_s * (0.5 + rng.expovariate(1.0))
        if not self.calm and rng.random() < options.late:
            delay += rng.expovariate(1.0) * options.late_s
        elif options.in_order:
            arrival = max(self._timeline.now + delay, self._last_arrival.get(link, 0.0))
            self._last_arrival[link] = arrival
            delay = arrival - self._timeline.now
        self._timeline.after(delay, self._arrive, message_to_wire(message))

    def _arrive(self, wire: bytes) -> None:
        message = message_from_wire(wire)
        for cut in self.cuts:
            if (message.source, message.to) in cut.links:
                if cut.holds:
                    cut.held.append(message)
                else:
                    self._lost(message)
                return
        self._deliver(message)


def shape(rng: random.Random, peers: Sequence[int], leader: int) -> tuple[str, frozenset[Link]]:
    """Who is cut from whom: the name of the shape, and the links."""
    draws = (_isolated, _one_way, _halves, _bridge, _ring, _pair, _random_links)
    draw = rng.choice(draws)
    order = list(peers)
    rng.shuffle(order)
    if leader in order and rng.random() < 0.5:  # what happens to the leader is worth more
        order.remove(leader)
        order.insert(0, leader)
    return draw.__name__[1:], frozenset(draw(rng, order))


def _both(pairs: list[Link]) -> list[Link]:
    return pairs + [(b, a) for a, b in pairs]


def _isolated(rng: random.Random, order: list[int]) -> list[Link]:
    return _both([(order[0], other) for other in order[1:]])


def _one_way(rng: random.Random, order: list[int]) -> list[Link]:
    links = [(order[0], other) for other in order[1:]]
    return links if rng.random() < 0.5 else [(b, a) for a, b in links]


def _halves(rng: random.Random, order: list[int]) -> list[Link]:
    at = rng.randint(1, max(1, len(order) - 1))
    return _both([(a, b) for a in order[:at] for b in order[at:]])


def _bridge(rng: random.Random, order: list[int]) -> list[Link]:
    """Two halves, and one peer in both."""
    rest = order[1:]
    at = len(rest) // 2
    return _both([(a, b) for a in rest[:at] for b in rest[at:]])


def _ring(rng: random.Random, order: list[int]) -> list[Link]:
    """Each peer sees a majority, and no two of them the same one."""
    count = len(order)
    near = (count // 2 + 1) // 2
    pairs = [
        (order[a], order[b])
        for a, b in combinations(range(count), 2)
        if min(b - a, count - b + a) > near
    ]
    return _both(pairs)


def _pair(rng: random.Random, order: list[int]) -> list[Link]:
    return _both([(order[0], order[-1])])


def _random_links(rng: random.Random, order: list[int]) -> list[Link]:
    return [(a, b) for a in order for b in order if a != b and rng.random() < 0.4]
