"""The search for an order of calls that explains a history: Wing and Gong's, with Lowe's memory.

A history is linearizable if each call can be given one moment between its beginning and its end,
such that the calls in the order of these moments are those of the object one after the other
(Herlihy and Wing, 1990). The search takes next any call that no other one ended before; where it is
stuck it takes back the last, and never looks again at calls taken and state reached that it has
seen (G. Lowe, "Testing for linearizability", 2017; porcupine does the same).

A call whose end nobody knows is open for ever: it may have happened at any later moment, or not at
all. Which states it may have led to says the model.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

State = Any  # hashable
STEPS_MAX = 20_000_000  # some ten seconds; then nobody knows

Outcome = Literal["linearizable", "impossible", "unknown"]


@dataclass(frozen=True, slots=True)
class Call:
    """``end`` is infinite and ``got`` meaningless if nobody knows how it ended."""

    f: str
    given: Any
    got: Any
    start: float
    end: float
    by: str = ""

    @property
    def known(self) -> bool:
        return self.end < math.inf


class Model(Protocol):
    """An object, as a function of its state."""

    @property
    def initial(self) -> Hashable: ...

    def after(self, state: State, call: Call) -> Sequence[State]:
        """The states in which the object may be after this call with this answer; none: it could
        not have answered so. Of a call that is not known: all that there may be, this one too.
        """


@dataclass(frozen=True, slots=True)
class Finding:
    """``reached``: how many calls of the best attempt have been explained, and what came next."""

    outcome: Outcome
    reached: int = 0
    stuck_at: Call | None = None
    state: State = None


class _Node:
    """The beginning or the end of a call, in a list that calls are taken out of and put back."""

    __slots__ = ("after", "before", "call", "end", "number")

    def __init__(self, number: int, call: Call | None, end: _Node | None) -> None:
        self.number = number
        self.call = call
        self.end = end  # of a beginning
        self.before: _Node | None = None
        self.after: _Node | None = None

    def take_out(self) -> None:
        assert self.end is not None
        for node in (self, self.end):
            assert node.before is not None
            node.before.after = node.after
            if node.after is not None:
                node.after.before = node.before

    def put_back(self) -> None:
        assert self.end is not None
        for node in (self.end, self):
            assert node.before is not None
            node.before.after = node
            if node.after is not None:
                node.after.before = node


def explain(model: Model, calls: Sequence[Call], steps_max: int = STEPS_MAX) -> Finding:
    """Whether there is such an order."""
    head = _listed(calls)
    waiting = sum(call.known for call in calls)  # only these must have happened
    taken, state = 0, model.initial
    seen: set[tuple[int, Hashable]] = {(taken, state)}
    path: list[tuple[_Node, State, Iterator[State]]] = []
    best = Finding("impossible")
    node, choices = head.after, None
    for _ in range(steps_max):
        if not waiting:
            return Finding("linearizable", len(path))
        if node is not None and node.call is not None:
            call = node.call
            choices = choices or iter(model.after(state, call))
            bit = 1 << node.number
            chosen = [c for c in choices if (taken | bit, c) not in seen]
            if chosen:
                seen.add((taken | bit, chosen[0]))
                path.append((node, state, iter(chosen[1:])))
                taken, state = taken | bit, chosen[0]
                waiting -= call.known
                node.take_out()
                node, choices = head.after, None
            else:
                node, choices = node.after, None
            continue
        # An end: what began before it has been tried, so one of what is taken must be taken back.
        if len(path) >= best.reached:
            best = Finding("impossible", len(path), _first(head), state)
        if not path:
            return best
        node, state, choices = path.pop()
        assert node.call is not None
        taken &= ~(1 << node.number)
        waiting += node.call.known
        node.put_back()
    return Finding("unknown", best.reached, best.stuck_at, best.state)


def _listed(calls: Sequence[Call]) -> _Node:
    """Beginnings and ends in the order of time; of one moment, beginnings first."""
    moments: list[tuple[float, bool, _Node]] = []
    for number, call in enumerate(calls):
        end = _Node(number, None, None)
        moments += [(call.start, False, _Node(number, call, end)), (call.end, True, end)]
    moments.sort(key=lambda moment: moment[:2])
    head = _Node(-1, None, None)
    last = head
    for _, _, node in moments:
        last.after, node.before = node, last
        last = node
    return head


def _first(head: _Node) -> Call | None:
    """The call whose end the search could not get past."""
    node = head.after
    ended = None
    while node is not None and node.call is not None:
        if ended is None or node.call.end < ended.end:
            ended = node.call
        node = node.after
    return ended
