"""Writes docs/state-machines.md: what two state machines do, found by trying all that can happen.

The machines are the product's own objects. From each state that is reached, each event is given to
a copy, and what the copy then is and answers is written down. So the page cannot say what the code
does not do, and a change of behaviour changes the page.
"""

from __future__ import annotations

import asyncio
import copy
import sys
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from ha_scheduler.engine.takeover import recovery
from ha_scheduler.peer.consensus.leadership import (
    Effect,
    EngineState,
    KillEngine,
    Leadership,
    Other,
)

TARGET = Path(__file__).with_name("state-machines.md")
HEADER = """\
# State machines

<!-- Made by `make docs`, which plays the machines through. -->

## Who leads, and with which engine

`peer/consensus/leadership.py`: events in, effects out; `peer/replica.py` carries the effects out,
and the module says what each means. An *heir* is another peer whose engine is ready. The term of a
leader is *proposed* until its record TermStarted commits, then *open*, and *used* once an engine
was activated in it. A leader *explains* the end of an engine that had something of a client open:
what it died of is in the log before anybody else leads. *Later* is at once if an engine has ended
under a leader, and else when a new leader has waited long enough for one.

The diagram leaves out the term, the effects, and with which engine a peer hands over; the table has
all.
"""
RECOVERY = """\
## The barrier of a recovery

`engine/takeover/recovery.py`: when a new leader may begin to schedule.
"""
NOW, LATER, LATEST = 100.0, 110.0, 120.0  # seconds; what a leader waits for takes less than 10
ROLES = ("follows", "leads", "explains", "hands over")
TERMS = ("", "proposed", "open", "used")
ENGINES = tuple(state.value for state in EngineState)


class State(NamedTuple):
    """What tells two situations of a peer apart."""

    role: str
    term: str
    engine: str

    def __str__(self) -> str:
        term = f", term {self.term}" if self.term else ""
        return f"{self.role}{term}, engine {self.engine}"

    def place(self) -> tuple[int, int, int]:
        """For an order in which a life goes."""
        return ROLES.index(self.role), TERMS.index(self.term), ENGINES.index(self.engine)


class Step(NamedTuple):
    before: State
    event: str
    effects: tuple[str, ...]
    after: State


def page() -> str:
    """The whole page."""
    steps = list(_play())
    return "\n".join([HEADER, *_diagram(steps), "", *_table(steps), "", RECOVERY, *_recovery(), ""])


# -- leadership


def _state(peer: Leadership) -> State:
    if not peer.leading:
        return State("follows", "", peer.engine.value)
    term = "used" if peer._used_term == peer.term else "open" if peer._open_index else "proposed"
    role = "hands over" if peer._transfer_until else "explains" if peer._explained_by else "leads"
    return State(role, term, peer.engine.value)


Do = Callable[[Leadership], list[Effect]]


def _heir(now: float) -> dict[int, Other]:
    return {2: Other(engine_ready=True, applied=9, heard_at=now)}


def _events(peer: Leadership) -> Iterator[tuple[str, Do]]:
    """What can happen to ``peer``."""
    if not peer.leading:
        yield "it is elected", lambda p: p.role_changed(NOW, True, p.term + 1)
    elif not peer._open_index:
        yield "TermStarted commits", lambda p: p.term_opened(p.term, 7)
    if peer.engine is EngineState.ABSENT:
        yield "an engine starts", lambda p: p.engine_started()
    elif peer.engine is EngineState.STARTING:
        yield "the engine is ready", lambda p: p.engine_ready()
    if peer.leading and not peer._transfer_until:
        yield "later; an heir", lambda p: p.tick(LATER, _heir(LATER), False)
        yield "later; no heir", lambda p: p.tick(LATER, {}, False)
        yield "asked to hand over; an heir", lambda p: p.transfer_requested(NOW, _heir(NOW), None)
    if peer._explained_by:
        yield "it is explained; an heir", lambda p: p.exit_explained(NOW, _heir(NOW))
        yield "it is explained; no heir", lambda p: p.exit_explained(NOW, {})
    if peer._transfer_until:
        yield "not in time; the lease is open", lambda p: p.tick(LATEST, {}, False)
        yield "not in time; the lease is closed", lambda p: p.tick(LATEST, {}, True)
    if peer.engine is not EngineState.ABSENT:
        if peer.leading and not peer._transfer_until:
            yield "the engine ends; an heir", lambda p: p.engine_exited(NOW, _heir(NOW))
            yield "the engine ends; no heir", lambda p: p.engine_exited(NOW, {})
            yield (
                "the engine ends with something open",
                lambda p: p.engine_exited(NOW, _heir(NOW), explained=False),
            )
        else:
            yield "the engine ends", lambda p: p.engine_exited(NOW, _heir(NOW))
    if peer.leading:
        yield "leadership is lost", lambda p: p.role_changed(NOW, False, p.term + 1)


