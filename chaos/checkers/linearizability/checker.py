"""Histories of coordination objects, each object by itself: linearizability is local.

The name of an operation's object is ``KIND:NAME``, and the kind says the model.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from chaos.checkers.base import Checker, Finding, some, unknown, violation
from chaos.checkers.linearizability.models import Fifo, Leases, Mutex, Register
from chaos.checkers.linearizability.search import Call, Model, explain
from chaos.history import Operation
from chaos.record import Record

QUEUE_CAPACITY, SEMAPHORE_LIMIT = 5, 2

MODELS: Mapping[str, Model] = {
    "variable": Register(0),
    "queue": Fifo(QUEUE_CAPACITY),
    "lock": Mutex(),
    "semaphore": Leases(SEMAPHORE_LIMIT),
}


def calls_of(operations: Iterable[Operation]) -> dict[str, list[Call]]:
    """By object. What was refused has not happened."""
    found: dict[str, list[Call]] = defaultdict(list)
    for op in operations:
        if op.key.partition(":")[0] in MODELS and op.type != "fail":
            end = math.inf if op.end is None else op.end
            call = Call(op.f, _plain(op.given), _plain(op.got), op.start, end, op.process)
            found[op.key].append(call)
    return {name: without_unseen(calls) for name, calls in found.items()}


def without_unseen(calls: Sequence[Call]) -> list[Call]:
    """Without the open writes that nobody has read: each may as well not have happened.

    Each would double what is to be searched. Values are unique.
    """
    seen = {call.got for call in calls if call.known}
    return [call for call in calls if call.known or call.given is None or call.given in seen]


def _plain(value: Any) -> Any:
    """States are hashed; JSON has lists where there were tuples."""
    return tuple(value) if isinstance(value, list) else value


def judge_object(name: str, calls: Sequence[Call]) -> Finding | None:
    """None if one object could have done that."""
    found = explain(MODELS[name.partition(":")[0]], calls)
    if found.outcome == "linearizable":
        return None
    call = found.stuck_at
    what = f"{found.reached} of {len(calls)} calls of {name} can be put in an order"
    if call is not None:
        what += f", and then {call.f}({call.given!r}) = {call.got!r} by {call.by} cannot follow"
        what += f" from {found.state!r}"
    if found.outcome == "unknown":
        return unknown(f"the search for an order gave up: {what}")
    return violation(what)


def _linearizable(record: Record) -> tuple[Iterable[Finding], Mapping[str, Any]] | None:
    objects = calls_of(record.operations)
    if not objects:
        return None
    found = [judge_object(name, calls) for name, calls in objects.items()]
    findings = [finding for finding in found if finding is not None]
    findings += some(never_got(objects))
    return findings, {"objects": len(objects), "calls": sum(map(len, objects.values()))}


def never_got(objects: Mapping[str, Sequence[Call]]) -> Iterable[str]:
    """Consumers empty each queue at the end, so what was put and not got is lost."""
    for name, calls in objects.items():
        if not name.startswith("queue:"):
            continue
        got = Counter(call.got for call in calls if call.f == "get" and call.known)
        open_gets = sum(1 for call in calls if call.f == "get" and not call.known)
        missing = [c.given for c in calls if c.f == "put" and c.known and not got[c.given]]
        if len(missing) > open_gets:
            yield f"{name}: {missing[:5]} were put and nobody got them"


CHECKERS = (
    Checker(
        "linearizable",
        "variables, queues, locks and semaphores answered as if there were one of each",
        _linearizable,
    ),
)
