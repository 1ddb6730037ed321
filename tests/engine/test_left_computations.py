"""A computation that a worker was told to leave, and to fetch its result instead.

The worker cannot stop it, and no leader counts on it. A new leader may: the result was perhaps lost
with the old one. Moved by hand on the cell without a network (``model.py``).
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter

from tests.engine.model import Leader, Log, ModelClient, ModelWorker, follow, settle_loop
from tests.engine.test_adoption_states import Play


class Scripted:
    """A cell that is moved by hand: two workers, one client, every message at once."""

    def __init__(self) -> None:
        self.runs: Counter[str] = Counter()
        self.first, self.second = (ModelWorker(number, self.runs) for number in range(2))
        self.client = ModelClient(0)
        self.log = Log([])
        self.silent = False  # nothing is delivered

    async def begin(self) -> None:
        self.leader = Leader()
        self.leader.replay.caught_up()
        self.leader.lead(1, self.log)
        await self.join(1, self.first, self.second)

    async def join(self, term: int, *workers: ModelWorker) -> None:
        joining = [worker.join(self.leader, term) for worker in workers]
        self.client.join(self.leader)
        await asyncio.gather(*joining)
        await self.deliver_all()

    async def deliver_all(self) -> None:
        """Until nothing is on any wire. No thread gets on meanwhile."""
        play = Play.__new__(Play)
        play.leader, play.clients, play.choose = self.leader, [self.client], random.Random(0)
        play.workers = [self.first, self.second]
        await settle_loop()
        while not self.silent and await play.deliver():
            await settle_loop()

    async def submit(self, tasks: dict[str, list[str]], key: str, worker: ModelWorker) -> None:
        self.client.submit(tasks, {key}, {"workers": [worker.address]})
        await self.deliver_all()

    async def come_to_fetch_what_it_computes(self) -> None:
        """``first`` computes "good", was told to leave it, and needs it from ``second``."""
        await self.submit({"good": []}, "good", self.first)
        assert "good" in self.first.executing
        self.client.release("good")
        await self.deliver_all()
        await self.submit({"good": []}, "good", self.second)
        self.second.finish("good")
        await self.deliver_all()
        await self.submit({"good": [], "top": ["good"]}, "top", self.first)
        assert str(self.first.state.tasks["good"]) == "<TaskState 'good' resumed(executing->fetch)>"
        assert self.first.state.tasks["top"].state == "waiting"

    async def finish_top(self) -> None:
        """``first`` ends it, and nothing has run that need not."""
        self.first.finish("top")
        await self.deliver_all()
        assert self.client.states["top"] == "finished"
        assert self.runs == {"good": 2, "top": 1}
        self.leader.validate_state()

    async def change_leaders(self, *workers: ModelWorker) -> None:
        self.leader.recorder.flush()
        self.leader.recorder = None
        self.log.commit(len(self.log.records))
        self.log = Log(self.log.records)
        for worker in (self.first, self.second):
            worker.lose_leader()
        self.leader = follow(self.log.records)
        self.leader.lead(2, self.log)
        for worker in {self.first, self.second} - set(workers):
            self.leader._forget_expected(worker.address)
        await self.join(2, *workers)
        self.leader.validate_state()


async def fetching_what_it_computes() -> Scripted:
    cell = Scripted()
    await cell.begin()
    await cell.come_to_fetch_what_it_computes()
    return cell


async def test_what_waits_for_a_result_that_its_worker_may_leave_to_another_gets_it() -> None:
    cell = await fetching_what_it_computes()
    await cell.change_leaders(cell.first, cell.second)
    assert cell.leader.tasks["good"].state == "memory"
    cell.first.finish("good")  # nobody counts on it, but it will do
    await cell.deliver_all()
    await cell.finish_top()


async def test_a_computation_that_was_left_counts_when_the_result_was_lost() -> None:
    cell = await fetching_what_it_computes()
    await cell.change_leaders(cell.first)
    assert cell.leader.tasks["good"].state == "processing"
    cell.first.finish("good")
    await cell.deliver_all()
    await cell.finish_top()


async def test_a_computation_that_was_left_counts_though_it_ended_before_it_was_asked_for() -> None:
    cell = await fetching_what_it_computes()
    cell.silent = True
    await cell.change_leaders(cell.first)
    cell.first.finish("good")
    cell.silent = False
    await cell.deliver_all()
    assert cell.leader.tasks["good"].state == "memory"
    while cell.first.executing:
        cell.first.finish("top")
        await cell.deliver_all()
    assert cell.client.states["top"] == "finished"
    assert cell.runs["good"] == 2
    cell.leader.validate_state()
