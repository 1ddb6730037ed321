"""``HACluster``: workers for a running cell, scaled by hand or adaptively."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from distributed import Nanny
from distributed.core import Status
from distributed.deploy.spec import SpecCluster
from distributed.security import Security

from ha_scheduler.comm import address as addresses
from ha_scheduler.deploy.following import FollowsLeader


class ExistingCell:
    """A ``SpecCluster``'s scheduler that runs already."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.status = Status.running

    def __await__(self) -> Generator[Any, Any, ExistingCell]:
        return self
        yield  # makes this a generator that ends at once

    async def close(self) -> None:
        """Leave the cell to its operator."""
        self.status = Status.closed


class HACluster(FollowsLeader, SpecCluster):
    """A ``distributed.SpecCluster`` whose scheduler is a cell.

    The cell runs before and after: closing the cluster ends its workers alone. ::

        with HACluster("ha://a:8786,b:8786,c:8786", security=security) as cluster:
            cluster.adapt(minimum=1, maximum=20)
            client = cluster.get_client()

    Only one cluster of a cell should be adaptive: ``Adaptive`` takes all workers for its own.

    Parameters
    ----------
    address:
        ``ha://`` and the peers of the cell. Raises ``ValueError`` for any other.
    worker, workers:
        As with ``SpecCluster``. Default: nannies, with the cluster's ``security``.
    security:
        Of the connections to the cell.
    kwargs:
        As with ``SpecCluster``.
    """

    def __init__(
        self,
        address: str,
        *,
        worker: dict[str, Any] | None = None,
        security: Security | None = None,
        **kwargs: Any,
    ) -> None:
        if not addresses.is_ha(address):
            raise ValueError(f"{address!r} names no cell; give ha:// and the hosts of its peers")
        if worker is None:
            worker = {"cls": Nanny, "options": {"security": security} if security else {}}
        cell = {"cls": ExistingCell, "options": {"address": address}}
        super().__init__(
            scheduler=cell, worker=worker, security=security, shutdown_scheduler=False, **kwargs
        )

    def _new_worker_name(self, worker_number: int) -> str:
        """Names of workers are unique in a cell, which may serve several clusters."""
        return f"{self.name}-{worker_number}"

    async def _close(self) -> None:
        if self.scheduler is not None:
            # Upstream asks a running scheduler to retire the workers by names that are no addresses
            # (spec.py:373): in vain, and without a leader it would wait for one.
            await self.scheduler.close()
        await super()._close()
