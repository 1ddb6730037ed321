"""Workers for a cell that runs already: ``HACluster``, and ``attach`` for any launcher's class.

Guarantee: the cell and everybody else's workers outlive the cluster object, whatever becomes of it.
``close`` ends the workers that it has started, and a start that fails ends what it had begun.

Order: a worker that goes is retired first, by its name, so that its results move to others; then
its job, process or machine is ended. Upstream asks for that by names in the place of addresses
(spec.py:359), in vain, and ends the worker with what it holds.

What any class of ``distributed.deploy`` needs is in ``AttachedToCell``. A launcher makes its
scheduler in its own way (an argument, an attribute of the class, a method), so the mixin overrules
the specification where ``SpecCluster`` reads it, and no launcher has to be known here.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from collections.abc import Collection, Coroutine, Generator, Iterable
from typing import Any

import dask
from distributed import Nanny
from distributed.core import Status
from distributed.deploy.spec import SpecCluster
from distributed.security import Security

from ha_scheduler.comm import address as addresses
from ha_scheduler.deploy.following import FollowsLeader
from ha_scheduler.deploy.leader_adaptive import LeaderAdaptive

logger = logging.getLogger("distributed.deploy.ha")

#: Of jobs' workers, so that they listen where they reach the cell; with ``tls://``, which
#: dask-jobqueue would say, it is at the first address of their host.
PROTOCOL = "ha://"
RETIRE_S_MAX = 60.0  # for results to move, while the cluster lives
RETIRE_AT_CLOSE_S_MAX = 10.0  # the person waits, and the batch system has its own patience
LED_POLL_S = 0.1


class ExistingCell:
    """A ``SpecCluster``'s scheduler that runs already."""

    def __init__(self, address: str) -> None:
        self.address = address
        # Never ``running``: upstream would ask it to retire workers by names that are no addresses.
        self.status = Status.undefined

    def __await__(self) -> Generator[Any, Any, ExistingCell]:
        return self
        yield  # makes this a generator that ends at once

    async def close(self) -> None:
        """Leave the cell to its operator."""


class AttachedToCell(FollowsLeader):
    """A mixin before a subclass of ``SpecCluster``; ``attach`` makes such classes."""

    # Of the class that this is mixed into
    name: str
    observed: set[Any]
    plan: set[Any]
    workers: dict[Any, Any]
    worker_spec: dict[Any, Any]
    new_spec: dict[str, Any] | None
    scheduler: Any
    sync: Any
    _adaptive: Any
    _created: Any
    _loop_runner: Any

    def __init__(self, address: str, *args: Any, **kwargs: Any) -> None:
        if not isinstance(address, str) or not addresses.is_ha(address):
            raise ValueError(f"{address!r} names no cell; give ha:// and the hosts of its peers")
        self._cell_address = address
        try:
            super().__init__(*args, **kwargs)
        except BaseException:
            self._abandon_start()
            raise

    @property
    def scheduler_spec(self) -> dict[str, Any]:
        """The cell, whatever the launcher would start."""
        return {"cls": ExistingCell, "options": {"address": self._cell_address}}

    @scheduler_spec.setter
    def scheduler_spec(self, spec: Any) -> None:
        """The launcher's own scheduler is not wanted."""

    @property
    def shutdown_scheduler(self) -> bool:
        """Never: upstream's ``terminate`` would end all workers of the cell."""
        return False

    @shutdown_scheduler.setter
    def shutdown_scheduler(self, value: bool) -> None:
        """Whatever the launcher says."""

    def _new_worker_name(self, worker_number: int) -> str:
        """Names of workers are unique in a cell, which may serve several clusters."""
        return f"{self.name}-{worker_number}"

    def adapt(self, Adaptive: Any = LeaderAdaptive, *args: Any, **kwargs: Any) -> Any:
        """As upstream's, about this cluster's workers alone: others of the cell may be adaptive."""
        return super().adapt(Adaptive, *args, **kwargs)  # type: ignore[misc]

    # -- the start

    async def _start(self) -> None:
        name = self.name
        await super()._start()  # type: ignore[misc]
        # Upstream takes over what the last cluster of this scheduler has said of itself, its name
        # among it (cluster.py:121), by which its workers are called.
        self.name = name

    def _abandon_start(self) -> None:
        """End what a start had begun that failed in the midst of ``__init__``."""
        if "_loop_runner" not in self.__dict__:  # its arguments were refused
            self.status = Status.closed
            return
        if self.status not in (Status.closed, Status.closing) and not self.asynchronous:
            with contextlib.suppress(Exception):  # the error that is on its way says why
                self.sync(self._close, callback_timeout=RETIRE_AT_CLOSE_S_MAX)
        if not self.asynchronous:
            self._loop_runner.stop()
        self.status = Status.closed

    # -- its workers

    async def _correct_state_internal(self) -> None:
        if self.status not in (Status.closing, Status.closed):  # then _close has done it
            await self._retire(self.workers.keys() - self.worker_spec.keys(), RETIRE_S_MAX)
        try:
            await super()._correct_state_internal()  # type: ignore[misc]
        except BaseException:
            await self._drop_unstarted()
            raise

    async def _drop_unstarted(self) -> None:
        """Forget workers that the launcher failed to start: who looks next tries again."""
        unstarted = {n: w for n, w in self.workers.items() if w.status is not Status.running}
        for name, worker in unstarted.items():
            del self.workers[name]
            self._created.discard(worker)
            try:
                await worker.close()
            except Exception as error:  # a site's launcher's; it is dropped anyway
                logger.info("Worker %s, which had not started: %s", name, error)

    async def _retire(self, names: Collection[Any], limit_s: float) -> None:
        """Have the results of these workers moved to others, and the workers closed."""
        if not names or self._connection is None or not self._has_leader():
            return
        try:
            async with asyncio.timeout(limit_s):
                await self._connection.retire_workers(
                    names=self._dask_names(names), close_workers=True, remove=True
                )
        except (OSError, TimeoutError) as error:
            logger.warning(
                "Workers %s end without a retirement: %s",
                sorted(names),
                error,
                extra={"action": "retirement_missed"},
            )

    async def _end_politely(self, adaptive: Any) -> None:
        """Withdraw the goal; then results go to others' workers, if there are some."""
        if isinstance(adaptive, LeaderAdaptive):
            await adaptive.withdraw()
        if self.observed - self.plan:
            await self._retire(list(self.workers), RETIRE_AT_CLOSE_S_MAX)

    async def _while_led(self, work: Coroutine[Any, Any, None]) -> None:
        """Until it is done, or there is no leader: the next one would be waited for."""
        task = asyncio.ensure_future(work)
        while not task.done():
            if not self._has_leader():
                task.cancel()
            await asyncio.wait([task], timeout=LED_POLL_S)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.warning(
                "The leader did not hear that %s closes: %s",
                self.name,
                error,
                extra={"action": "close_untold"},
            )

    def _dask_names(self, names: Iterable[Any]) -> list[str]:
        """The names in the cell: a job may be several workers."""
        specs = {name: self.worker_spec.get(name, self.new_spec) or {} for name in names}
        groups = {name: spec.get("group") for name, spec in specs.items()}
        return [f"{name}{suffix}" for name, group in groups.items() for suffix in group or [""]]

    def _has_leader(self) -> bool:
        subscription = self._watch_worker_status_comm
        return subscription is not None and not subscription.closed()

    async def _close(self) -> None:
        if self.status is Status.running:
            if (adaptive := self._adaptive) is not None:
                adaptive.stop()
            await self._while_led(self._end_politely(adaptive))
        # Upstream asserts that all it ever made says that it is closed, which jobs never say.
        self._created.clear()
        await super()._close()


