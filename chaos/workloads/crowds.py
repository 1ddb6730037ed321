"""Workloads of many clients at once, of none that does anything, and of libraries that use Dask."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import partial
from typing import Any

from chaos.scenario import Scenario
from chaos.workloads.base import Workload, one_client
from chaos.workloads.connecting import connect
from chaos.workloads.session import Session
from chaos.workloads.tasks import counted

EACH = 5  # clients in a process
PROCESSES_MAX = 10
PARALLEL_RATE = 0.5
PARALLEL = 24
WAIT_S = 0.5


def many(session: Session) -> None:
    """``EACH`` clients of this process take turns."""
    with contextlib.ExitStack() as stack:
        address = session.settings.address
        clients = [stack.enter_context(connect(address, set_as_default=False)) for _ in range(EACH)]
        number = 0
        where = str(session.directory)
        while session.pace(session.settings.rate / 2):  # its process is busy with the others, too
            number += 1
            key = f"{session.name}-{number}"
            session.submit(
                key, counted, where, key, 0.0, number,
                expected=number, by=session.random.choice(clients), pure=False,
            )  # fmt: skip
        session.wait_below(1, session.settings.deadline_s)


def processes(scenario: Scenario) -> Sequence[str]:
    """So many that there are as many clients as the scenario says."""
    wanted = min(PROCESSES_MAX, max(1, scenario.clients // EACH))
    return tuple(map(str, range(wanted)))


def idle(session: Session) -> None:
    """A client that is there."""
    while not session.stopping.wait(WAIT_S):
        session.call("look", session.name, partial(_workers, session))


def joblib(session: Session) -> None:
    """joblib with Dask as its backend."""
    import joblib as library

    number = 0
    where = str(session.directory)
    while session.pace(PARALLEL_RATE):
        number += 1
        name = f"{session.name}-parallel-{number}"
        with library.parallel_config("dask", wait_for_workers_timeout=60):
            jobs = [
                library.delayed(counted)(where, f"{name}-{n}", 0.02, n) for n in range(PARALLEL)
            ]
            parallel = partial(library.Parallel(), jobs)
            session.call("parallel", name, parallel, None, list(range(PARALLEL)))


def xarray(session: Session) -> None:
    """Means and sums of chunked arrays, as xarray computes them; as numpy does."""
    import numpy as np
    import xarray as library

    number = 0
    while session.pace(PARALLEL_RATE):
        number += 1
        values = np.random.default_rng(session.random.getrandbits(32)).integers(0, 1000, (120, 90))
        array = library.DataArray(values, dims=("x", "y")).chunk({"x": 30, "y": 30})
        lazy = (array - array.mean("x")).groupby(array.x % 7).sum().sum()
        plain = values - values.mean(axis=0)
        expected = round(float(plain.sum()), 3) + 0.0
        session.call(
            "xarray",
            f"{session.name}-xarray-{number}",
            partial(_number, lazy),
            None,
            expected,
        )


def _workers(session: Session) -> int:
    return len(session.client.scheduler_info()["workers"])


def _number(lazy: Any) -> float:
    return round(float(lazy.compute()), 3) + 0.0


MANY = Workload("many-clients", "five clients in each process, which take turns", many, processes)
IDLE = Workload("idle", "a client that does nothing", idle, one_client, counted=False, patient=True)
JOBLIB = Workload("joblib", "joblib over Dask", joblib, needs=("joblib",), floor=1)
XARRAY = Workload("xarray", "xarray over Dask", xarray, needs=("xarray",), counted=False, floor=1)
