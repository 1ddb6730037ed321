"""A seeded bug: an edit of one module of the package."""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """``before``: text of the module, once; ``after``: what takes its place."""

    name: str
    module: str
    before: str
    after: str
    package: str = "raft"
