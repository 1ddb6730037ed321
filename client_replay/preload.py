"""Preload that makes a plain ``distributed.Client`` replay its work.

By configuration ``distributed.client.preload: [client_replay.preload]``. Runs right after the
client has connected, before anything can have been submitted to the stream (client.py:1503).
"""

from __future__ import annotations

from typing import Any

from client_replay.client import upgrade


def dask_setup(client: Any) -> None:
    """Called by distributed."""
    upgrade(client)
