"""Variable, queue, lock and semaphore as functions of their state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from chaos.checkers.linearizability.search import Call


@dataclass(frozen=True)
class Register:
    """``set`` and ``get``, as of ``distributed.Variable``."""

    initial: Any = None

    def after(self, state: Any, call: Call) -> Sequence[Any]:
        if call.f == "set":
            return (call.given,) if call.known else (call.given, state)
        return (state,) if not call.known or call.got == state else ()


@dataclass(frozen=True)
class Fifo:
    """``put`` and ``get`` of a queue that holds ``capacity`` (0: any number)."""

    capacity: int = 0
    initial: tuple[Any, ...] = ()

    def after(self, state: tuple[Any, ...], call: Call) -> Sequence[tuple[Any, ...]]:
        if call.f == "put":
            full = self.capacity and len(state) >= self.capacity
            put = () if full else ((*state, call.given),)
            return put if call.known else (state, *put)
        if not call.known:
            return (state, state[1:]) if state else (state,)
        return (state[1:],) if state and state[0] == call.got else ()


@dataclass(frozen=True)
class Mutex:
    """``acquire`` and ``release`` with the name of the holder as what is given."""

    initial: str | None = None

    def after(self, state: str | None, call: Call) -> Sequence[str | None]:
        before, then = (None, call.given) if call.f == "acquire" else (call.given, None)
        happened = (then,) if state == before else ()
        return happened if call.known else (state, *happened)


@dataclass(frozen=True)
class Leases:
    """``acquire`` and ``release`` of a semaphore of ``limit``."""

    limit: int
    initial: frozenset[str] = frozenset()

    def after(self, state: frozenset[str], call: Call) -> Sequence[frozenset[str]]:
        if call.f == "acquire":
            happened = (state | {call.given},) if len(state) < self.limit else ()
        else:
            happened = (state - {call.given},) if call.given in state else ()
        return happened if call.known else (state, *happened)
