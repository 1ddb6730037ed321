"""Whom a worker or client believes: over TLS, with daemons that say who leads which cell."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from distributed import Security, Status
from distributed.client import FutureCancelledError
from distributed.comm import connect
from distributed.worker_state_machine import UpdateDataEvent
from msgspec.structs import replace

from client_replay import Client
from ha_scheduler.comm import follower
from ha_scheduler.comm.directory import forget_directories
from ha_scheduler.protocol.worker import OTHER_CELL
from ha_scheduler.security.authority import client_files, engine_files, peer_files
from ha_scheduler.security.contexts import server_context
from ha_scheduler.worker.link import Phase
from ha_scheduler.worker.worker import Worker
from tests.certificates import issue, security_of
from tests.comm.watch_peer import WatchPeer, view_of
from tests.worker.cell import free_ports
from tests.worker.scripted_leader import ScriptedLeader, until

pytestmark = pytest.mark.filterwarnings("default")

HIGHEST = 2**31 - 1
OLD, NEW = "0" * 32, "1" * 32


@dataclass
class Cell:
    """A leader that does what the test says, and two daemons that say who leads."""

    files: Path
    daemons: list[WatchPeer]
    cell_id: str = OLD
    predecessor: str = ""
    ports: list[int] = field(default_factory=lambda: free_ports(2))
    leaders: list[ScriptedLeader] = field(default_factory=list)

    def shown(self, role: str) -> Security:
        files = client_files(self.files) if role == "client" else engine_files(self.files, "a")
        return security_of(files)

    @property
    def address(self) -> str:
        return "ha://" + ",".join(f"127.0.0.1:{port}" for port in self.ports)

    async def lead(self, term: int, port: int = 0, **said: Any) -> ScriptedLeader:
        leader = ScriptedLeader(term, "a")
        identity = {"cell_id": self.cell_id, "predecessor": self.predecessor, **said}
        leader.welcome = {"watch": [daemon.peer for daemon in self.daemons], **identity}
        self.leaders.append(leader)
        return await leader.open(self.ports[port], self.shown("engine"))

    def say(self, term: int, port: int | None = 0, *, who: slice = slice(None)) -> None:
        """The daemons say who leads: the engine at this port, or nobody yet."""
        view = view_of(self.daemons, "a", term)
        if port is not None:
            view = replace(view, address=f"tls://127.0.0.1:{self.ports[port]}")
        view = replace(view, cell_id=self.cell_id, predecessor=self.predecessor)
        for daemon in self.daemons[who]:
            daemon.push(view)

    async def call(self, worker: Worker, role: str, term: int, port: int = 1) -> dict[str, Any]:
        """Somebody calls the worker as its leader."""
        arguments = self.shown(role).get_connection_args("client")
        comm = await connect(worker.address, timeout=5, **arguments)
        fields = {"term": term, "leader": "a", "address": f"tls://127.0.0.1:{self.ports[port]}"}
        await comm.write({"op": "ha-leader", "cell_id": self.cell_id, **fields, "reply": True})
        answer: dict[str, Any] = await comm.read()
        comm.abort()
        return answer

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[Worker]:
        forget_directories()
        security = self.shown("client")
        worker = await Worker(
            self.address, nthreads=1, dashboard=False, name="w", security=security, protocol="tls"
        )
        try:
            yield worker
        finally:
            await worker.close()


@asynccontextmanager
async def a_cell(directory: Path) -> AsyncIterator[Cell]:
    files = issue(directory, "a", "b", "c")
    daemons = [WatchPeer(name, server_context(peer_files(files, name))) for name in "bc"]
    for daemon in daemons:
        await daemon.start()
    made = Cell(files, daemons)
    try:
        yield made
    finally:
        for leader in made.leaders:
            await leader.die()
        for daemon in daemons:
            await daemon.stop()
        forget_directories()


def hold(worker: Worker, **data: Any) -> None:
    worker.handle_stimulus(UpdateDataEvent(data=data, stimulus_id="test"))


@pytest.mark.parametrize("term", [2, HIGHEST, 2**62])
async def test_a_client_that_calls_a_worker_as_its_leader_is_refused(
    tmp_path: Path, term: int
) -> None:
    async with a_cell(tmp_path) as cell:
        leader = await cell.lead(1)
        cell.say(1)
        async with cell.worker() as worker:
            assert (await cell.call(worker, "client", term))["status"] == "refused"
            assert worker.link.follower.fence.term == 1
            assert worker.link.phase is Phase.UP
            assert len(leader.registrations) == 1


async def test_an_engine_that_calls_is_followed_when_a_daemon_says_that_it_leads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(follower, "UNCONFIRMED_S", 0.5)
    async with a_cell(tmp_path) as cell:
        first = await cell.lead(1)
        cell.say(1)
        async with cell.worker() as worker:
            fence = worker.link.follower.fence
            await until(lambda: fence.term == 1)
            await cell.call(worker, "engine", HIGHEST)
            await until(lambda: "no peer of the cell says so" in caplog.text)
            assert (fence.term, worker.link.phase) == (1, Phase.UP)
            assert len(first.registrations) == 1
            monkeypatch.setattr(follower, "UNCONFIRMED_S", 60.0)
            await first.die()
            second = await cell.lead(2, port=1)
            cell.say(2, None, who=slice(1))  # one knows, and says so when it is asked
            await cell.call(worker, "engine", 2)
            await until(lambda: second.registrations, 20)
            await until(lambda: fence.term == 2, 20)


async def test_a_term_that_only_the_engine_says_shuts_nobody_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whom an engine takes in by a term that no daemon knows leaves it, and finds the leader."""
    monkeypatch.setattr(follower, "UNCONFIRMED_S", 0.5)
    async with a_cell(tmp_path) as cell:
        await cell.lead(HIGHEST)
        cell.say(1, port=1)
        async with cell.worker() as worker:
            true = await cell.lead(1, port=1)
            await cell.leaders[0].die()
            await until(lambda: true.registrations, 10)
            await until(lambda: worker.link.phase is Phase.UP)
            assert worker.link.follower.fence.term == 1


