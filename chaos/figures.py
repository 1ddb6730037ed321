"""Numbers of a run: latencies, rates, stalls, recoveries, and who was what when.

All of it follows from the record; times are seconds after the baseline began.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from chaos.faults.base import parse
from chaos.history import Operation
from chaos.record import Record

PERCENTILES = (50, 95, 99)
#: Faults that leave a majority, and which of their words say that they do not.
SERVED = {"kill", "terminate", "pause", "half-open", "unplug", "failpoint", "partition", "damage"}
UNSERVED = {"all", "majority", "halves", "client-side", "worker-side", "swizzle"}
BIN_S = 0.5
LOAD_MAX = 4.0  # processes that want to run for each processor
ABSENT_S = 0.8  # a peer that was in no sample for so long is not there


@dataclass(frozen=True, slots=True)
class Recovery:
    """``after_s``: from the beginning of a fault until answers came again.

    That is the first answer to what was asked after it was made, or the end of the longest stall
    that began in it, whichever was first: a client may have nothing more to ask until it has an
    answer. ``overlapped``: the next fault fell before that, so it says nothing of this one.
    """

    fault: str
    at_s: float
    lasts_s: float
    after_s: float
    stall_s: float
    overlapped: bool


@dataclass(frozen=True, slots=True)
class Band:
    """A peer was ``role`` (``absent``: it did not answer) from ``start`` to ``end``."""

    start: float
    end: float
    role: str
    term: int


def zero(record: Record) -> float:
    """When the baseline began, or the run."""
    return record.facts.phases.get("baseline", record.facts.began)


def end(record: Record) -> float:
    """When all was over, as seconds after ``zero``."""
    return record.facts.phases.get("collect", record.facts.began) - zero(record)


def percentile(values: Sequence[float], percent: float) -> float | None:
    """By the nearest rank; None of nothing."""
    if not values:
        return None
    rank = math.ceil(percent / 100 * len(values))
    return sorted(values)[max(0, rank - 1)]


def summary_of(values: Sequence[float]) -> dict[str, float | int | None]:
    """Count, percentiles and maximum."""
    found: dict[str, float | int | None] = {"n": len(values)}
    found |= {f"p{percent}": percentile(values, percent) for percent in PERCENTILES}
    return found | {"max": max(values, default=None)}


def latencies(operations: Iterable[Operation]) -> dict[str, list[float]]:
    """Seconds of each operation that went well, by what it was."""
    found: dict[str, list[float]] = defaultdict(list)
    for op in operations:
        if op.type == "ok" and op.latency_s is not None:
            found[op.f].append(op.latency_s)
    return dict(found)


def rate(record: Record) -> list[tuple[float, float]]:
    """Answers a second in each bin of ``BIN_S``: its beginning, and the rate."""
    began = zero(record)
    counts: dict[int, int] = defaultdict(int)
    for op in record.operations:
        if op.type == "ok" and op.end is not None and op.end >= began:
            counts[int((op.end - began) / BIN_S)] += 1
    return [(n * BIN_S, counts[n] / BIN_S) for n in range(max(counts, default=-1) + 1)]


def recoveries(record: Record) -> Iterator[Recovery]:
    """Of each fault that fired and after which there was an answer."""
    began = zero(record)
    answered = sorted(
        (op.start, op.end) for op in record.operations if op.type == "ok" and op.end is not None
    )
    ends = sorted(when for _, when in answered)
    for fault, following in zip(record.faults, [*record.faults[1:], None], strict=False):
        # What was asked while it was being made may have been answered by who then was gone.
        later = [when for start, when in answered if start >= (fault.made or fault.at)]
        until = following.at if following is not None else math.inf
        stall = _longest_stall(ends, fault.at, until)
        if not fault.proof or stall is None:
            continue
        again = min(stall[1], min(later, default=math.inf))
        yield Recovery(
            fault.fault,
            fault.at - began,
            (fault.healed or fault.at) - fault.at,
            again - fault.at,
            stall[1] - stall[0],
            again > until,
        )


def _longest_stall(ends: Sequence[float], start: float, until: float) -> tuple[float, float] | None:
    """The longest time without an answer that began in between; None if none came after it."""
    moments = [start, *(when for when in ends if when > start)]
    gaps = [(b - a, a, b) for a, b in pairwise(moments) if a < until]
    return max(gaps)[1:] if gaps else None


def serves_through(fault: str) -> bool:
    """Whether a majority lives, with clients and workers: else the heal brings it back."""
    call = parse(fault)
    return call.name in SERVED and not UNSERVED & set(call.arguments)


def bands(record: Record) -> Mapping[str, list[Band]]:
    """What each peer said it was, over time."""
    began, last = zero(record), end(record)
    found: dict[str, list[Band]] = {}
    for peer in record.facts.peers:
        seen = [
            (sample.t - began, s["role"], int(s["term"]))
            for sample in record.samples
            if (s := sample.peers.get(peer)) is not None and "role" in s
        ]
        found[peer] = list(_merged(seen, last))
    return found


def _merged(seen: Sequence[tuple[float, str, int]], last: float) -> Iterator[Band]:
    present: Band | None = None
    before = 0.0
    for at, role, term in seen:
        if present is not None and at - before > ABSENT_S:
            yield Band(present.start, before, present.role, present.term)
            yield Band(before, at, "absent", present.term)
            present = None
        if present is None:
            present = Band(at, at, role, term)
        elif (present.role, present.term) != (role, term):
            yield Band(present.start, at, present.role, present.term)
            present = Band(at, at, role, term)
        before = at
    if present is not None:
        yield Band(present.start, min(last, before + ABSENT_S), present.role, present.term)


def is_overloaded(record: Record) -> bool:
    """Whether the host had so much to do that times say nothing of the cell."""
    host = record.facts.host
    return bool(max(host.get("load", [0.0])[:2]) > LOAD_MAX * (host.get("processors") or 1))


def figures(record: Record) -> dict[str, Any]:
    """As they stand in ``summary.json``."""
    found = list(recoveries(record))
    base_start, base_end = record.baseline
    before = [op for op in record.operations if base_start <= op.start < base_end]
    return {
        "latency_s": {f: summary_of(values) for f, values in latencies(record.operations).items()},
        "baseline_latency_s": {f: summary_of(values) for f, values in latencies(before).items()},
        "baseline_rate": len(before) / (base_end - base_start) if base_end > base_start else None,
        "recovery_s": [
            {
                "fault": one.fault,
                "at_s": round(one.at_s, 3),
                "after_s": round(one.after_s, 3),
                "stall_s": round(one.stall_s, 3),
                "overlapped": one.overlapped,
            }
            for one in found
        ],
        "failovers": [
            {"term": entry["term"], "leader": entry["leader"], "phases": entry["phases"]}
            for entry in record.failovers
        ],
    }
