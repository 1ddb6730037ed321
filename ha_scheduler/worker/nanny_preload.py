"""Preload for the Nanny of ``dask worker``: its workers follow the leader of the cell.

``dask worker --preload-nanny ha_scheduler.worker.nanny_preload tls://vip:8786``, or by
configuration ``distributed.nanny.preload`` where the Nanny is made by Python code: the command line
of distributed 2026.8 always gives it a list of its own, empty without the option, and then does not
read the configuration.
"""

from __future__ import annotations

from typing import Any

from ha_scheduler.worker.nanny import upgrade


def dask_setup(nanny: Any) -> None:
    """Called by distributed, before the Nanny starts its worker (nanny.py:339)."""
    upgrade(nanny)
