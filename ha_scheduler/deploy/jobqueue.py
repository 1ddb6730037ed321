"""The batch systems of dask-jobqueue, for a cell that runs: ``HASLURMCluster`` and its like.

They are ``attach`` of dask-jobqueue's classes, and exist only where it does (the extra
``jobqueue``). The job scripts are dask-jobqueue's; docs/deploy has a page for each system.

Guarantee: a worker of a job with a walltime has a lifetime that ends before it, unless its command
line says otherwise: it is replaced before, and hands over what it holds (``worker/lifetime.py``).
"""

from __future__ import annotations

import functools
from typing import Any

import dask

from ha_scheduler.deploy.attached import attach
from ha_scheduler.deploy.walltime import lifetime_options

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
    attached = attach(getattr(dask_jobqueue, _OURS[name]))

    def init(self: Any, address: str, *args: Any, **kwargs: Any) -> None:
        config = f"jobqueue.{kwargs.get('config_name') or attached.job_cls.default_config_name()}"
        walltime = kwargs.get("walltime") or dask.config.get(f"{config}.walltime", None)
        words = kwargs.get("worker_extra_args")
        words = list(dask.config.get(f"{config}.worker-extra-args", ()) if words is None else words)
        if not any(str(word).startswith("--lifetime") for word in words):
            words += lifetime_options(walltime, hours_first=name == "HALSFCluster")
        attached.__init__(self, address, *args, **{**kwargs, "worker_extra_args": words})

    namespace = {"__init__": init, "__module__": __name__, "__doc__": attached.__doc__}
    return type(name, (attached,), namespace)


def __getattr__(name: str) -> type[Any]:
    if name in _OURS:
        return _attached(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
