"""The batch systems of dask-jobqueue, for a cell that runs: ``HASLURMCluster`` and its like.

They are ``attach`` of dask-jobqueue's classes, and exist only where it does (the extra
``jobqueue``). The job scripts are dask-jobqueue's; docs/deploy has a page for each system.
"""

from __future__ import annotations

import functools
from typing import Any

from ha_scheduler.deploy.attached import attach

_OURS = {
    "HASLURMCluster": "SLURMCluster",
    "HASGECluster": "SGECluster",
    "HAPBSCluster": "PBSCluster",
    "HAHTCondorCluster": "HTCondorCluster",
    "HALSFCluster": "LSFCluster",
    "HAOARCluster": "OARCluster",
    "HAMoabCluster": "MoabCluster",
}
NAMES = tuple(_OURS)
EXTRA = "pip install 'dask-ha-scheduler[jobqueue]'"


@functools.cache
def _attached(name: str) -> type[Any]:
    try:
        import dask_jobqueue
    except ImportError as error:
        raise ImportError(f"{name} needs dask-jobqueue: {EXTRA}") from error
    return attach(getattr(dask_jobqueue, _OURS[name]))


def __getattr__(name: str) -> type[Any]:
    if name in _OURS:
        return _attached(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
