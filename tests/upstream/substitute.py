"""Our Scheduler, Worker, Nanny and Client under the names of the originals.

The names are replaced in every module of distributed that is loaded, before
``distributed.utils_test`` is: its helpers derive from ``Worker`` and bind the classes as default
arguments, so afterwards would be too late for them.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

_BEFORE = ("distributed", "distributed.deploy.local", "distributed.deploy.spec", "dask.distributed")


def replacements() -> dict[type, type]:
    """The class that stands for each original."""
    import distributed

    from client_replay import Client
    from ha_scheduler.worker.nanny import Nanny
    from ha_scheduler.worker.worker import Worker
    from tests.standalone import Scheduler

    return {
        distributed.Scheduler: Scheduler,
        distributed.Worker: Worker,
        distributed.Nanny: Nanny,
        distributed.Client: Client,
    }


def substitute() -> None:
    """Replace the classes. Raises ``RuntimeError`` if it is too late for that."""
    if "distributed.utils_test" in sys.modules:
        raise RuntimeError("distributed.utils_test is loaded and has bound the original classes")
    for name in _BEFORE:
        importlib.import_module(name)
    ours = replacements()
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "distributed" or name == "dask.distributed":
            _replace_in(module, ours)


def _replace_in(module: Any, ours: dict[type, type]) -> None:
    for name, value in list(vars(module).items()):
        if isinstance(value, type) and value in ours:
            setattr(module, name, ours[value])
