"""What starts a cell's processes, or is started for one.

``attach`` makes any class of ``distributed.deploy`` one for a cell that runs; ``HACluster`` is such
a class, and ``HASLURMCluster`` and its like are dask-jobqueue's. ``LocalHACluster`` is a whole cell
on this machine, for laptops, notebooks and tests. Nothing is imported before it is asked for.
"""

from __future__ import annotations

import importlib
from typing import Any

_JOBQUEUE = "ha_scheduler.deploy.jobqueue"
_LAZY = {
    "attach": "ha_scheduler.deploy.attached",
    "HACluster": "ha_scheduler.deploy.attached",
    "LocalHACluster": "ha_scheduler.deploy.local",
    "HASSHCluster": "ha_scheduler.deploy.ssh",
    "HASLURMCluster": _JOBQUEUE,
    "HASGECluster": _JOBQUEUE,
    "HAPBSCluster": _JOBQUEUE,
    "HAHTCondorCluster": _JOBQUEUE,
    "HALSFCluster": _JOBQUEUE,
    "HAOARCluster": _JOBQUEUE,
    "HAMoabCluster": _JOBQUEUE,
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
