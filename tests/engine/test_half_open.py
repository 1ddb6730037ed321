"""Connections that are open on one side only: their end removes nobody who came back meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from distributed.core import Status

from client_replay import Client as HAClient
from ha_scheduler.engine.workers import registration as engine_workers
from ha_scheduler.worker.link import Phase
from tests.engine.conftest import Pair, eventually, pair, start_worker
from tests.engine.counted import begin, blocked, gate, runs, work

PIECE_BYTES = 65536


@pytest.fixture(autouse=True)
def _fresh() -> None:
    begin()


class Network:
    """What lies between a scheduler and the others. It may lose the end of a connection."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._lossy = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._towards: list[asyncio.StreamWriter] = []
        self.half_open: list[asyncio.StreamWriter] = []  # whose other side has gone

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there = await asyncio.open_connection("127.0.0.1", self._port)
        self._towards.append(there)
        for source, target in ((reader, there), (there_reader, writer)):
            task = asyncio.create_task(self._carry(source, target))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _carry(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(PIECE_BYTES):
                target.write(data)
                await target.drain()
        if self._lossy:
            self.half_open.append(target)
        else:
            target.close()

    def lose_ends(self) -> None:
        """From now on nobody hears that the other side has hung up."""
        self._lossy = True

    def find_out(self) -> None:
        """The half-open connections end on the other side, too."""
        self._lossy = False
        for writer in self.half_open:
            writer.transport.abort()
        self.half_open.clear()

    async def stop(self) -> None:
        self.find_out()
        self._server.close()
        for writer in self._towards:
            writer.transport.abort()
        while self._tasks:
            await asyncio.wait(set(self._tasks))


@asynccontextmanager
async def networked(n_workers: int) -> AsyncIterator[tuple[Pair, Network]]:
    """A pair whose workers and client reach the leader over a network."""
    async with pair(0) as both:
        network = Network(both.ports[0])
        await network.start()
        address = f"ha://127.0.0.1:{network.port},127.0.0.1:{both.ports[1]}"
        await both.client.close()
        both.client = await HAClient(address, asynchronous=True, set_as_default=False)
        both.workers = [
            await start_worker(address, name=f"w{i}", dashboard_address=":0")
            for i in range(n_workers)
        ]
        try:
            yield both, network
        finally:
            for worker in both.workers:
                await worker.close()
            await both.client.close()
            await network.stop()


async def rejoins(worker: Any) -> None:
    """The worker notices that its connection is lost, and comes back."""
    former = worker.batched_stream
    worker._ha._comm.abort()
    await eventually(lambda: worker.batched_stream is not former)
    await eventually(lambda: worker._ha.phase is Phase.UP)


async def test_the_end_of_a_workers_former_connection_removes_nothing() -> None:
    async with networked(1) as (both, network):
        (worker,) = both.workers
        done = both.client.submit(work, 1, key="done")
        assert await done == 1
        running = both.client.submit(blocked, 2, key="running")
        await eventually(lambda: runs[2] == 1)
        network.lose_ends()
        await rejoins(worker)
        network.find_out()
        gate.set()
        assert await running == 2
        assert await both.client.submit(work, 3) == 3
        assert list(both.leader.workers) == [worker.address]
        assert await done == 1
        assert set(runs.values()) == {1}
        both.leader.validate_state()


async def test_the_end_of_a_clients_former_connection_removes_nothing() -> None:
    async with networked(1) as (both, network):
        client = both.client
        done = client.submit(work, 1, key="done")
        running = client.submit(blocked, 2, key="running")
        assert await done == 1
        await eventually(lambda: runs[2] == 1)
        former = client.scheduler_comm
        network.lose_ends()
        former.abort()
        await eventually(lambda: client.status == "running")
        await eventually(lambda: client.scheduler_comm not in (None, former))
        await eventually(lambda: both.leader.client_comms.get(client.id) is not None)
        network.find_out()
        gate.set()
        assert await running == 2
        assert await client.submit(work, 3) == 3
        assert set(both.leader.clients) >= {client.id}
        assert both.leader.tasks["done"].state == "memory"
        assert set(runs.values()) == {1}


async def test_a_connection_to_a_leader_of_the_past_takes_nothing_with_it() -> None:
    """The leader dies and nobody hears of it but from its successor."""
    async with networked(2) as (both, network):
        futures = both.client.map(work, range(4))
        await both.client.gather(futures)
        running = both.client.map(blocked, range(10, 12))
        await eventually(lambda: len(runs) == 6)
        network.lose_ends()
        await both.kill_leader()
        assert all(worker._ha.phase is Phase.UP for worker in both.workers)
        leader = await both.take_over()
        assert len(leader.workers) == 2
        await eventually(lambda: len(network.half_open) >= 2)
        network.find_out()
        # The client watches no peer of a cell here: it finds out with the network.
        gate.set()
        assert await both.client.gather(running) == [10, 11]
        assert await both.client.gather(futures) == [0, 1, 2, 3]
        assert len(leader.workers) == 2
        assert set(runs.values()) == {1}
        leader.validate_state()


class Switch:
    """A lease that a test holds."""

    def __init__(self) -> None:
        self.on = False

    def valid(self) -> bool:
        return self.on


async def test_a_registration_that_was_given_up_does_not_take_over_the_one_that_followed() -> None:
    """Its answer is written late, into a connection that is open on the leader's side alone."""
    async with networked(1) as (both, network):
        (worker,) = both.workers
        leader = both.leader
        assert await both.client.submit(work, 1) == 1
        leader.lease = lease = Switch()
        network.lose_ends()
        registrations = []
        take_back = leader._take_back

        async def noted(comm: Any, *args: Any) -> None:
            registrations.append(comm)
            await take_back(comm, *args)

        leader._take_back = noted
        worker._ha._comm.abort()
        await eventually(lambda: len(registrations) == 1)
        worker._ha._comm.abort()
        await eventually(lambda: len(registrations) == 2)
        lease.on = True
        await eventually(lambda: worker._ha.phase is Phase.UP)
        stream = worker.batched_stream
        assert await both.client.submit(work, 2) == 2
        network.find_out()
        await eventually(lambda: registrations[0].closed())
        assert await both.client.submit(work, 3) == 3
        assert list(leader.workers) == [worker.address]
        assert worker.batched_stream is stream
        assert leader.workers[worker.address].status == Status.running
        assert set(runs.values()) == {1}


async def test_a_clients_registration_that_was_given_up_does_not_hold_up_the_next_one() -> None:
    """It is answered late, into a connection that is open on the leader's side alone."""
    async with networked(1) as (both, network):
        client, leader = both.client, both.leader
        assert await client.submit(work, 1) == 1
        leader.lease = lease = Switch()
        network.lose_ends()
        registrations = []
        welcome = leader._welcome

        async def noted(comm: Any, *args: Any) -> None:
            registrations.append(comm)
            await welcome(comm, *args)

        leader._welcome = noted
        served = leader._served[client.id]
        client.scheduler_comm.abort()
        await eventually(lambda: len(registrations) == 1)
        await eventually(lambda: client._ha.follower._attempt is not None)
        client._ha.follower._attempt.cancel()
        await eventually(lambda: len(registrations) == 2)
        lease.on = True
        assert await client.submit(work, 2) == 2
        assert leader.client_comms[client.id].comm is not None
        assert leader._served[client.id] is not served


async def test_a_worker_that_died_before_its_registration_was_answered_is_not_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is no worker without a stream, which holds what it reported until its time is over."""
    monkeypatch.setattr(engine_workers, "RETURN_SECONDS", 1.0)
    async with pair(2) as both:
        futures = both.client.map(work, range(4))
        await both.client.gather(futures)
        running = both.client.map(blocked, range(10, 12))
        await eventually(lambda: len(runs) == 6)
        lease = Switch()
        scheduler = both._scheduler

        def without_lease(number: int) -> Any:
            follower = scheduler(number)
            follower.lease = lease
            return follower

        both._scheduler = without_lease
        await both.kill_leader()
        taking_over = asyncio.ensure_future(both.take_over(window_seconds=60))
        await eventually(lambda: both.leader.term == 2 and len(both.leader.workers) == 2)
        dying = both.workers.pop()
        dying._ha._comm.abort()
        await dying._ha.stop()
        gate.set()
        await dying.close()
        lease.on = True
        leader = await taking_over
        await eventually(lambda: dying.address not in leader.workers)
        assert await both.client.gather(futures) == [0, 1, 2, 3]
        assert await both.client.gather(running) == [10, 11]
        leader.validate_state()
