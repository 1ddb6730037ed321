"""A Dask scheduler that is replicated over several peers and survives the death of its leader.

Importing this package imports nothing of ``distributed``, so that the peer daemon starts fast and
stays small; what needs it is loaded when it is asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ha_scheduler.deploy.attached import HACluster
    from ha_scheduler.deploy.local import LocalHACluster

__all__ = ["HACluster", "LocalHACluster"]

_LAZY = {"HACluster": "ha_scheduler.deploy.attached", "LocalHACluster": "ha_scheduler.deploy.local"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