def _play() -> Iterator[Step]:
    """Every step from every state that can be reached, but for those that change nothing."""
    first = Leadership()
    seen, waiting = {_state(first)}, deque([first])
    while waiting:
        peer = waiting.popleft()
        for event, do in _events(peer):
            other = copy.deepcopy(peer)
            effects = do(other)
            if any(isinstance(effect, KillEngine) for effect in effects):
                effects += other.engine_exited(NOW, {})  # the daemon does it before it goes on
            step = Step(
                _state(peer), event, tuple(type(e).__name__ for e in effects), _state(other)
            )
            if step.effects or step.after != step.before:
                yield step
            if step.after not in seen:
                seen.add(step.after)
                waiting.append(other)


def _diagram(steps: list[Step]) -> Iterator[str]:
    """The steps without the term, and with one state for all of handing over."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for step in steps:
        ends, event = (_node(step.before), _node(step.after)), step.event.split(";")[0]
        if ends[0] != ends[1] and event not in arrows.setdefault(ends, []):
            arrows[ends].append(event)
    yield "```mermaid\nstateDiagram-v2\n    [*] --> follows_absent"
    for (before, after), events in arrows.items():
        yield f"    {before} --> {after}: {', '.join(events)}"
    yield "```"


def _node(state: State) -> str:
    if state.role == "hands over":
        return "hands_over"
    return f"{state.role}_{state.engine}"


def _table(steps: list[Step]) -> Iterator[str]:
    yield "| a peer that | when | does | and then |\n|---|---|---|---|"
    for before, event, effects, after in sorted(steps, key=lambda step: step.before.place()):
        shown = ", ".join(f"`{effect}`" for effect in effects) or "nothing"
        then = "stays so" if after == before else str(after)
        yield f"| {before} | {event} | {shown} | {then} |"


# -- recovery


def _recovery() -> Iterator[str]:
    yield "| the barrier | when | does | and then |\n|---|---|---|---|"
    for case in (_without_workers, _reports, _window, _failure):
        yield from asyncio.run(case())


class _Barrier:
    """A barrier and a diary of what it does."""

    def __init__(self, on_open: Callable[[], None] = lambda: None) -> None:
        self.did: list[str] = []
        self._on_open = on_open
        self.machine = recovery.Recovery(self._open)

    def _open(self) -> None:
        self.did.append("adopts the reports")
        self._on_open()

    def row(self, event: str, act: Callable[[], None]) -> str:
        before = str(self)
        self.did.clear()
        act()
        return f"| {before} | {event} | {', '.join(self.did) or 'nothing'} | {self} |"

    def __str__(self) -> str:
        if "ends the process" in self.did:
            return "gone"
        if self.machine.is_open:
            return "open"
        if self.machine._window is None:
            return "not begun"
        return f"closed, {len(self.machine.awaited)} awaited"


async def _without_workers() -> list[str]:
    barrier = _Barrier()
    return [barrier.row("it leads; the ledger names no worker", lambda: barrier.machine.begin(()))]


async def _reports() -> list[str]:
    barrier = _Barrier()
    settled = barrier.machine.settled
    return [
        barrier.row("it leads; the ledger names two", lambda: barrier.machine.begin("ab")),
        barrier.row("one has reported, or is gone", lambda: settled("a")),
        barrier.row("the last one has reported, or is gone", lambda: settled("b")),
        barrier.row("a late one reports", lambda: settled("c")),
    ]


async def _window() -> list[str]:
    barrier = _Barrier()
    barrier.machine.begin("ab")
    return [
        barrier.row(f"nobody has come for {recovery.WINDOW_SECONDS:g} s", barrier.machine._open)
    ]


async def _failure() -> list[str]:
    def fail() -> None:
        raise ArithmeticError

    barrier = _Barrier(fail)
    barrier.machine.begin("a")
    end = mock.Mock(side_effect=lambda: barrier.did.append("ends the process"))
    with mock.patch.object(recovery, "end_engine", end), mock.patch.object(recovery, "logger"):
        event = "the last one has reported, and adoption fails"
        return [barrier.row(event, lambda: barrier.machine.settled("a"))]


if __name__ == "__main__":
    TARGET.write_text(page())
    sys.stdout.write(f"wrote {TARGET}\n")
