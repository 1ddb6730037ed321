"""What is written down and what is there are the same."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def test_the_command_line_reference_is_that_of_the_commands() -> None:
    page = runpy.run_path(str(ROOT / "docs" / "generate_cli.py"))["reference"]()
    assert (ROOT / "docs" / "cli.md").read_text() == page, "run `make docs`"


PAGES = (
    "README.md",
    "docs/api.md",
    "docs/architecture.md",
    "docs/figures.md",
    "docs/handlers.md",
    "docs/testing.md",
    "docs/what-survives.md",
)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_that_exist(page: str) -> None:
    path = ROOT / page
    links = re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text())
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        named = set(re.findall(r"\bmake ([a-z][a-z-]*)`", (ROOT / page).read_text()))
        assert named <= targets


@pytest.mark.parametrize("page", ["what-survives.md", "handlers.md", "api.md"])
def test_a_table_names_tests_that_exist(page: str) -> None:
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    existing = set(re.findall(r"^(?:async )?def (test_\w+)\(", tests, re.MULTILINE))
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / page).read_text()))
    assert sorted(named - existing) == []


def test_what_survives_names_a_test_for_each_feature() -> None:
    page = (ROOT / "docs" / "what-survives.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    features = [row for row in rows if not row.startswith("| feature |")]
    assert [row for row in features if "`test_" not in row.split("|")[3]] == []
