"""The tables of the documentation, read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent / "docs"


@dataclass(frozen=True, slots=True)
class Row:
    """One row: the names in its first cell, and its cells by the titles of their columns."""

    names: tuple[str, ...]
    cells: dict[str, str]

    @property
    def tests(self) -> tuple[str, ...]:
        """The tests that the row names."""
        return tuple(re.findall(r"`(test_\w+)`", self.cells.get("test", "")))


def table(page: str, title: str) -> list[Row]:
    """The table under the heading ``title`` of a page of ``docs``."""
    (section,) = re.findall(
        rf"^##+ {re.escape(title)}\n(.*?)(?=^##|\Z)",
        (DOCS / page).read_text(),
        re.MULTILINE | re.DOTALL,
    )
    lines = [_cells(line) for line in section.splitlines() if line.startswith("|")]
    titles, _, *rows = lines
    return [Row(_names(cells[0]), dict(zip(titles, cells, strict=True))) for cells in rows]


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def _names(cell: str) -> tuple[str, ...]:
    return tuple(re.findall(r"`([^`]+)`", cell)) or (cell,)
