"""What a fault is, and how one is written: ``kill:leader``, ``pause:leader:3s``.

A fault that did not fire proves nothing: ``Active.proof`` is evidence from outside the fault (an
exit status, a counter of the switch, the end of a process), never "the call returned". What a fault
did is undone by ``heal``; where the harness could die before it, ``will`` says how somebody else
undoes it, as commands to run in order.

Arguments are words after colons, in any order: each is taken by the first argument that it fits.
They are checked before a run begins, so that a mistake costs nobody an hour.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from ha_scheduler.errors import OperatorError

if TYPE_CHECKING:
    from chaos.targets.base import Target

#: Who is meant, beside a peer by its name.
VICTIMS = ("leader", "follower", "followers", "minority", "majority", "all", "random")

LEADER_S_MAX = 15.0  # until a fault that is for the leader gives up
POLL_S = 0.05

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_NAME = re.compile(r"[a-z][a-z0-9-]*")
_SECONDS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}

#: A program and its arguments, which undo something when the harness cannot.
Command = Sequence[str]


class BadFault(OperatorError):
    """Operator: there is no such fault, or not with these arguments; the text lists those."""


class CannotInject(Exception):
    """Harness: the fault could not be made just now (nobody led, a process had ended)."""


@runtime_checkable
class Active(Protocol):
    """A fault that was injected."""

    def heal(self) -> None:
        """Undo it. Idempotent, and safe if the injection was interrupted half way."""

    def proof(self) -> str | None:
        """How one can tell that it fired; None if it did not. Also after ``heal``."""

    @property
    def will(self) -> Sequence[Command]:
        """What to run if the harness ends before ``heal``; nothing if its end undoes it anyway."""


@runtime_checkable
class Fault(Protocol):
    """A kind of fault."""

    @property
    def name(self) -> str:
        """The first word, as ``kill``."""

    @property
    def usage(self) -> str:
        """The arguments, as ``[VICTIM][:PART]``."""

    @property
    def about(self) -> str:
        """One sentence."""

    @property
    def destroys(self) -> bool:
        """Whether what is on a disk is lost; beyond a minority of disks nothing would be proved."""

    def check(self, arguments: Sequence[str]) -> None:
        """Raise ``BadFault`` unless it could be made with these arguments on some target."""

    def lasts(self, arguments: Sequence[str]) -> float | None:
        """Seconds until it is to be healed, by the arguments; None: as the scenario has it."""

    def unavailable(self, target: Target) -> str | None:
        """Why it cannot be made there, in words; None if it can."""

    def prepare(self, target: Target) -> None:
        """Before the target starts: what its processes need for the fault to be made in them.

        Raises ``CannotInject``.
        """

    def inject(self, target: Target, arguments: Sequence[str], random: Random) -> Active:
        """Make it. Raises ``CannotInject``; ``BadFault`` for arguments not of this target."""


@dataclass(frozen=True, slots=True)
class Call:
    """A fault with its arguments, as somebody wrote it."""

    name: str
    arguments: tuple[str, ...] = ()

    def __str__(self) -> str:
        return ":".join((self.name, *self.arguments))


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a fault: ``read`` gives its value, or None for a word that is no such."""

    word: str  # as the usage names it
    read: Callable[[str], object | None]
    default: object


@dataclass(frozen=True, slots=True)
class Simple:
    """A fault made by a function of the target, the random numbers and its arguments in order."""

    name: str
    about: str
    make: Callable[..., Active]
    arguments: tuple[Argument, ...] = ()
    lacks: Callable[[Target], str | None] = lambda target: None
    destroys: bool = False
    prepare: Callable[[Target], None] = lambda target: None

    @property
    def usage(self) -> str:
        return "".join(f"[:{argument.word}]" for argument in self.arguments)

    def check(self, arguments: Sequence[str]) -> None:
        self._read(arguments)

    def lasts(self, arguments: Sequence[str]) -> float | None:
        given = self._read(arguments)
        return next((value for value in given if isinstance(value, Lasting)), None)

    def unavailable(self, target: Target) -> str | None:
        return self.lacks(target)

    def inject(self, target: Target, arguments: Sequence[str], random: Random) -> Active:
        return self.make(target, random, *self._read(arguments))

    def _read(self, words: Sequence[str]) -> list[object]:
        values: dict[str, object] = {}
        for word in words:
            for argument in self.arguments:
                if argument.word not in values and (value := argument.read(word)) is not None:
                    values[argument.word] = value
                    break
            else:
                raise BadFault(f"{word!r} does not fit {self.name}{self.usage}.")
        return [values.get(argument.word, argument.default) for argument in self.arguments]


