"""Preload for ``dask worker``: the worker follows the leader of the cell it registers with.

``dask worker --preload ha_scheduler.worker.preload tls://vip:8786``, or by configuration
``distributed.worker.preload``. Runs before the worker registers (worker.py:1343).
"""

from __future__ import annotations

from typing import Any

from ha_scheduler.comm.address import may_be_of_a_cell
from ha_scheduler.gate.nofile import raise_limit
from ha_scheduler.worker.worker import upgrade


def dask_setup(worker: Any) -> None:
    """Called by distributed."""
    raise_limit()
    if may_be_of_a_cell(worker.scheduler.address):
        upgrade(worker)
