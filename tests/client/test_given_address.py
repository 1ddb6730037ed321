"""Where a client is told which cell is its own."""

from __future__ import annotations

import dask

from client_replay import Client
from tests.standalone import Scheduler


async def test_a_client_takes_the_address_of_the_environment() -> None:
    """``DASK_SCHEDULER_ADDRESS`` is that of the configuration (client.py:1130)."""
    async with Scheduler(
        host="127.0.0.1", port=0, protocol="tcp://", dashboard_address=":0"
    ) as scheduler:
        address = scheduler.address.replace("tcp://", "ha://")
        with dask.config.set({"scheduler-address": address}):
            async with Client(asynchronous=True) as client:
                assert client.scheduler.address == address
                assert (await client.scheduler.identity(n_workers=0))["type"] == "Scheduler"
