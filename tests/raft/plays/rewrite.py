"""Writes what happens into the plays: ``python -m tests.raft.plays.rewrite [name ...]``.

For an author: afterwards every changed line must be read and reasoned about, as the trace becomes
what the test demands.
"""

from __future__ import annotations

import sys

from .script import PLAYS, read_play, with_traces
from .stage import Stage


def main(names: list[str]) -> None:
    for path in PLAYS:
        if names and path.stem not in names:
            continue
        text, stage = path.read_text(), Stage()
        traces = {step.line: stage.perform(step) for step in read_play(text)}
        path.write_text(with_traces(text, traces))


if __name__ == "__main__":
    main(sys.argv[1:])
