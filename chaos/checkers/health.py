"""That the cell came back, soon enough, and that its processes and logs are as they should be."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from chaos import figures
from chaos.checkers.base import Checker, Finding, some, unknown
from chaos.faults.base import parse
from chaos.record import Record

#: Faults after which a daemon ends on purpose, and says so.
MAY_EXIT = ("disk", "clock", "credential", "certificate", "token", "failpoint", "member")
#: What no log may hold.
_SECRET = re.compile(r"BEGIN (?:EC |RSA )?PRIVATE KEY|\beyJ[\w-]{20,}\.eyJ[\w-]{20,}\.")
_BUG = re.compile(r"AssertionError|InvalidTransition|InvalidTaskState|RecursionError")
_CRITICAL = re.compile(r"^\S+ \S+ CRITICAL .*", re.MULTILINE)
_ENGINE = " CRITICAL engine "
DESCRIPTORS_MORE_MAX = 100  # of a process that lived from the baseline to the end
MEMORY_TIMES_MAX = 3.0

_Found = tuple[Iterable[Finding], Mapping[str, Any]]


def _recovery(record: Record) -> _Found:
    """After each fault somebody is answered again within the bound."""
    scenario = record.scenario
    found = list(figures.recoveries(record))
    base_start, base_end = record.baseline
    before = [op for op in record.operations if base_start <= op.start and (op.end or 0) < base_end]
    # What an operation takes anyway, and how long until the next one is asked.
    slack = max((op.latency_s or 0.0 for op in before), default=0.0) + 4 / scenario.rate
    late = []
    for one in found:
        bound = scenario.recovery_s + slack
        if not figures.serves_through(one.fault):
            bound += one.lasts_s
        if one.after_s > bound and not one.overlapped:
            what = f"answers came again {one.after_s:.1f} s after {one.fault} at {one.at_s:.1f} s"
            late.append(f"{what}, and not {bound:.1f} s")
    after = [one.after_s for one in found if not one.overlapped]
    return _timed(record, late), {"faults": len(found), "again_s": figures.summary_of(after)}


def _timed(record: Record, texts: Iterable[str]) -> Iterable[Finding]:
    """Too late on a host that was overloaded is no violation, and no proof of anything either."""
    found = some(texts)
    if not figures.is_overloaded(record):
        return found
    load, processors = record.facts.host["load"][0], record.facts.host["processors"]
    where = f"the host had a load of {load:.0f} on {processors} processors"
    return [unknown(f"{finding.text} ({where})") for finding in found]


def _whole(record: Record) -> _Found:
    """Once all is healed the cell is whole in time."""
    facts = record.facts
    late = []
    if "settle" in facts.phases and facts.settled_s is None and "final" in facts.phases:
        late.append(f"the cell was not whole {record.scenario.settle_s:g} s after the last heal")
    return _timed(record, late), {"settled_s": facts.settled_s}


def _logs(record: Record) -> _Found:
    """No assertion, no secret, and no daemon that ended by itself.

    An engine ends, and says so, when its daemon or its lease has gone: that is what a fault is for.
    """
    names = [parse(text).name for text in record.scenario.faults]
    exits = any(name.startswith(MAY_EXIT) for name in names)
    texts = []
    bytes_read = 0
    for name, path in record.logs.items():
        text = path.read_text(errors="replace")
        bytes_read += len(text)
        given_up = [line for line in _CRITICAL.findall(text) if not (names and _ENGINE in line)]
        texts += [f"{name}: {line[:200]}" for line in given_up if not exits]
        texts += [f"{name}: {match}" for match in sorted(set(_BUG.findall(text)))]
        texts += [f"{name} has a secret: {m.group()[:12]}…" for m in _SECRET.finditer(text)]
    return some(texts), {"logs": len(record.logs), "bytes": bytes_read}


def _resources(record: Record) -> _Found | None:
    """A process that lived all the time has not more than it had."""
    base_end = record.baseline[1]
    before = [sample for sample in record.samples if sample.processes and sample.t <= base_end]
    after = [sample for sample in record.samples if sample.processes and sample.t > base_end]
    if not before or not after:
        return None
    first, last = before[-1].processes, after[-1].processes
    texts = []
    for name in first.keys() & last.keys():
        a, b = first[name], last[name]
        if a["pid"] != b["pid"]:
            continue
        if b["descriptors"] > a["descriptors"] + DESCRIPTORS_MORE_MAX:
            texts.append(f"{name} has {b['descriptors']} descriptors, {a['descriptors']} before")
        if b["rss"] > a["rss"] * MEMORY_TIMES_MAX:
            texts.append(f"{name} has {b['rss'] >> 20} MiB, {a['rss'] >> 20} before")
    return some(texts), {"processes": len(last)}


CHECKERS = (
    Checker("recovery", "after each fault the first answer comes within the bound", _recovery),
    Checker("whole", "once all is healed the cell is whole in time", _whole),
    Checker("logs", "no assertion, no secret, no daemon that gave up", _logs),
    Checker("resources", "descriptors and memory of what lives on stay as they were", _resources),
)
