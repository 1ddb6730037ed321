"""Packets and connections of a peer's host that are spoiled: late, lost, twice, torn apart.

Packets go through a wire in user space (``chaos/wire/spoil.py``) that is put between the host and
the switch. Connections are reset by the host's own kernel, or lose their ends at the switch.

Proof: the wire counts what it spoiled, the kernel what it reset, the switch what it dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

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
    percent,
)
from chaos.faults.network import Taken, network_of, take_away
from chaos.faults.process import kill
from chaos.wire.line import Line
from chaos.wire.spoil import Rules

if TYPE_CHECKING:
    from chaos.targets.base import Target
    from chaos.wire.network import Network

DELAY_S, JITTER_S = 0.05, 0.045
SLOW_BYTES_PER_S = 125_000.0  # a line of 1 Mbit/s
KINDS = ("delay", "jitter", "loss", "duplicate", "reorder", "corrupt", "rate", "all")
#: What the wire counts of each kind.
COUNTED = {"delay": "delayed", "jitter": "delayed", "rate": "paced"}


def rules(kind: str, share: float) -> Rules:
    """Those of a kind; all but the rate at once for ``all``. Pure."""
    match kind:
        case "delay":
            return Rules(delay_s=DELAY_S)
        case "jitter":
            return Rules(delay_s=DELAY_S, jitter_s=JITTER_S)
        case "rate":
            return Rules(rate=SLOW_BYTES_PER_S)
        case "all":
            few = share / 4
            return Rules(DELAY_S / 5, JITTER_S / 5, few, few, few, few)
        case _:
            return Rules(**{kind: share})


@dataclass
class Spoiled:
    """Hosts with a spoiling wire."""

    kind: str
    lines: Sequence[Line]
    counts: dict[str, int] = field(default_factory=dict)
    healed: bool = False
    will: Sequence[Command] = ()

    def heal(self) -> None:
        if not self.healed:
            self.proof()
            for line in self.lines:
                line.remove()
            self.healed = True

    def proof(self) -> str | None:
        if not self.healed:
            for line in self.lines:
                of_line = line.counts()
                name = COUNTED.get(self.kind, self.kind)
                spoiled = ("loss", "duplicate", "reorder", "corrupt")
                self.counts[line.host] = (
                    sum(of_line.get(each, 0) for each in spoiled)
                    if name == "all"
                    else of_line.get(name, 0)
                )
        fired = [f"{host}: {count}" for host, count in self.counts.items() if count]
        return f"packets spoiled ({self.kind}), {', '.join(fired)}" if fired else None


def _spoil(
    target: Target, random: Random, kind: str, share: float, lasts_s: float | None, word: str
) -> Active:
    network = network_of(target)
    lines = [Line(network, host, random.random()) for host in chosen(target, word, random)]
    for line in lines:
        line.insert()
        line.follow(rules(kind, share))
    return Spoiled(kind, lines, will=[command for line in lines for command in line.will])


@dataclass
class Resets:
    """A host whose kernel answers every packet of the cell's connections with a reset."""

    network: Network
    host: str
    count: int = 0
    healed: bool = False
    will: Sequence[Command] = ()

    def heal(self) -> None:
        if not self.healed:
            self.proof()
            self.network.stop_resets(self.host)
            self.healed = True

    def proof(self) -> str | None:
        if not self.healed:
            self.count = self.network.resets(self.host)
        return f"{self.count} packets of {self.host} were answered with RST" if self.count else None


def _reset(target: Target, random: Random, lasts_s: float | None, word: str) -> Active:
    network = network_of(target)
    victim, *_ = chosen(target, word, random)
    network.reset(victim)
    return Resets(network, victim, will=network.stop_resets_will(victim))


@dataclass
class HalfOpen:
    """A peer that died and came back, and whose connections' other ends were told nothing."""

    taken: Taken
    killed: Active
    will: Sequence[Command] = ()

    def heal(self) -> None:
        self.killed.heal()
        self.taken.heal()

    def proof(self) -> str | None:
        died, kept = self.killed.proof(), self.taken.proof()
        return f"{died}; FIN and RST: {kept}" if died and kept else None


def _half_open(target: Target, random: Random, lasts_s: float | None, word: str) -> Active:
    victim, *_ = chosen(target, word, random)
    taken = take_away(network_of(target), "without_ends", [victim])
    return HalfOpen(taken, kill(target, random, victim), taken.will)


_NETWORK = lacks("network")
_WHO: tuple[Argument, ...] = (LASTS, VICTIM)

FAULTS: tuple[Fault, ...] = (
    Simple(
        "packets",
        "Packets from and to a host are late, lost, repeated, reordered, damaged, or slow.",
        _spoil,
        (one_of(*KINDS), percent(0.2), *_WHO),
        lacks("network", "wire"),
    ),
    Simple(
        "reset", "Every connection of a host is reset, and each new one.", _reset, _WHO, _NETWORK
    ),
    Simple(
        "half-open",
        "A peer is killed, and neither FIN nor RST tells the other ends of its connections.",
        _half_open,
        _WHO,
        _NETWORK,
    ),
)
