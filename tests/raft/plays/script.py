"""Reads and rewrites a play: a text with commands, and below each what happened, indented.

::

    # What the play asks, and where the question comes from.
    peers 1 2 3
    campaign 1
        1 is candidate in term 1

A line at the margin is a command. Indented lines are the trace of the command above them. Lines
that begin with ``#``, and empty ones, are for the reader.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
PLAYS = sorted(FOLDER.glob("*.play"))
INDENT = "    "
HEADINGS = ("# Question:", "# Answer:", "# Source:")
"""What the opening of every play says, in this order."""


@dataclass(frozen=True)
class Step:
    """One command, the line it stands on (from 1), and the trace it should leave."""

    line: int
    command: str
    trace: tuple[str, ...]


def read_play(text: str) -> list[Step]:
    steps: list[Step] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.startswith(INDENT):
            last = steps.pop()
            steps.append(Step(last.line, last.command, (*last.trace, line.removeprefix(INDENT))))
        elif line and not line.startswith("#"):
            steps.append(Step(number, line, ()))
    return steps


def with_traces(text: str, traces: Mapping[int, tuple[str, ...]]) -> str:
    """The play with the traces of its commands replaced; ``traces`` is keyed by line."""
    lines = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.startswith(INDENT):
            lines.append(line)
        lines.extend(INDENT + found for found in traces.get(number, ()))
    return "\n".join(lines) + "\n"