class Lasting(float):
    """Seconds that say when a fault is to be healed."""


def parse(text: str) -> Call:
    """``pause:leader:3s`` as a name and its arguments. Raises ``BadFault``."""
    name, *arguments = text.strip().split(":")
    if not name or not all(arguments):
        raise BadFault(f"{text!r} is no fault: write NAME[:ARGUMENT…], as kill:leader.")
    return Call(name, tuple(arguments))


class Registry:
    """The faults there are, by name."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self._faults = {fault.name: fault for fault in faults}

    def __iter__(self) -> Iterator[Fault]:
        return iter(self._faults.values())

    def of(self, call: Call) -> Fault:
        """The fault of a call whose arguments are as it takes them. Raises ``BadFault``."""
        fault = self._faults.get(call.name)
        if fault is None:
            known = ", ".join(sorted(self._faults))
            raise BadFault(f"There is no fault {call.name!r}; there are: {known}.")
        fault.check(call.arguments)
        return fault


# -- arguments


def one_of(*words: str) -> Argument:
    """One of these; the first, if none is named."""
    return Argument("|".join(words), lambda word: word if word in words else None, words[0])


def _victim(word: str) -> str | None:
    return word if _NAME.fullmatch(word) else None


#: Who: a word of ``VICTIMS`` or a peer, which the target must have. Last, for most words fit it.
VICTIM = Argument("VICTIM", _victim, "leader")


def _seconds(word: str) -> float | None:
    found = _DURATION.fullmatch(word)
    return float(found[1]) * _SECONDS[found[2]] if found else None


def duration(word: str, default_s: float) -> Argument:
    """Seconds, written as ``3s``, ``200ms``, ``2m``, ``5h``."""
    return Argument(word, _seconds, default_s)


def _lasting(word: str) -> Lasting | None:
    seconds = _seconds(word)
    return None if seconds is None else Lasting(seconds)


#: Until the fault is to be healed; as the scenario has it, if it is not named.
LASTS = Argument("LASTS", _lasting, None)


def number(word: str, default: int, least: int = 1, most: int = 1_000_000) -> Argument:
    """A whole number within these bounds."""

    def read(text: str) -> int | None:
        return int(text) if text.isdecimal() and least <= int(text) <= most else None

    return Argument(word, read, default)


def percent(default: float) -> Argument:
    """A share, written as ``20%``."""

    def read(text: str) -> float | None:
        digits = text.removesuffix("%")
        fits = text.endswith("%") and digits.isdecimal() and 0 < int(digits) <= 100
        return int(digits) / 100 if fits else None

    return Argument("SHARE", read, default)


def chosen(target: Target, word: str, random: Random) -> tuple[str, ...]:
    """The peers that a word of ``VICTIMS`` or a name means at this moment.

    Waits for a leader if that is who is meant. Raises ``CannotInject`` if nobody leads for
    ``LEADER_S_MAX``, and ``BadFault`` for what is no peer's name.
    """
    peers = target.peers
    if word in peers:
        return (word,)
    if word in ("all", "random", "minority", "majority"):
        counts = {"all": len(peers), "random": 1, "minority": (len(peers) - 1) // 2}
        return tuple(random.sample(peers, counts.get(word, len(peers) // 2 + 1)))
    if word not in VICTIMS:
        raise BadFault(f"{word!r} is no peer of {', '.join(peers)}, and none of {VICTIMS}.")
    deadline = time.monotonic() + LEADER_S_MAX
    while (leader := target.leader()) is None:
        if time.monotonic() > deadline:
            raise CannotInject(f"nobody leads, so {word!r} means nobody")
        time.sleep(POLL_S)
    followers = [peer for peer in peers if peer != leader]
    match word:
        case "leader":
            return (leader,)
        case "follower":
            return (random.choice(followers),)
        case _:
            return tuple(followers)


def lacks(*abilities: str) -> Callable[[Target], str | None]:
    """For targets that have not all of these."""

    def why(target: Target) -> str | None:
        missing = [ability for ability in abilities if ability not in target.abilities]
        return f"the target {target.name} has no {', '.join(missing)}" if missing else None

    return why


def table(faults: Iterable[Fault], target: Target) -> Mapping[str, str | None]:
    """Each fault with why it cannot be made there, or None."""
    return {fault.name: fault.unavailable(target) for fault in faults}
