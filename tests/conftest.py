"""Schedulers and workers of every process that a test starts check their own state strictly.

``validate`` makes them assert after each transition that their state is consistent. It is set in
the environment, before Dask reads that, so that peers, their engines and workers inherit it.
"""

from __future__ import annotations

import os

for _role in ("SCHEDULER", "WORKER"):
    os.environ.setdefault(f"DASK_DISTRIBUTED__{_role}__VALIDATE", "true")
