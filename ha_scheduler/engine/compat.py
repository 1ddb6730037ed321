"""Where we replace names in modules of ``distributed``.

Each is an assumption about distributed 2026.8, stated in ``tests/engine/test_upstream.py``: an
upgrade that breaks it fails there.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

import distributed.scheduler as upstream
from dask._expr import LLGExpr
from distributed.protocol.pickle import dumps

from ha_scheduler.engine.stream.graphs import current_request

materialize_graph = upstream._materialize_graph
cull = upstream._cull
rpc = upstream.rpc

#: The pool over which ``restart_workers`` is to call nannies: a fenced one.
nanny_pool: ContextVar[Any] = ContextVar("nanny_pool", default=None)


def _materialize_and_keep(expr: Any, validate: bool) -> Any:
    """``_materialize_graph`` (scheduler.py:9390); keeps what cannot be materialised twice."""
    dsk, annotations_by_type = materialize_graph(expr=expr, validate=validate)
    request = current_request.get()
    if request is not None and not isinstance(expr, LLGExpr):
        request.materialised = bytes(dumps((dsk, dict(annotations_by_type))))
    return dsk, annotations_by_type


def _rpc(address: str, **kwargs: Any) -> Any:
    """``rpc``, over the pool if one was named."""
    pool = nanny_pool.get()
    return rpc(address, **kwargs) if pool is None else pool(address)


def install() -> None:
    """Have ``Scheduler.update_graph`` (scheduler.py:5032) keep materialised graphs, and
    ``restart_workers`` (6556) call nannies over a pool instead of comms of its own.
    """
    upstream._materialize_graph = _materialize_and_keep
    upstream.rpc = _rpc  # type: ignore[assignment,misc]  # only ever called
