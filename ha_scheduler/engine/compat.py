"""The places where we reach into ``distributed`` by replacing a module's name.

Each is an assumption about distributed 2026.8 that ``tests/engine/test_upstream.py`` states, so
that an upgrade fails there and says why.
"""

from __future__ import annotations

from typing import Any

import distributed.scheduler as upstream
from dask._expr import LLGExpr
from distributed.protocol.pickle import dumps

from ha_scheduler.engine.graphs import current_request

materialize_graph = upstream._materialize_graph
cull = upstream._cull


def _materialize_and_keep(expr: Any, validate: bool) -> Any:
    """``_materialize_graph`` (scheduler.py:9390), keeping what cannot be materialised twice."""
    dsk, annotations_by_type = materialize_graph(expr=expr, validate=validate)
    request = current_request.get()
    if request is not None and not isinstance(expr, LLGExpr):
        request.materialised = bytes(dumps((dsk, dict(annotations_by_type))))
    return dsk, annotations_by_type


def install() -> None:
    """Make ``Scheduler.update_graph`` (scheduler.py:5032) keep materialised graphs."""
    upstream._materialize_graph = _materialize_and_keep
