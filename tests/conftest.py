"""What holds for every test: coroutines are run, and all processes check their state strictly.

A test that is an ``async def`` runs in an event loop of its own, with a deadline.

``validate`` makes schedulers and workers assert after each transition that their state is
consistent. It is set in the environment, before Dask reads that, so that peers, their engines and
workers inherit it.
"""

from __future__ import annotations

import asyncio
import inspect
import os

import pytest

for _role in ("SCHEDULER", "WORKER"):
    os.environ.setdefault(f"DASK_DISTRIBUTED__{_role}__VALIDATE", "true")

DEADLINE_S = 60 * float(os.environ.get("DASK_HA_TEST_SCALE", "1"))


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    test = pyfuncitem.obj
    if not inspect.iscoroutinefunction(test):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in inspect.signature(test).parameters}

    async def within_its_deadline() -> None:
        async with asyncio.timeout(DEADLINE_S):
            await test(**arguments)

    asyncio.run(within_its_deadline())
    return True