def attach(cls: type[SpecCluster]) -> type[Any]:
    """The class like ``cls`` whose scheduler is a cell that runs already.

    ``cls`` is any subclass of ``distributed.deploy.spec.SpecCluster``. The result takes the address
    of the cell first, and then what ``cls`` takes::

        HASLURM = attach(dask_jobqueue.SLURMCluster)
        cluster = HASLURM("ha://a:8786,b:8786,c:8786", cores=8, memory="32GB", security=security)

    Raises ``TypeError`` for any other class, and the class ``ValueError`` for an address of no
    cell, ``RuntimeError`` if the cell cannot be reached.
    """
    if not (isinstance(cls, type) and issubclass(cls, SpecCluster)):
        raise TypeError(f"{cls!r} is no subclass of distributed.deploy.spec.SpecCluster")
    if issubclass(cls, FollowsLeader):
        return cls
    takes = inspect.signature(cls.__init__).parameters

    def init(self: Any, address: str, *args: Any, **kwargs: Any) -> None:
        if hasattr(cls, "job_cls"):  # of dask-jobqueue, which puts it on the command line
            kwargs.setdefault("protocol", PROTOCOL)
        if "security" in takes and kwargs.get("security") is None:
            kwargs["security"] = configured_security()
        AttachedToCell.__init__(self, address, *args, **kwargs)

    namespace = {"__init__": init, "__module__": __name__, "__doc__": cls.__doc__}
    return type(f"HA{cls.__name__}", (AttachedToCell, cls), namespace)


def configured_security() -> Security | None:
    """What the configuration (``dask.yaml`` of the cell) says, or None if it names no authority.

    Launchers hand a ``Security`` on to the workers that they start, but not their configuration.
    """
    return Security() if dask.config.get("distributed.comm.tls.ca-file", None) else None


class HACluster(AttachedToCell, SpecCluster):
    """A ``distributed.SpecCluster`` whose scheduler is a cell.

    The cell runs before and after: closing the cluster ends its workers alone. ::

        with HACluster("ha://a:8786,b:8786,c:8786", security=security) as cluster:
            cluster.adapt(minimum=1, maximum=20)
            client = cluster.get_client()

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
        if worker is None:
            worker = {"cls": Nanny, "options": {"security": security} if security else {}}
        super().__init__(address, worker=worker, security=security, **kwargs)
