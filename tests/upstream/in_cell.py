"""A pytest plugin: upstream's tests against a cell whose leader dies in the midst of each.

``gen_cluster`` and ``cluster`` are upstream's own. What they start the scheduler with is replaced:
the address of a cell takes its place, and the workers, which are upstream's choice and our
classes, join that. A test that looks into the scheduler object, gives it arguments or makes one of
its own is skipped, with that reason; so is one that sends the cell too little to be hit.

No test finds anything of the one before: the cell is asked what it holds, and one that is not
clean is replaced. Clients that a test leaves open are closed.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import os
import re
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import pytest
from _pytest.runner import runtestprotocol

from tests.upstream.blow import TRIES_MAX, Blows, Moment, moment
from tests.upstream.cell import Cell, CellLost, Cells

ADDRESS = "HA_UPSTREAM_ADDRESS"  # of the cell, for the process that stands for the scheduler's
FIXTURES = frozenset({"cluster_fixture", "client", "s"})  # that take a cluster
STARTS_CLUSTER = re.compile(r"\b(gen_)?cluster\(")
SCHEDULER_NAMES = frozenset({"s", "scheduler"})  # of the argument that ``gen_cluster`` gives
OFFERED = frozenset({"address", "validate_state"})  # by ``Elsewhere``
#: What ``gen_cluster`` gives every scheduler, and is none of the test's business.
USUAL_ARGUMENTS = frozenset({"dashboard", "dashboard_address", "transition_counter_max"})
CONFIG = "config_in_cell"  # of a test, as ``gen_cluster`` was given it
TEST_SECONDS = 60  # of a test that sets no limit of its own; upstream's are 30
CLOSE_SECONDS = 2.0  # for a client that a test has left open
JOIN_SECONDS_MAX = 20.0  # for the workers of a test to be known to the leader
OVER_BEFORE = "it was over before the blow"


class Elsewhere:
    """In place of the Scheduler, which is in another process; all there is of it is its address."""

    def __init__(self, address: str) -> None:
        self.address = address

    def validate_state(self) -> None:
        """The engine does, by itself, after each transition."""

    def __getattr__(self, name: str) -> Any:
        pytest.skip(f"looks into the scheduler: {name}")


def unfit(function: Any) -> str:
    """Why a test cannot be run against a cell, as far as its text says; empty if it may."""
    inner = inspect.unwrap(function)
    try:
        source = textwrap.dedent(inspect.getsource(inner))
    except OSError:
        return ""
    if not STARTS_CLUSTER.search(source) and not FIXTURES & set(
        inspect.signature(inner).parameters
    ):
        return "takes no cluster, or makes its own"
    if "gen_cluster(" not in source:
        return ""
    looked_at = {
        node.attr
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in SCHEDULER_NAMES
    }
    inside = sorted(looked_at - OFFERED)
    return f"looks into the scheduler: {', '.join(inside)}" if inside else ""


def tell_address(q: Any, nputs: int, config: Any, port: int = 0, **kwargs: Any) -> None:
    """In place of ``run_scheduler``, in a process of its own: there is a scheduler already."""
    for _ in range(nputs):
        q.put(os.environ[ADDRESS])


class InCell:
    """The plugin."""

    def __init__(self, directory: Path, seed: int, after: int | None) -> None:
        self._cells = Cells(directory)
        self._blows = Blows()
        self._seed = seed
        self._after = after  # this message in all tests; 0: no blow
        self._moment: Moment | None = None

    # -- in place of what starts a scheduler

    def pytest_configure(self) -> None:
        from distributed import utils_test

        utils_test.gen_cluster = _remember_config(utils_test.gen_cluster)
        self._upstream_cluster = utils_test.cluster
        utils_test.cluster = self._cluster
        utils_test.start_cluster = self._start_cluster
        utils_test.end_cluster = self._end_cluster
        utils_test.run_scheduler = tell_address

    @contextlib.contextmanager
    def _cluster(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        if kwargs.pop("scheduler_kwargs", None):
            pytest.skip("gives the scheduler arguments")
        from distributed import utils_test

        with utils_test.config_for_cluster_tests(**(kwargs.get("config") or {})):
            cell, address = self._cells.fit()
        os.environ[ADDRESS] = address
        with self._upstream_cluster(*args, **kwargs) as started:
            self._arm(cell, address)
            try:
                yield started
            finally:
                self._blows.disarm()

    async def _start_cluster(
        self,
        nthreads: list[Any],
        scheduler_addr: str,
        security: Any = None,
        Worker: Any = None,
        scheduler_kwargs: dict[str, Any] | None = None,
        worker_kwargs: dict[str, Any] | None = None,
        timeout: float = JOIN_SECONDS_MAX,
    ) -> tuple[Elsewhere, list[Any]]:
        if security is not None:
            pytest.skip("has certificates of its own")
        if set(scheduler_kwargs or {}) - USUAL_ARGUMENTS:
            pytest.skip("gives the scheduler arguments")
        cell, address = self._cells.fit()
        workers = [
            Worker(
                address,
                nthreads=threads,
                name=name,
                host=host,
                **{**(worker_kwargs or {}), **(more[0] if more else {})},
            )
            for name, (host, threads, *more) in enumerate(nthreads)
        ]
        await asyncio.gather(*workers)
        await _until_known(address, len(workers))
        self._arm(cell, address)
        return Elsewhere(address), workers

    async def _end_cluster(self, scheduler: Elsewhere, workers: list[Any]) -> None:
        await asyncio.to_thread(self._blows.disarm)
        await asyncio.gather(*(_end_worker(worker) for worker in workers))

    def _arm(self, cell: Cell, address: str) -> None:
        self._blows.arm(address, self._moment, cell.strike)

    # -- the tests

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        for item in items:
            reason = unfit(item.function)
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: Any, nextitem: Any) -> bool:
        """Run a test until it is hit, and report the last try."""
        location = {"nodeid": item.nodeid, "location": item.location}
        item.ihook.pytest_runtest_logstart(**location)
        for report in self._reports(item, nextitem):
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(**location)
        return True

    def _reports(self, item: Any, nextitem: Any) -> list[Any]:
        reports: list[Any] = []
        for attempt in range(TRIES_MAX):
            self._blows.fell = False
            self._moment = self._drawn(item.nodeid, attempt)
            self._prepare(item)
            item.user_properties[:] = [("blow", str(self._moment or "no blow"))]
            reports = runtestprotocol(item, nextitem=nextitem, log=False)
            self._close_clients()
            if self._moment is None or self._blows.fell:
                return reports
            if not all(report.passed for report in reports):
                return reports
        return [_over_before(report) for report in reports]

    def _prepare(self, item: Any) -> None:
        from distributed.utils_test import config_for_cluster_tests

        if item.get_closest_marker("skip") is not None:
            return
        config = getattr(item.function, CONFIG, {})
        with config_for_cluster_tests(), dask.config.set(config), contextlib.suppress(CellLost):
            self._cells.prepare()  # if the cell is lost, the test will say it

    def _drawn(self, test: str, attempt: int) -> Moment | None:
        if self._after == 0:
            return None
        drawn = moment(self._seed, test, attempt, self._blows.messages)
        if self._after is None:
            return drawn
        return Moment(self._after, drawn.delay_s, drawn.victim)

    @staticmethod
    def _close_clients() -> None:
        from distributed import Client

        for client in list(Client._instances):
            if client.status != "closed" and not client.asynchronous:
                with contextlib.suppress(Exception):  # its loop may have ended
                    client.close(timeout=CLOSE_SECONDS)

    def pytest_unconfigure(self) -> None:
        self._cells.close()


def _remember_config(gen_cluster: Any) -> Any:
    """As ``gen_cluster``, with time for a failover, and the configuration left for ``_prepare``."""

    def make(*args: Any, **kwargs: Any) -> Any:
        decorate = gen_cluster(*args, **{"timeout": TEST_SECONDS, **kwargs})

        def mark(function: Any) -> Any:
            test = decorate(function)
            setattr(test, CONFIG, kwargs.get("config") or {})
            return test

        return mark

    return make


def _over_before(report: Any) -> Any:
    if report.when == "call":
        report.outcome = "skipped"
        report.longrepr = (*report.location[:2], f"Skipped: {OVER_BEFORE}")
    return report


async def _until_known(address: str, workers: int) -> None:
    from distributed.core import rpc

    deadline = time.monotonic() + JOIN_SECONDS_MAX
    async with rpc(address) as scheduler:
        while len(await scheduler.ncores_running()) < workers:
            if time.monotonic() > deadline:
                raise TimeoutError("the workers of the test did not join the cell")
            await asyncio.sleep(0.01)


async def _end_worker(worker: Any) -> None:
    with contextlib.suppress(TimeoutError, OSError):
        await worker.close()
