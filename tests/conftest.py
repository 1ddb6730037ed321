"""What holds for every test: coroutines are run, and all processes check their state strictly.

A test that is an ``async def`` runs in an event loop of its own, with a deadline.

``validate`` makes schedulers and workers assert after each transition that their state is
consistent. It is set in the environment, before Dask reads that, so that peers, their engines and
workers inherit it.
"""

from __future__ import annotations

import asyncio
import atexit
import inspect
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.configuration import set_hypothesis_home_dir

from tests.deadlines import SCALE

for _role in ("SCHEDULER", "WORKER"):
    os.environ.setdefault(f"DASK_DISTRIBUTED__{_role}__VALIDATE", "true")

#: Not the one of all programs of this machine: whoever starts looks at everything that is there.
_scratch = tempfile.mkdtemp(prefix="dask-ha-tests-")
atexit.register(shutil.rmtree, _scratch, ignore_errors=True)  # after Dask has emptied it
os.environ.setdefault("DASK_TEMPORARY_DIRECTORY", _scratch)
set_hypothesis_home_dir(_scratch)  # processes that share one write its files at once
# A process that shares the cores with two others, and makes those files first, is slow at times.
settings.register_profile("tests", suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")

#: Tests that keep a cell of real processes busy, which most share within a module.
CELLS = frozenset({"deploy", "system", "test_cli_system.py"})
PARTS = ("parallel", "cells")
TESTS = Path(__file__).resolve().parent
DEADLINE_S = 60 * SCALE
os.environ.setdefault("PYTEST_TIMEOUT", str(120 * SCALE))  # of any test, as pytest-timeout has it


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


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--part", choices=PARTS, help="only these tests; see docs/testing.md")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    part = config.getoption("--part")
    if part is None:
        return
    parts: dict[str, list[pytest.Item]] = {name: [] for name in PARTS}
    for item in items:
        with_cell = CELLS.intersection(item.path.relative_to(TESTS).parts)
        parts["cells" if with_cell else "parallel"].append(item)
    items[:] = parts.pop(part)
    config.hook.pytest_deselected(items=[item for rest in parts.values() for item in rest])
