"""A leading scheduler whose records are kept, and followers that replay them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, NoReturn

import pytest
from distributed import Client, Worker

from client_replay import Client as HAClient
from ha_scheduler.deploy.ports import free_ports
from ha_scheduler.engine.scheduler import Scheduler
from ha_scheduler.engine.stream.recorder import OnCommit
from ha_scheduler.engine.takeover import recovery
from ha_scheduler.ledger.encoding import decode, encode
from ha_scheduler.ledger.fold import fold
from ha_scheduler.ledger.rebuild import rebuild as rebuild_ledger
from ha_scheduler.ledger.records import Record
from ha_scheduler.protocol.codec import tag_of
from ha_scheduler.protocol.worker import LeaderCalled
from ha_scheduler.worker.worker import Worker as HAWorker
from tests.twins.tables import MemoryTables


@pytest.fixture(autouse=True)
def _a_failed_recovery_is_a_failed_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine ends its process then, which here is pytest's. The event loop ends in its place."""

    def end_loop() -> NoReturn:
        asyncio.get_running_loop().stop()
        raise RuntimeError("the recovery failed, as the log says")

    monkeypatch.setattr(recovery, "end_engine", end_loop)


@pytest.fixture(autouse=True)
def _no_http_server_stays_open(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A follower that a test just drops would leave its own to the garbage collector."""
    servers: list[Any] = []
    start = Scheduler.start_http_server

    def start_and_note(self: Scheduler, *args: Any, **kwargs: Any) -> None:
        start(self, *args, **kwargs)
        servers.append(self.http_server)

    monkeypatch.setattr(Scheduler, "start_http_server", start_and_note)
    yield
    for server in servers:
        for sock in server._sockets.values():
            sock.close()


class KeptLog:
    """Commits at once, and keeps what was committed; or, while stalled, commits nothing."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.stalled = 0  # records that were proposed since ``stall``
        self._stalls = False
        self._held: list[OnCommit] | None = None

    def stall(self) -> None:
        """What is proposed from now on does not commit: a test keeps it or deletes it."""
        self.stalled, self._stalls = 0, True

    def resume(self) -> None:
        """Commit again. What was proposed meanwhile is not told to anybody."""
        self._stalls = False

    def hold(self) -> Callable[[], None]:
        """Commit nothing until what is returned is called; then all of it."""
        self._held = []

        def commit() -> None:
            held, self._held = self._held or [], None
            for on_commit in held:
                asyncio.get_running_loop().call_soon(on_commit)

        return commit

    def confirm(self, on_confirmed: OnCommit) -> None:
        asyncio.get_running_loop().call_soon(on_confirmed)

    def propose(self, data: bytes, on_commit: OnCommit | None) -> None:
        self.records.append(decode(data))
        if self._stalls:
            self.stalled += 1
        elif on_commit is not None and self._held is not None:
            self._held.append(on_commit)
        elif on_commit is not None:
            asyncio.get_running_loop().call_soon(on_commit)


def new_scheduler() -> Scheduler:
    return Scheduler(
        host="127.0.0.1",
        port=0,
        protocol="tcp://",
        dashboard=False,
        dashboard_address=":0",
        validate=True,
    )


@asynccontextmanager
async def leading(
    log: KeptLog, workers: int = 2, term: int = 1
) -> AsyncIterator[tuple[Scheduler, Client, list[Worker]]]:
    """A leader, upstream's workers, and upstream's client, on loopback in this event loop."""
    scheduler = new_scheduler()
    await scheduler.activate(term, log, lambda phase, detail: None)
    started = [
        await Worker(scheduler.address, nthreads=1, dashboard_address=":0", name=f"w{i}")
        for i in range(workers)
    ]
    client = await Client(scheduler.address, asynchronous=True, set_as_default=False)
    try:
        yield scheduler, client, started
    finally:
        await client.close()
        await asyncio.gather(*(worker.close() for worker in started))
        await end(scheduler)


async def end(scheduler: Scheduler) -> None:
    """Stop an engine's scheduler within a process that lives on (an engine just exits)."""
    await super(Scheduler, scheduler).close()


def follow(records: list[Record]) -> Scheduler:
    """A follower that has replayed these records."""
    follower = new_scheduler()
    follower.replay.caught_up()
    for record in records:
        follower.replay.apply(record)
    return follower


def rebuild(records: list[Record]) -> Scheduler:
    """An engine that was started on the ledger to which these records fold."""
    engine = new_scheduler()
    start_on_ledger(engine, records)
    return engine


def start_on_ledger(engine: Scheduler, records: list[Record]) -> None:
    """The engine learns what is left of these records in the ledger."""
    tables = MemoryTables()
    for index, record in enumerate(records, 1):
        assert fold(tables, index, 1, encode(record)) is None
    for data in rebuild_ledger(tables):
        engine.replay.apply(decode(data))
    engine.replay.caught_up()


async def eventually(condition: Callable[[], bool]) -> None:
    """Until the condition holds; the test's own deadline ends a wait in vain."""
    while not condition():  # noqa: ASYNC110 - any state of any party
        await asyncio.sleep(0.01)


class Pair:
    """A leader and its follower-to-be in one event loop, with workers and a client that follow.

    The follower replays each record when the leader writes it, as a hot standby does.
    """

    kind: type[Scheduler] = Scheduler

    def __init__(self, dashboard: bool = False) -> None:
        self.dashboard = dashboard
        self.ports = free_ports("127.0.0.1", 2)
        self.address = "ha://" + ",".join(f"127.0.0.1:{port}" for port in self.ports)
        self.log = KeptLog()
        self.marks: dict[str, dict[str, Any]] = {}

    async def start(self, workers: int = 2) -> None:
        self.leader = self._scheduler(0)
        await self.leader.activate(1, self.log, self._mark)
        self.workers = [
            await HAWorker(self.address, nthreads=1, name=f"w{i}", dashboard_address=":0")
            for i in range(workers)
        ]
        self.client = await HAClient(self.address, asynchronous=True, set_as_default=False)

    def _scheduler(self, number: int) -> Scheduler:
        return self.kind(
            host="127.0.0.1",
            port=self.ports[number],
            protocol="tcp://",
            dashboard=self.dashboard,
            dashboard_address=":0",
            validate=True,
        )

    def _mark(self, phase: str, detail: dict[str, Any]) -> None:
        self.marks[phase] = detail

    async def kill_leader(self, lose_records: int = 0) -> None:
        """The leader stops in the middle of whatever it does; its last records never committed."""
        leader = self.leader
        assert leader.recorder is not None
        leader.recorder.flush()
        leader.recorder = None
        leader._stop_listeners()
        leader.http_server.stop()
        if (calls := getattr(leader, "_call", None)) is not None:
            calls.cancel()
        for comm in list(leader._comms):
            comm.abort()
        for callback in leader.periodic_callbacks.values():
            callback.stop()
        if lose_records:
            del self.log.records[-lose_records:]

    async def take_over(self, window_seconds: float = 5.0, rebuilt: bool = False) -> Scheduler:
        """The follower replays what committed, leads in term 2, and recovers.

        ``rebuilt``: it was started on the ledger, and has not followed.
        """
        follower = self._scheduler(1)
        if rebuilt:
            start_on_ledger(follower, self.log.records)
        else:
            replay(follower, self)
        if not follower.scattered:  # it cannot say where scattered data is before workers report
            follower.validate_state()
        self.former, self.leader = self.leader, follower
        await follower.activate(2, self.log, self._mark, window_seconds)
        await follower.recovery.opened()
        follower.validate_state()
        return follower

    async def close(self) -> None:
        await self.client.close()
        await asyncio.gather(*(worker.close() for worker in self.workers))
        for scheduler in (self.leader, getattr(self, "former", None)):
            if scheduler is not None:
                await end(scheduler)


@asynccontextmanager
async def pair(workers: int = 2, dashboard: bool = False) -> AsyncIterator[Pair]:
    """A started pair, which ends with the test. A dashboard takes longer than all the rest."""
    both = Pair(dashboard)
    await both.start(workers)
    try:
        yield both
    finally:
        await both.close()


def keep_away(worker: Any) -> asyncio.Event:
    """The worker finds no leader until the event is set."""
    free = asyncio.Event()
    register = worker._ha._register

    async def late() -> Any:
        await free.wait()
        return await register()

    worker._ha._register = late
    return free


def say_nothing(worker: Any) -> asyncio.Event:
    """The worker is there and answers nobody until the event is set: a task holds its interpreter.

    Its kernel goes on to take connections.
    """
    free = keep_away(worker)

    async def answer_late(comm: Any, **message: Any) -> Any:
        await free.wait()
        return worker._ha.leader_called(comm, **message)

    worker.handlers[tag_of(LeaderCalled)] = answer_late
    return free


async def start_worker(*args: Any, **kwargs: Any) -> HAWorker:
    """One that follows the leader, with one thread."""
    return await HAWorker(*args, nthreads=1, **kwargs)


def replay(follower: Any, both: Pair) -> None:
    """The follower learns all that has committed."""
    follower.replay.caught_up()
    for record in both.log.records:
        follower.replay.apply(record)
