"""The plays, performed line by line, and what every play must have for its reader."""

from __future__ import annotations

from pathlib import Path

import pytest

from .script import HEADINGS, PLAYS, read_play, with_traces
from .stage import Stage

assert PLAYS, "the plays stand beside this file"


@pytest.mark.parametrize("path", PLAYS, ids=lambda path: path.stem)
def test_the_play_goes_as_written(path: Path) -> None:
    stage = Stage()
    for step in read_play(path.read_text()):
        found = stage.perform(step)
        assert found == step.trace, f"{path.name}:{step.line}: {step.command}"


@pytest.mark.parametrize("path", PLAYS, ids=lambda path: path.stem)
def test_a_play_opens_with_its_question_its_answer_and_its_source(path: Path) -> None:
    opening = path.read_text().partition("\n\n")[0].splitlines()
    found = [heading for line in opening for heading in HEADINGS if line.startswith(heading)]
    assert found == list(HEADINGS)


@pytest.mark.parametrize("path", PLAYS, ids=lambda path: path.stem)
def test_rewriting_a_play_that_goes_as_written_changes_nothing(path: Path) -> None:
    text = path.read_text()
    assert with_traces(text, {step.line: step.trace for step in read_play(text)}) == text
