"""The lines of the audit log: a hash chain of JSON objects. Pure.

Guarantee: each line has the hash of the line before it (``prev``, SHA-256 of its bytes), and its
number (``n``, without gaps from 1). So a line that was changed, removed or put in is seen at the
next one. Nothing within a chain shows that lines are missing at its *end*: for that it takes the
``Head``, number and hash of the last line, as it was noted elsewhere.

A chain is evidence against whoever changes lines afterwards, and none against who writes the file
anew as a whole and every note of its head as well.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import sha256
from typing import Any

NOTHING = "0" * 64  # the hash before the first line
VALUE_CHARS_MAX = 512  # of one value; the rest is cut off
FIELDS_MAX = 32
LINE_BYTES_MAX = 64 * 1024
#: Names that a value is not written under, whatever it is: an audit log is read by many.
_SECRETS = ("token", "key", "secret", "password", "bearer")
_PUBLIC = frozenset({"token_id", "key_id", "keys"})


class Event(StrEnum):
    """What happened."""

    OPENED = "log-opened"  # by a daemon or a command
    CLOSED = "log-closed"
    TORN = "log-torn"  # the last line was cut off, as a crash leaves it
    MISSING = "log-shortened"  # it has fewer lines than its head says
    GAP = "log-gap"  # events that were not written: the disk was full, or there were too many
    AUTHENTICATED = "authenticated"
    REFUSED = "refused"
    ROLE = "role-changed"  # of this peer: it leads, or does not
    MEMBERSHIP = "membership"
    TOKEN = "token"  # issued, revoked
    KEY = "signing-key"  # added, retired
    FORCED = "forced"  # an operator's transfer, release, shutdown
    REPAIRED = "repaired"


@dataclass(frozen=True, slots=True)
class Head:
    """The last line of a chain."""

    n: int = 0
    hash: str = NOTHING

    def __str__(self) -> str:
        return f"{self.n}:{self.hash}"


@dataclass(frozen=True, slots=True)
class Problem:
    """``line``: its number as far as it is known."""

    line: int
    what: str


def hash_of(line: bytes) -> str:
    return sha256(line).hexdigest()


def extend(head: Head, at: float, event: str, fields: dict[str, Any]) -> tuple[bytes, Head]:
    """The next line, without its end, and the new head. ``at``: seconds since the epoch."""
    when = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    said = {name: _value(name, value) for name, value in list(fields.items())[:FIELDS_MAX]}
    body = {"n": head.n + 1, "at": when, "event": str(event), **said, "prev": head.hash}
    line = json.dumps(body, separators=(",", ":"), ensure_ascii=True).encode()
    return line, Head(head.n + 1, hash_of(line))


def _value(name: str, value: Any) -> Any:
    if name not in _PUBLIC and any(secret in name.lower() for secret in _SECRETS):
        return "(not written)"
    if isinstance(value, bool | int | float) or value is None:
        return value
    text = str(value)
    return text if len(text) <= VALUE_CHARS_MAX else text[: VALUE_CHARS_MAX - 1] + "…"


def parse(line: bytes) -> dict[str, Any] | None:
    """The object of a line; None for what is no line of an audit log."""
    try:
        body = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(body, dict) or type(body.get("n")) is not int:
        return None
    return body if isinstance(body.get("prev"), str) else None


def follow(lines: Iterable[bytes], head: Head | None) -> Iterator[tuple[Head, Problem | None]]:
    """The head after each line, and what is wrong with the line. ``head``: before the first; None:
    the earlier lines were let go of."""
    for line in lines:
        body = parse(line)
        if body is None:
            n = head.n + 1 if head is not None else 0
            head = Head(n, hash_of(line))
            yield head, Problem(n, "is no line of an audit log")
            continue
        problem = _compare(body, head) if head is not None else None
        head = Head(body["n"], hash_of(line))
        yield head, problem


def _compare(body: dict[str, Any], head: Head) -> Problem | None:
    n = body["n"]
    if n > head.n + 1:
        return Problem(n, f"follows line {head.n}: {n - head.n - 1} lines were removed")
    if n <= head.n:
        return Problem(n, f"follows line {head.n}: lines were put in, or moved")
    if body["prev"] != head.hash:
        return Problem(n, f"does not follow from line {head.n}, which was changed or put in")
    return None
