"""Reads the plays of etcd-io/raft: ``command args``, input, ``----``, expected output, blank line.

They are looked for beside this repository, or where the environment variable
``DASK_HA_ETCD_RAFT`` says: a checkout of etcd-io/raft, or its ``testdata``.

Lines of etcd's log are left out of the comparison: which words it logs is no part of the
protocol. States, messages, entries and their order are compared exactly.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

_ARGUMENT = re.compile(r"([a-z-]+)=(\([^)]*\)|\S+)|(\S+)")
_LOG_LINE = re.compile(r"^\s*(DEBUG|INFO|WARN|ERROR|FATAL) ")

DIRECTORY_VARIABLE = "DASK_HA_ETCD_RAFT"
_BESIDE = Path(__file__).resolve().parents[4] / "shared" / "vectors" / "etcd-raft"


def find_scripts() -> dict[str, Path]:
    """All files there are, by name: ``campaign``, ``quorum/majority_vote``, ``confchange/zero``."""
    chosen = os.environ.get(DIRECTORY_VARIABLE)
    found = {}
    for path in sorted(Path(chosen or _BESIDE).rglob("*.txt")):
        subjects = [part for part in path.parts if part in ("quorum", "confchange")]
        found["/".join([*subjects[-1:], path.stem])] = path
    assert found or not chosen, f"{DIRECTORY_VARIABLE} is {chosen}, where no plays are"
    return found


@dataclass(frozen=True)
class Step:
    line: int
    command: str
    positional: tuple[str, ...]
    named: dict[str, str]
    input: tuple[str, ...]
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
        given = []
        while lines[position] != "----":
            given.append(lines[position])
            position += 1
        position += 1
        expected = []
        while position < len(lines) and lines[position] != "":
            expected.append(lines[position])
            position += 1
        steps.append(_step(start, text, tuple(given), without_log(expected)))
    return steps


def _step(line: int, text: str, given: tuple[str, ...], expected: tuple[str, ...]) -> Step:
    command, _, rest = text.partition(" ")
    positional, named = [], {}
    for name, value, bare in _ARGUMENT.findall(rest):
        if name:
            named[name] = value
        else:
            positional.append(bare)
    return Step(line, command, tuple(positional), named, given, expected)
