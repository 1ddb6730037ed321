"""A Dask scheduler that is replicated over several peers and survives the death of its leader.

Importing this package imports nothing of ``distributed``, so that the peer daemon starts fast and
stays small; what needs it is loaded when it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ha_scheduler.deploy.attached import HACluster
    from ha_scheduler.deploy.local import LocalHACluster

__all__ = ["HACluster", "LocalHACluster"]


def __getattr__(name: str) -> Any:
    if name == "HACluster":
        from ha_scheduler.deploy.attached import HACluster

        return HACluster
    if name == "LocalHACluster":
        from ha_scheduler.deploy.local import LocalHACluster

        return LocalHACluster
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
