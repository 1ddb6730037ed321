"""The environment of the processes of a local cell.

As with ``LocalCluster``: the import path and the Dask configuration, so that a module beside a
notebook, or a value set with ``dask.config.set``, is known to workers and peers (their engines
unpickle graphs).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import dask.config
import yaml

_INHERITED = "DASK_INTERNAL_INHERIT_CONFIG"  # dask.config reads it; Nanny sets it likewise
_AT_ONCE = {"ha-scheduler": {"worker": {"hand-over-timeout": "0s"}}}


def peer_environment() -> dict[str, str]:
    """The environment of a peer daemon and its engine."""
    return _environment(dask.config.global_config)


def worker_environment(config_file: Path | None) -> dict[str, str]:
    """The environment of a worker. ``config_file``: the ``dask.yaml`` of ``init``."""
    # A local cluster retires whom it ends alone, and ends all at once.
    inherited = dask.config.merge(_AT_ONCE, dask.config.global_config)
    if config_file is None:
        return _environment(inherited)
    ours = yaml.safe_load(config_file.read_text())
    merged = dask.config.merge(inherited, ours)
    for kind in ("worker", "nanny", "client"):
        key = f"distributed.{kind}.preload"
        both = [*dask.config.get(key, default=[], config=ours), *dask.config.get(key, default=[])]
        dask.config.set({key: list(dict.fromkeys(both))}, config=merged)
    return {**_environment(merged), "DASK_CONFIG": str(config_file)}


def _environment(config: dict[str, Any]) -> dict[str, str]:
    environment = dict(os.environ)
    paths = [*_import_path(), *filter(None, [environment.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    environment["PYTHONUNBUFFERED"] = "1"  # the log of a killed process is complete
    environment[_INHERITED] = dask.config.serialize(config)
    return environment


def _import_path() -> list[str]:
    """The entries of ``sys.path`` that a fresh interpreter of this installation has not."""
    ours = (os.path.abspath(entry or os.curdir) for entry in sys.path)
    installed = (sys.prefix, sys.base_prefix)
    return list(dict.fromkeys(path for path in ours if not path.startswith(installed)))
