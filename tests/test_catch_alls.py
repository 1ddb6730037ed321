"""Whoever catches every error and goes on says why it may."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("ha_scheduler", "client_replay")
ALL = {"Exception", "BaseException"}


def handlers(source: str) -> Iterator[ast.ExceptHandler]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ExceptHandler):
            kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            if any(
                kind is None or (isinstance(kind, ast.Name) and kind.id in ALL) for kind in kinds
            ):
                yield node


def unexplained(source: str) -> list[int]:
    """The lines of those that neither end by raising nor have a comment where they begin."""
    lines = source.splitlines()
    return [
        handler.lineno
        for handler in handlers(source)
        if not isinstance(handler.body[-1], ast.Raise)
        and not any("#" in line for line in lines[handler.lineno - 1 : handler.body[0].lineno])
    ] + [
        number
        for number, line in enumerate(lines, 1)
        if re.search(r"suppress\((Base)?Exception\)", line) and "#" not in line
    ]


def test_whoever_catches_every_error_and_goes_on_says_why() -> None:
    missing = [
        f"{path.relative_to(ROOT)}:{line}"
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        for line in unexplained(path.read_text(encoding="utf-8"))
    ]
    assert missing == []


def test_this_test_sees_those_that_say_nothing() -> None:
    silent = "try:\n    f()\nexcept (OSError, Exception):\n    g()\n"
    assert unexplained(silent) == [3]
    assert unexplained("try:\n    f()\nexcept:\n    g()\n") == [3]
    assert unexplained("try:\n    f()\nexcept Exception:  # of a plugin\n    g()\n") == []
    assert unexplained("try:\n    f()\nexcept BaseException:\n    g()\n    raise\n") == []
    assert unexplained("with suppress(Exception):\n    f()\n") == [1]
    assert unexplained("try:\n    f()\nexcept OSError:\n    g()\n") == []
