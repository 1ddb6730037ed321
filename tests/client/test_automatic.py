"""Plain clients that come to a cell become ours, or are told that they are not."""

from __future__ import annotations

import dask
import distributed
import pytest
from distributed import default_client

from client_replay import Client
from client_replay.automatic import PlainClientWarning
from tests.client.scripted import connected
from tests.standalone import Scheduler
from tests.worker.scripted_leader import ScriptedLeader, until


class Mine(distributed.Client):
    """A class of the user's own."""

    def twice(self) -> int:
        return 2


class ClusterLike:
    """What upstream takes for a cluster object."""

    status = distributed.Status.running
    loop = None
    security = None

    def __init__(self, address: str) -> None:
        self.scheduler_address = address

    def __await__(self):  # type: ignore[no-untyped-def]
        return self
        yield


@pytest.mark.parametrize("as_cluster", [False, True])
async def test_a_client_of_a_cell_is_ours_whatever_it_was_made_as(as_cluster: bool) -> None:
    leader = await ScriptedLeader().open()
    address = f"ha://127.0.0.1:{leader.port}"
    given = ClusterLike(address) if as_cluster else address
    client = await Mine(given, asynchronous=True, set_as_default=False)
    assert isinstance(client, Client)
    assert client.twice() == 2
    client.submit(int, key="x")
    assert (await until(lambda: leader.said("update-graph")))[0]["ha_sequence"] == 1
    await client.close()
    await leader.die()


async def test_a_client_of_one_peer_is_told_at_once_that_it_ends_with_it() -> None:
    async with Scheduler(host="tcp://127.0.0.1", port=0, dashboard_address=":0") as engine:
        with pytest.warns(PlainClientWarning, match=r"ha:// address of the cell"):
            client = await distributed.Client(
                engine.address, asynchronous=True, set_as_default=False
            )
        assert type(client) is distributed.Client
        await client.close()


async def test_the_configuration_of_the_process_stays_as_it_was() -> None:
    before = {kind: dask.config.get(f"distributed.{kind}.preload") for kind in ("worker", "client")}
    leader = await ScriptedLeader().open()
    async with connected(leader):
        pass
    await leader.die()
    after = {kind: dask.config.get(f"distributed.{kind}.preload") for kind in ("worker", "client")}
    assert after == before


async def test_a_client_that_is_entered_again_goes_on_after_the_inner_context() -> None:
    leader = await ScriptedLeader().open()
    address = f"ha://127.0.0.1:{leader.port}"
    async with Client(address, asynchronous=True) as client:
        async with client as again:
            assert again is client is default_client()
        assert client.status == "running"
        assert default_client() is client
    assert client.status == "closed"
    await leader.die()