async def test_what_only_an_engine_can_say_does_for_one_whose_daemons_are_out_of_reach(
    tmp_path: Path,
) -> None:
    async with a_cell(tmp_path) as cell:
        for daemon in cell.daemons:
            await daemon.stop()
        await cell.lead(7)
        async with cell.worker() as worker:
            fence = worker.link.follower.fence
            assert (worker.link.phase, fence.joined, fence.term) == (Phase.UP, 7, 0)


async def test_a_worker_of_a_cell_that_is_gone_begins_anew_in_the_one_that_is_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with a_cell(tmp_path) as cell:
        first = await cell.lead(5)
        cell.say(5)
        async with cell.worker() as worker:
            await until(lambda: worker.link.follower.fence.term == 5)
            hold(worker, x=1)
            await first.die()
            cell.cell_id = NEW
            cell.say(1, port=1)
            second = await cell.lead(1, port=1)
            foreign = {"status": OTHER_CELL, "time": 0.0, "ha": second.cell()}
            second.answer = lambda message: (
                foreign if "ha" in message and message["ha"][3] == OLD else None
            )
            await until(lambda: len(second.registrations) >= 2, 10)
            await until(lambda: worker.link.phase is Phase.UP)
            term, report, _, cell_id = second.registrations[-1]["ha"]
            assert (term, list(report[0]), cell_id) == (0, [], "")
            assert worker.data == {}
            assert (worker.link.follower.cell_id, worker.link.follower.fence.term) == (NEW, 1)
            assert worker.status == Status.running
            assert f"The cell {OLD} of this worker is not there any more" in caplog.text


async def test_a_worker_whose_cell_is_still_there_joins_no_other(tmp_path: Path) -> None:
    """One peer that was founded anew by mistake: the others are of the worker's cell."""
    async with a_cell(tmp_path) as cell:
        first = await cell.lead(5)
        cell.say(5)
        async with cell.worker() as worker:
            hold(worker, x=1)
            await first.die()
            cell.cell_id = NEW
            cell.say(1, port=1, who=slice(1))
            second = await cell.lead(1, port=1)
            foreign = {"status": OTHER_CELL, "time": 0.0, "ha": second.cell()}
            second.answer = lambda message: foreign if "ha" in message else None
            await until(lambda: len(second.registrations) >= 3, 10)
            assert worker.data == {"x": 1}
            cell.cell_id = OLD
            third = await cell.lead(6)
            cell.say(6)
            await until(lambda: third.registrations, 10)
            assert [row[0] for row in third.registrations[-1]["ha"][1][0]] == ["x"]


async def test_the_successor_of_a_cell_is_joined_with_all_that_the_worker_holds(
    tmp_path: Path,
) -> None:
    async with a_cell(tmp_path) as cell:
        first = await cell.lead(5)
        cell.say(5)
        async with cell.worker() as worker:
            await until(lambda: worker.link.follower.fence.term == 5)
            hold(worker, x=1)
            await first.die()
            cell.cell_id, cell.predecessor = NEW, OLD
            cell.say(1, port=1)
            second = await cell.lead(1, port=1)
            await until(lambda: worker.link.phase is Phase.UP and second.registrations, 10)
            assert [row[0] for row in second.registrations[-1]["ha"][1][0]] == ["x"]
            assert worker.data == {"x": 1}
            assert worker.link.follower.fence.term == 1


async def test_a_client_of_a_cell_that_is_gone_hears_so_and_goes_on_with_the_new_one(
    tmp_path: Path,
) -> None:
    async with a_cell(tmp_path) as cell:
        first = await cell.lead(5)
        cell.say(5)
        security = cell.shown("client")
        async with Client(cell.address, security=security, asynchronous=True) as client:
            await until(lambda: client._ha.follower.fence.term == 5)
            old = client.submit(int, key="old")
            await first.die()
            cell.cell_id = NEW
            cell.say(1, port=1)
            second = await cell.lead(1, port=1)
            with pytest.raises(FutureCancelledError) as caught:
                await asyncio.wait_for(old.result(), 20)
            assert OLD in str(caught.value)
            assert NEW in str(caught.value)
            await until(lambda: client._ha.follower.cell_id == NEW, 10)
            client.submit(int, key="new")
            await until(lambda: second.said("update-graph"), 10)
            (hello,) = second.said("ha-hello")[-1:]
            assert (hello["term"], hello["cell_id"]) == (0, "")
