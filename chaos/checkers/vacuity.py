"""Whether the run proves anything: faults fired, and there was work to disturb."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from chaos.checkers.base import Checker, Finding, unknown
from chaos.record import Record
from chaos.workloads.registry import workload

INFO_SHARE_MAX = 0.5  # of all operations that nobody knows the end of


def _vacuity(record: Record) -> tuple[Iterable[Finding], Mapping[str, Any]]:
    findings: list[Finding] = []
    facts, scenario = record.facts, record.scenario
    if facts.trouble:
        findings.append(unknown(f"the harness had trouble: {facts.trouble}"))
    fired = [fault for fault in record.faults if fault.proof]
    if scenario.faults and not record.faults:
        findings.append(unknown("no fault was made at all"))
    for fault in record.faults:
        if not fault.proof:
            findings.append(unknown(f"{fault.fault} did not fire: {fault.error or 'no proof'}"))
        elif fault.error:
            findings.append(unknown(f"{fault.fault} was not healed: {fault.error}"))
    findings += _load(record)
    return findings, {"injected": len(record.faults), "fired": len(fired)}


def _load(record: Record) -> Iterable[Finding]:
    kind, asked = workload(record.scenario.workload), record.scenario.floor
    floor = kind.floor if asked is None else asked
    if kind.patient:
        return
    began, ended = record.baseline
    before = [op for op in record.operations if op.type == "ok" and began <= (op.end or 0) < ended]
    if len(before) < floor:
        yield unknown(f"{len(before)} operations before the first fault, fewer than {floor}")
    kinds: dict[str, list[str]] = defaultdict(list)
    for op in record.operations:
        kinds[op.f].append(op.type)
    for f, types in kinds.items():
        if "ok" not in types:
            yield unknown(f"no {f} has succeeded")
    total = sum(map(len, kinds.values()))
    unclear = sum(types.count("info") for types in kinds.values())
    if total and unclear / total > INFO_SHARE_MAX:
        yield unknown(f"{unclear} of {total} operations ended without an answer")


CHECKERS = (
    Checker("vacuity", "every fault fired, and there was work for it to disturb", _vacuity),
)
