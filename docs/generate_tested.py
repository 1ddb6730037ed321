"""Writes docs/reference/what-is-tested.md from docs/what-is-tested.toml and from the tests."""

from __future__ import annotations

import os
import re
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

DOCS = Path(__file__).resolve().parent
SOURCE = DOCS / "what-is-tested.toml"
TARGET = DOCS / "reference" / "what-is-tested.md"
HEADER = """\
# What is tested

<!-- Made by `make docs` from docs/what-is-tested.toml. -->

The tests behind each row of [what survives](../what-survives.md), under its headings.
"""


def page() -> str:
    """The whole page. Raises ``KeyError`` for a test that does not exist."""
    return "\n".join([HEADER, *_lines()])


def _lines() -> Iterator[str]:
    places = _places()
    for section, features in tomllib.loads(SOURCE.read_text()).items():
        yield f"## {section}\n"
        for feature, tests in features.items():
            yield f"{feature}:\n"
            for test in tests:
                where = ", ".join(_link(path) for path in places[test])
                yield f"- `{test}` ({where})"
            yield ""


def _places() -> dict[str, list[Path]]:
    found = defaultdict(list)
    for path in sorted((DOCS.parent / "tests").rglob("test_*.py")):
        for name in re.findall(r"^(?:async )?def (test_\w+)\(", path.read_text(), re.MULTILINE):
            found[name].append(path)
    return dict(found)


def _link(path: Path) -> str:
    shown = path.relative_to(DOCS.parent / "tests").as_posix()
    return f"[{shown}]({Path(os.path.relpath(path, TARGET.parent)).as_posix()})"


if __name__ == "__main__":
    TARGET.write_text(page())
    sys.stdout.write(f"wrote {TARGET}\n")
