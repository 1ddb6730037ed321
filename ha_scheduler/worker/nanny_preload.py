"""Preload for the Nanny of ``dask worker``: its workers follow the leader of the cell.

``dask worker --preload-nanny ha_scheduler.worker.nanny_preload tls://vip:8786``. The configuration
``distributed.nanny.preload`` works only where Python code makes the Nanny: the command line of
distributed 2026.8 always passes a list of its own.
"""

from __future__ import annotations

from typing import Any

from ha_scheduler.comm.address import may_be_of_a_cell
from ha_scheduler.gate.nofile import raise_limit
from ha_scheduler.worker.nanny import upgrade


def dask_setup(nanny: Any) -> None:
    """Called by distributed, before the Nanny starts its worker (nanny.py:339)."""
    raise_limit()
    if may_be_of_a_cell(nanny.scheduler_addr):
        upgrade(nanny)
