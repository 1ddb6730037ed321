"""What becomes of a plain ``distributed.Worker`` or ``Nanny`` that has come to a cell.

Guarantee: one that was given an ``ha://`` address follows the leader, whatever its options.

Order: a worker is made ours before it registers, and a Nanny before it starts its worker. One that
listens on ``ha://`` is so when it begins to listen (``comm/backend.py``). One that names its
protocol does not listen there, and is so here. Importing this module is enough.
"""

from __future__ import annotations

import functools
from collections.abc import Coroutine
from typing import Any

import distributed

from ha_scheduler.comm import address as addresses
from ha_scheduler.worker import nanny, worker

_register = distributed.Worker._register_with_scheduler
_instantiate = distributed.Nanny.instantiate


@functools.wraps(_register)
def _register_as_ours(self: Any) -> Coroutine[Any, Any, None]:
    if not addresses.is_ha(self.scheduler.address):
        return _register(self)
    worker.upgrade(self)
    ours: Coroutine[Any, Any, None] = self._register_with_scheduler()
    return ours


@functools.wraps(_instantiate)
def _instantiate_as_ours(self: Any) -> Coroutine[Any, Any, Any]:
    if addresses.is_ha(self.scheduler_addr):
        nanny.upgrade(self)
    return _instantiate(self)


def install() -> None:
    """Look after the plain workers of this process. Idempotent."""
    worker_class: Any = distributed.Worker
    nanny_class: Any = distributed.Nanny
    worker_class._register_with_scheduler = _register_as_ours
    nanny_class.instantiate = _instantiate_as_ours


install()
