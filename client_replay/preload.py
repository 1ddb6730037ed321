"""Preload that makes a plain ``distributed.Client`` replay its work.

By configuration ``distributed.client.preload: [client_replay.preload]``. Runs right after the
client has connected, before anything can have been submitted to the stream (client.py:1503).
"""

from __future__ import annotations

from typing import Any

from client_replay.client import upgrade
from ha_scheduler.comm.address import may_be_of_a_cell


def dask_setup(client: Any) -> None:
    """Called by distributed."""
    if may_be_of_a_cell(client.scheduler.address):  # and not ``gateway://…``
        upgrade(client)
