"""The table of docs/raft.md and the tests that it names keep each other honest."""

from __future__ import annotations

import ast
import re
from dataclasses import fields
from pathlib import Path

import pytest

from ha_scheduler.raft import membership, reads
from ha_scheduler.raft.config import Config

HERE = Path(__file__).parent
PAGE = (HERE.parents[1] / "docs" / "raft.md").read_text()
SECTION = re.compile(r"\d+(?:\.\d+)+")
ROWS = re.findall(r"^\| (\d[\d.]*) \| (.+) \| (.+) \|$", PAGE, re.MULTILINE)
PLAYS = {path.stem for path in (HERE / "plays").glob("*.play")}


def _tests() -> dict[str, str]:
    """Each sentence about the core, and its docstring."""
    found: dict[str, str] = {}
    for path in sorted(HERE.glob("test_*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                name = node.name.removeprefix("test_")
                assert name not in found, f"two tests are called {name}"
                found[name] = ast.get_docstring(node) or ""
    return found


TESTS = _tests()
SECTION_OF = {name: m[0] for name, text in TESTS.items() if (m := SECTION.match(text))}


def test_the_table_has_every_chapter_we_rely_on() -> None:
    assert {section.partition(".")[0] for section, _, _ in ROWS} >= {"3", "4", "6", "10"}


@pytest.mark.parametrize(("section", "claim", "held_by"), ROWS)
def test_a_claim_is_held_by_tests_of_its_section(section: str, claim: str, held_by: str) -> None:
    names = re.findall(r"`(\w+)`", held_by)
    assert names, f"no test holds: {claim}"
    assert {name: SECTION_OF.get(name) for name in names} == dict.fromkeys(names, section)


def test_every_test_that_names_a_section_is_in_the_table() -> None:
    listed = {name for *_, held_by in ROWS for name in re.findall(r"`(\w+)`", held_by)}
    assert set(SECTION_OF) == listed


def test_every_test_and_play_that_the_page_names_exists() -> None:
    named = {name for name in re.findall(r"`([a-z0-9_]+)`", PAGE) if name.count("_") >= 4}
    assert named - TESTS.keys() == set()
    assert (
        set(re.findall(r"(?<![*\w])\*(\w+)\*(?![*\w])", PAGE)) - {"answering", "resulting"} <= PLAYS
    )


def test_every_limit_that_the_page_names_exists() -> None:
    named = set(re.findall(r"`(max_\w+|MAX_\w+|\w+_ticks)`", PAGE))
    known = {field.name for field in fields(Config)} | vars(membership).keys() | vars(reads).keys()
    assert named - known == set()
