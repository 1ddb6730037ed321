"""Reads the plays of etcd-io/raft: ``command args``, input, ``----``, expected output, blank line.

Lines of etcd's log are left out of the comparison: which words it logs is no part of the
protocol. States, messages, entries and their order are compared exactly.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_ARGUMENT = re.compile(r"([a-z-]+)=(\([^)]*\)|\S+)|(\S+)")
_LOG_LINE = re.compile(r"^\s*(DEBUG|INFO|WARN|ERROR|FATAL) ")

VECTORS = Path(__file__).resolve().parents[4] / "shared" / "vectors" / "etcd-raft"


@dataclass(frozen=True)
class Step:
    line: int
    command: str
    positional: tuple[str, ...]
    named: dict[str, str]
    expected: tuple[str, ...]


def list_of(text: str) -> list[str]:
    """``(1,2, 3)`` or ``3`` as a list of strings."""
    return [item.strip() for item in text.strip("()").split(",") if item.strip()]


def without_log(lines: list[str]) -> tuple[str, ...]:
    kept = [line.rstrip() for line in lines if not _LOG_LINE.match(line)]
    return () if kept == ["ok"] else tuple(kept)


def read_script(path: Path) -> list[Step]:
    lines = path.read_text().splitlines()
    steps = []
    position = 0
    while position < len(lines):
        text = lines[position]
        position += 1
        if not text.strip() or text.startswith("#"):
            continue
        start = position
        assert lines[position] == "----", f"{path.name}:{position}: input lines are not used here"
        position += 1
        expected = []
        while position < len(lines) and lines[position] != "":
            expected.append(lines[position])
            position += 1
        steps.append(_step(start, text, without_log(expected)))
    return steps


def _step(line: int, text: str, expected: tuple[str, ...]) -> Step:
    command, _, rest = text.partition(" ")
    positional, named = [], {}
    for name, value, bare in _ARGUMENT.findall(rest):
        if name:
            named[name] = value
        else:
            positional.append(bare)
    return Step(line, command, tuple(positional), named, expected)
