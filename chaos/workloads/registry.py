"""The workloads there are, by name."""

from __future__ import annotations

import importlib.util

from chaos.workloads import coordination, crowds, data, graphs, leaving, submissions
from chaos.workloads.base import BadWorkload, Workload

_ALL = (
    submissions.INDEPENDENT,
    submissions.LONG,
    graphs.MAP_REDUCE,
    graphs.SHUFFLE,
    data.ACTOR,
    coordination.COORDINATION,
    crowds.MANY,
    leaving.FORGET,
    data.PUBLISH,
    data.CHURN,
    leaving.RESUME,
    crowds.JOBLIB,
    crowds.XARRAY,
    crowds.IDLE,
)

WORKLOADS: dict[str, Workload] = {workload.name: workload for workload in _ALL}


def workload(name: str) -> Workload:
    """Raises ``BadWorkload``."""
    if name not in WORKLOADS:
        raise BadWorkload(f"There is no workload {name!r}; there are: {', '.join(WORKLOADS)}.")
    return WORKLOADS[name]


def unavailable(workload: Workload) -> str | None:
    """Why it cannot run here, in words; None if it can."""
    missing = [name for name in workload.needs if importlib.util.find_spec(name) is None]
    return f"not installed: {', '.join(missing)}" if missing else None
