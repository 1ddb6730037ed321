"""Partitions: which hosts cannot hear which others, cut at the switch.

``one`` and ``one-way-…`` cut a peer off from everybody; the other shapes cut links between peers,
and leave workers and clients their view of all of them. A cut tells nobody: neither FIN nor RST.

Proof: each link counts the frames that were dropped on it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from random import Random
from typing import TYPE_CHECKING, Any

from chaos.faults.base import (
    LASTS,
    VICTIM,
    Active,
    Argument,
    Command,
    Fault,
    Simple,
    chosen,
    lacks,
    one_of,
)

if TYPE_CHECKING:
    from chaos.targets.base import Target
    from chaos.wire.network import Link, Network

SHAPES = (
    *("one", "halves", "majority", "bridge", "majorities-ring", "one-way-in", "one-way-out"),
    *("client-side", "worker-side", "swizzle"),
)
SWIZZLE_S = 0.3  # between two links that go, or come back


def network_of(target: Target) -> Network:
    """Of a target with the ability ``network``."""
    found: Network = vars(target)["network"]
    return found


@dataclass
class Partition:
    """Links that are cut."""

    network: Network
    links: Sequence[Link]
    counted: dict[str, int] = field(default_factory=dict)
    healed: bool = False
    will: Sequence[Command] = ()

    def heal(self) -> None:
        if not self.healed:
            self._count()
            self.network.heal_links(self.links)
            self.healed = True

    def proof(self) -> str | None:
        if not self.healed:
            self._count()
        fired = [f"{link}: {count}" for link, count in self.counted.items() if count]
        return f"frames dropped, {', '.join(fired)}" if fired else None

    def _count(self) -> None:
        ours = {f"{a}→{b}" for a, b in self.links}
        self.counted |= {n: c for n, c in self.network.dropped().items() if n in ours}


def cut(network: Network, links: Sequence[Link]) -> Partition:
    network.cut_links(links)
    return Partition(network, links, will=network.heal_will(links))


def shape(
    kind: str, peers: Sequence[str], others: Sequence[str], victim: str, random: Random
) -> list[Link]:
    """The links that a partition of this kind cuts. Pure.

    ``others``: the workers' hosts or the clients', for the kinds that are on their side.
    """
    rest = [peer for peer in peers if peer != victim]
    match kind:
        case "halves":
            shuffled = random.sample(peers, len(peers))
            return both_ways(shuffled[: len(peers) // 2], shuffled[len(peers) // 2 :])
        case "majority":
            # The victim with as many as are no majority, on the other side of all that are.
            minority = [victim, *random.sample(rest, (len(peers) - 1) // 2 - 1)]
            return both_ways(minority, [peer for peer in peers if peer not in minority])
        case "bridge":
            # Two halves that hear one peer in common, and not each other.
            half = len(rest) // 2
            shuffled = random.sample(rest, len(rest))
            return both_ways(shuffled[:half], shuffled[half:])
        case "majorities-ring":
            return _ring(random.sample(peers, len(peers)))
        case "client-side" | "worker-side":
            return both_ways([victim], others)
        case _:
            raise AssertionError(kind)


def both_ways(some: Sequence[str], others: Sequence[str]) -> list[Link]:
    return [link for a in some for b in others for link in ((a, b), (b, a))]


def _ring(peers: Sequence[str]) -> list[Link]:
    """Everybody hears a majority, and no two the same one: of three peers, two hear each only one
    other, the third both."""
    n = len(peers)
    reach = (n // 2 + 1) // 2
    heard = {
        frozenset((peers[i], peers[(i + step) % n]))
        for i in range(n)
        for step in range(1, reach + 1)
        if n > 3 or i < n - 1
    }
    apart = [pair for pair in combinations(peers, 2) if frozenset(pair) not in heard]
    return [link for a, b in apart for link in ((a, b), (b, a))]


def _partition(
    target: Target, random: Random, kind: str, lasts_s: float | None, word: str
) -> Active:
    network, peers = network_of(target), target.peers
    if kind == "swizzle":
        return Swizzle(network, both_ways(peers, peers), random)
    victim, *_ = chosen(target, word, random)
    if kind in ("one", "one-way-in", "one-way-out"):
        links = network.links_of(
            [victim], sends=kind != "one-way-in", receives=kind != "one-way-out"
        )
        return cut(network, links)
    hosts = [host for host in network.addresses if host not in peers]
    ours = set(target.workers)
    others = [host for host in hosts if (host in ours) == (kind == "worker-side")]
    return cut(network, shape(kind, peers, others, victim, random))


class Swizzle:
    """Links go one by one, in random order, and come back in another one (as FoundationDB does)."""

    def __init__(self, network: Network, links: Sequence[Link], random: Random) -> None:
        self._network = network
        pairs = [(a, b) for a, b in links if a < b]
        self._going = random.sample(pairs, len(pairs))
        self._coming = random.sample(pairs, len(pairs))
        self._cuts: dict[Link, Partition] = {}
        self._stop = threading.Event()
        self.will: Sequence[Command] = network.heal_will(links)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def heal(self) -> None:
        self._stop.set()
        self._thread.join()
        for partition in self._cuts.values():
            partition.heal()

    def proof(self) -> str | None:
        proofs = [proof for partition in self._cuts.values() if (proof := partition.proof())]
        return "; ".join(proofs) or None

    def _run(self) -> None:
        def go(pair: Link) -> None:
            self._cuts[pair] = cut(self._network, both_ways(pair[:1], pair[1:]))

        steps: list[tuple[Callable[[Any], object], Link]] = [(go, pair) for pair in self._going]
        steps += [(lambda pair: self._cuts[pair].heal(), pair) for pair in self._coming]
        for step, pair in steps:
            if self._stop.wait(SWIZZLE_S):
                return
            step(pair)


@dataclass
class Taken:
    """Frames of a kind that hosts cannot send: see ``Network.take_away``."""

    network: Network
    what: Any
    hosts: Sequence[str]
    counted: dict[str, int] = field(default_factory=dict)
    healed: bool = False
    will: Sequence[Command] = ()

    def heal(self) -> None:
        if not self.healed:
            self.proof()
            self.network.give_back(self.what, self.hosts)
            self.healed = True

    def proof(self) -> str | None:
        if not self.healed:
            found = self.network.dropped(self.what)
            self.counted = {host: found.get(host, 0) for host in self.hosts}
        fired = [f"{host}: {count}" for host, count in self.counted.items() if count]
        return f"frames dropped, {', '.join(fired)}" if fired else None


def take_away(network: Network, what: Any, hosts: Sequence[str]) -> Taken:
    network.take_away(what, hosts)
    return Taken(network, what, hosts, will=network.give_back_will(what, hosts))


@dataclass
class Unplugged:
    """A host whose port at the switch is down: it sees no carrier."""

    network: Network
    host: str
    seen: bool
    will: Sequence[Command] = ()

    def heal(self) -> None:
        self.network.plug_in(self.host)

    def proof(self) -> str | None:
        return f"{self.host} has no carrier" if self.seen else None


def _unplug(target: Target, random: Random, lasts_s: float | None, word: str) -> Active:
    network = network_of(target)
    victim, *_ = chosen(target, word, random)
    network.unplug(victim)
    return Unplugged(network, victim, not network.has_carrier(victim))


_NETWORK = lacks("network")
_WHO: tuple[Argument, ...] = (LASTS, VICTIM)

FAULTS: tuple[Fault, ...] = (
    Simple(
        "partition",
        "Hosts hear each other no more, in this shape; the switch drops what they send.",
        _partition,
        (one_of(*SHAPES), *_WHO),
        _NETWORK,
    ),
    Simple(
        "unplug",
        "The switch's port of a host goes down: it loses its carrier.",
        _unplug,
        _WHO,
        _NETWORK,
    ),
)
