"""Found by Python at its start, as this directory is first on ``PYTHONPATH``: edits modules of the
product as they are imported, as ``DASK_HA_CHAOS_EDITS`` says.

Nothing here imports the product or the harness: this runs in peers, before all else.
"""

from __future__ import annotations

import importlib.machinery
import json
import os
import sys
from importlib.abc import MetaPathFinder
from types import CodeType, ModuleType
from typing import Any

VARIABLE = "DASK_HA_CHAOS_EDITS"


class _Edited(importlib.machinery.SourceFileLoader):
    """Compiles the source with the edits, and caches nothing."""

    edits: list[list[str]] = []  # noqa: RUF012 - set on each instance

    def get_code(self, fullname: str) -> CodeType:
        source = self.get_data(self.get_filename(fullname)).decode()
        for before, after in self.edits:
            if source.count(before) != 1:
                sys.exit(f"chaos: {fullname} is not as the edit of it expects: {before!r}")
            source = source.replace(before, after)
        sys.stderr.write(f"chaos: a safeguard is taken away in {fullname}, process {os.getpid()}\n")
        return compile(source, self.get_filename(fullname), "exec", dont_inherit=True)


class _Finder(MetaPathFinder):
    def __init__(self, edits: dict[str, list[list[str]]]) -> None:
        self._edits = edits

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> Any:
        if fullname not in self._edits:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.origin is None:
            return spec
        loader = _Edited(fullname, spec.origin)
        loader.edits = self._edits[fullname]
        spec.loader = loader
        return spec


if os.environ.get(VARIABLE):
    sys.meta_path.insert(0, _Finder(json.loads(os.environ[VARIABLE])))
