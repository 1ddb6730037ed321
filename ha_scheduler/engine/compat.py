"""Where we replace names in modules of ``distributed``.

Each is an assumption about distributed 2026.8, stated in ``tests/engine/test_upstream.py``: an
upgrade that breaks it fails there.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, TypeVar

import distributed.scheduler as upstream
from dask._expr import LLGExpr
from dask.order import order
from distributed.protocol.pickle import dumps

from ha_scheduler.engine import metrics
from ha_scheduler.engine.exposures import TASKS_PER_S
from ha_scheduler.engine.stream.graphs import current_request

#: Tasks of a graph that the event loop orders itself: it takes less than the way to a thread.
ORDERED_AT_ONCE_MAX = 10

_order: Callable[..., Any] = order

T = TypeVar("T")

materialize_graph = upstream._materialize_graph
cull = upstream._cull
offload = upstream.offload
rpc = upstream.rpc

#: The pool over which ``restart_workers`` is to call nannies: a fenced one.
nanny_pool: ContextVar[Any] = ContextVar("nanny_pool", default=None)


def _materialize_and_keep(expr: Any, validate: bool) -> Any:
    """``_materialize_graph`` (scheduler.py:9390); keeps what cannot be materialised twice."""
    dsk, annotations_by_type = materialize_graph(expr=expr, validate=validate)
    request = current_request.get()
    if request is not None and not isinstance(expr, LLGExpr):
        request.materialised = bytes(dumps((dsk, dict(annotations_by_type))))
    if request is not None:
        request.patience_s = len(dsk) / TASKS_PER_S
    return dsk, annotations_by_type


async def _offload_exposed(func: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    """``offload`` of a graph's steps, with its exposure open in the thread that takes them."""
    request = current_request.get()
    if request is None:
        return await offload(func, *args, **kwargs)
    if func is _order and len(kwargs["dsk"]) <= ORDERED_AT_ONCE_MAX:
        return func(*args, **kwargs)  # within the exposure of this step
    exposures, exposure = request.exposures, request.exposure

    def exposed() -> T:
        with exposures.open(exposure, request.patience_s):
            return func(*args, **kwargs)

    async with exposures.turn(exposure):
        return await offload(exposed)


def _rpc(address: str, **kwargs: Any) -> Any:
    """``rpc``, over the pool if one was named."""
    pool = nanny_pool.get()
    return rpc(address, **kwargs) if pool is None else pool(address)


def install() -> None:
    """Have ``Scheduler.update_graph`` (scheduler.py:5032) keep materialised graphs and say what its
    threads are exposed to, and ``restart_workers`` (6556) call nannies over a pool instead of comms
    of its own. ``/metrics`` has our metrics, too.
    """
    metrics.install()
    upstream.offload = _offload_exposed
    upstream._materialize_graph = _materialize_and_keep
    upstream.rpc = _rpc  # type: ignore[assignment,misc]  # only ever called
