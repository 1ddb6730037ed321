"""Who led: by what peers said of themselves, by their logs, and by the memory of the cell."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from chaos.checkers.base import Checker, Finding, some, unknown
from chaos.record import Ledger, Record

_LEADS = re.compile(r"\b([a-z0-9][a-z0-9-]*) leads term (\d+)")

_Found = tuple[Iterable[Finding], Mapping[str, Any]]


def claims(record: Record) -> Iterator[tuple[int, str, str]]:
    """Term, leader, and who says so."""
    for sample in record.samples:
        for name, status in sample.peers.items():
            if status.get("role") == "leader":
                yield status["term"], name, f"{name} itself"
            if status.get("leader"):
                yield status["term"], status["leader"], f"the status of {name}"
    for entry in record.failovers:
        yield entry["term"], entry["leader"], "the history of the cell"
    for name, path in record.logs.items():
        if name.startswith("peer-"):
            for leader, term in _LEADS.findall(path.read_text(errors="replace")):
                if leader in record.facts.peers:
                    yield int(term), leader, f"the log of {name}"


def _one_a_term(record: Record) -> _Found | None:
    if "cell" not in record.facts.abilities:
        return None
    found: dict[int, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for term, leader, source in claims(record):
        found[term][leader].add(source)
    texts = (
        f"term {term} has several leaders: "
        + "; ".join(f"{leader} by {', '.join(sorted(by))}" for leader, by in leaders.items())
        for term, leaders in sorted(found.items())
        if len(leaders) > 1
    )
    return some(texts), {"terms": len(found)}


def _prefixes(record: Record) -> _Found | None:
    """What two peers hold for committed is the same."""
    if not record.ledgers:
        return None
    findings: list[Finding] = []
    readable = {name: ledger for name, ledger in record.ledgers.items() if not ledger.error}
    for name, ledger in record.ledgers.items():
        if ledger.error:
            findings.append(unknown(f"the log of {name} cannot be read: {ledger.error}"))
    names = sorted(readable)
    texts = [
        text
        for n, name in enumerate(names)
        for other in names[n + 1 :]
        if (text := _difference(name, readable[name], other, readable[other])) is not None
    ]
    committed = {name: ledger.committed for name, ledger in readable.items()}
    return [*findings, *some(texts)], {"committed": committed}


def _difference(name: str, a: Ledger, other: str, b: Ledger) -> str | None:
    first, last = max(a.first, b.first), min(a.committed, b.committed)
    for index in range(first, last + 1):
        mine, its = a.digests[index - a.first], b.digests[index - b.first]
        if mine != its:
            return f"the committed entry {index} differs between {name} and {other}"
    return None


CHECKERS = (
    Checker("one-leader", "each term has one leader", _one_a_term),
    Checker("prefixes", "the committed logs of any two peers are the same", _prefixes),
)
