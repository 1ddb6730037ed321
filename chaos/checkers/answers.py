"""What clients were answered: that it came, that it was right, and how often it was worked for."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from chaos.checkers.base import Checker, Finding, some
from chaos.faults.base import parse
from chaos.history import Operation
from chaos.record import Record
from chaos.workloads.registry import workload

#: Faults after which a task may run again: its worker was gone, or seemed to be.
HURT_WORKERS = re.compile("worker|partition|packet|unplug|reset")

_Found = tuple[Iterable[Finding], Mapping[str, Any]]


def _lost(record: Record) -> _Found:
    """Operations without an end, of processes that were not killed."""
    kind = workload(record.scenario.workload)
    lost = [
        op
        for op in record.operations
        if op.type == "info"
        and not _was_killed(record, op)
        and not op.error.startswith(kind.undecided)
    ]
    texts = (f"{op.f} {op.key} of {op.process}: {op.error}" for op in lost)
    return some(texts), {"operations": len(record.operations), "lost": len(lost)}


def _was_killed(record: Record, operation: Operation) -> bool:
    """By a fault or by itself; one that failed has another exit status, or the harness ended it."""
    status = record.facts.clients.get(operation.process)
    return (status is None or status < 0) and operation.process not in record.facts.overdue


def _ended(record: Record) -> _Found:
    """Each client has ended in order."""
    wrong = {name: status for name, status in record.facts.clients.items() if status != 0}
    texts = (
        f"client {name} did not end when it was told to: it waits for what does not come"
        if name in record.facts.overdue
        else f"client {name} ended with {status}: see its log"
        for name, status in wrong.items()
    )
    return some(texts), {"clients": len(record.facts.clients)}


def _values(record: Record) -> _Found:
    """A result is the expected one; what cannot fail has not failed."""
    known = [op for op in record.operations if op.expected is not None]
    wrong = [op for op in known if op.type == "ok" and not is_right(op.got, op.expected)]
    failed = [op for op in known if op.type == "fail"]
    texts = [f"{op.f} {op.key}: got {op.got!r}, expected {op.expected!r}" for op in wrong]
    texts += [f"{op.f} {op.key} failed: {op.error}" for op in failed]
    return some(texts), {"compared": len(known), "wrong": len(wrong), "failed": len(failed)}


def is_right(got: Any, expected: Any) -> bool:
    """``expected`` is the value, or ``{"between": [least, most]}``."""
    if isinstance(expected, dict) and "between" in expected:
        least, most = expected["between"]
        return bool(least <= got <= most)
    return bool(got == expected)


def _executions(record: Record) -> _Found | None:
    """Who got a result has had it computed; nothing ran twice without need."""
    kind = workload(record.scenario.workload)
    if not kind.counted or "shared-files" not in record.facts.abilities:
        return None
    counts = Counter(key for key, _, _ in record.executions)
    done = {op.key for op in record.operations if op.type == "ok" and op.f == "submit"}
    texts = [f"{key} has a result and was never executed" for key in done - counts.keys()]
    again = {key: count for key, count in counts.items() if count > 1}
    calls = [parse(text) for text in record.scenario.faults]
    hurt = any(HURT_WORKERS.search(call.name) or "poison-task" in call.arguments for call in calls)
    if not hurt:
        texts += [
            f"{key} was executed {n} times, and no worker was hurt" for key, n in again.items()
        ]
    return some(texts), {
        "executions": sum(counts.values()),
        "again": sum(again.values()) - len(again),
    }


CHECKERS = (
    Checker("lost", "no acknowledged operation is without an end", _lost),
    Checker("ended", "each client ended in order", _ended),
    Checker("values", "each value equals the oracle's", _values),
    Checker("executions", "what has a result ran, and once unless a worker was hurt", _executions),
)
