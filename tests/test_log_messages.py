"""The catalogue of log messages is complete, and all actions are in one style.

Method: every call of a logger in the source, by its syntax tree.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "operations" / "log-messages.md"
TOPS = ("ha_scheduler", "client_replay")
LOUD = frozenset({"warning", "error", "critical", "exception"})
QUIET = frozenset({"debug", "info"})
LEVELS = {"exception": "ERROR"}
STYLE = re.compile(r"[a-z]+(_[a-z]+)*")


def calls(source: Path) -> Iterator[tuple[str, ast.Call]]:
    """Where each call of a logger stands, for humans, and the call."""
    for node in ast.walk(ast.parse(source.read_text(), str(source))):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        if node.func.attr in LOUD | QUIET | {"log"} and is_logger(node.func.value):
            yield f"{source.relative_to(ROOT)}:{node.lineno}", node


def is_logger(value: ast.expr) -> bool:
    name = ast.unparse(value)
    return name in ("logger", "logging", "self._logger") or name.startswith("logging.getLogger")


def action_of(call: ast.Call) -> str | None:
    for keyword in call.keywords:
        if keyword.arg == "extra" and isinstance(keyword.value, ast.Dict):
            for key, value in zip(keyword.value.keys, keyword.value.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "action":
                    return value.value if isinstance(value, ast.Constant) else None
    return None


def found() -> list[tuple[str, str, str | None]]:
    """Place, method and action of every call."""
    return [
        (place, call.func.attr, action_of(call))
        for top in TOPS
        for source in sorted((ROOT / top).rglob("*.py"))
        for place, call in calls(source)
        if isinstance(call.func, ast.Attribute)
    ]


def rows() -> list[list[str]]:
    cells = [
        line.strip("|").split(" | ")
        for line in PAGE.read_text().splitlines()
        if line.startswith("| `")
    ]
    return [[cell.strip() for cell in row] for row in cells]


def test_whatever_is_logged_from_warning_up_names_an_action() -> None:
    assert [
        f"{place} {method}"
        for place, method, action in found()
        if method in LOUD and action is None
    ] == []


def test_no_level_is_chosen_while_the_program_runs() -> None:
    assert [place for place, method, _ in found() if method == "log"] == []


def test_actions_are_words_with_underscores() -> None:
    wrong = [
        f"{place} {action}"
        for place, _, action in found()
        if action is not None and not STYLE.fullmatch(action)
    ]
    assert wrong == []


def test_the_catalogue_has_every_action_and_no_other() -> None:
    in_source = {action for _, method, action in found() if method in LOUD and action}
    listed = [row[0].strip("`") for row in rows()]
    assert sorted(action for action in in_source if action not in listed) == []
    assert sorted(action for action in listed if action not in in_source) == []
    assert len(listed) == len(set(listed)), "one row for each"


def test_each_row_has_a_level_an_example_a_cause_and_what_to_do() -> None:
    levels: dict[str | None, set[str]] = {}
    for _, method, action in found():
        if method in LOUD:
            levels.setdefault(action, set()).add(LEVELS.get(method, method.upper()))
    for row in rows():
        assert len(row) == 5, row
        assert all(row), row
        assert row[1] in levels[row[0].strip("`")], row
