"""What a worker has of a task that was let go is never taken for a later one's of the same name.

A leader let go of a key, a client submitted it anew, and the leader died before the worker had
heard of either. Moved by hand on the cell without a network (``model.py``), and by engines that
followed the log as well as by such as were started on the ledger.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.engine.model import (
    Leader,
    Log,
    ModelClient,
    ModelWorker,
    follow,
    rebuild,
    settle_loop,
    standing,
)
from tests.engine.test_adoption_states import Play

Standby = Callable[[list[Any]], Leader]


class Cell:
    """Two workers and a client. The leader's words to a worker in ``deaf`` are lost with it."""

    def __init__(self) -> None:
        self.runs: Counter[str] = Counter()
        self.workers = [ModelWorker(number, self.runs) for number in range(2)]
        self.client = ModelClient(0)
        self.log = Log([])
        self.term = 1
        self.deaf: set[str] = set()

    async def begin(self) -> None:
        self.leader = Leader()
        self.leader.replay.caught_up()
        await self.lead()

    async def lead(self) -> None:
        self.leader.lead(self.term, self.log)
        joining = [worker.join(self.leader, self.term) for worker in self.workers]
        self.client.join(self.leader)
        await asyncio.gather(*joining)
        await self.talk()
        self.leader.validate_state()

    async def talk(self) -> None:
        """Until nothing is on any wire but to the deaf. No thread gets on meanwhile."""
        await self.deliver()
        self.log.commit(len(self.log.records))
        await settle_loop()

    async def deliver(self) -> None:
        """As ``talk``, and nothing commits."""
        play = Play.__new__(Play)
        play.leader, play.clients, play.choose = self.leader, [self.client], random.Random(0)
        await settle_loop()
        while True:
            play.workers = [w for w in self.workers if w.address not in self.deaf]
            if not await play.deliver():
                break
            await settle_loop()
        self.leader.recorder.flush()

    async def submit(self, *keys: str, on: int, **inputs: list[str]) -> None:
        tasks = {key: inputs.get(key, []) for key in keys}
        where = {"workers": [self.workers[on].address]}
        self.client.submit(tasks, {keys[-1]}, where)
        await self.talk()

    async def finish(self, key: str, on: int) -> None:
        self.workers[on].finish(key)
        await self.talk()

    async def release(self, key: str) -> None:
        self.client.release(key)
        await self.talk()

    async def fetch(self, source: int, by: int) -> None:
        self.workers[by].receive(self.workers[source])
        await self.talk()

    async def change_leaders(self, standby: Standby) -> None:
        """All that was recorded has committed; nothing that is on a wire arrives."""
        self.leader.recorder = None
        self.log = Log(self.log.records)
        self.term += 1
        for worker in self.workers:
            worker.lose_leader()
        self.client.wire.abort()
        self.deaf.clear()
        assert standing(follow(self.log.records)) == standing(rebuild(self.log.records))
        self.leader = standby(self.log.records)
        await self.lead()

    def holders(self, key: str) -> set[str]:
        return {ws.address for ws in self.leader.tasks[key].who_has}


def on_both(test: Callable[[Cell, Standby], Any]) -> Any:
    """The test with each kind of standby."""

    @pytest.mark.parametrize("standby", [follow, rebuild])
    async def run(standby: Standby) -> None:
        cell = Cell()
        await cell.begin()
        await test(cell, standby)

    run.__name__ = test.__name__
    return run


@on_both
async def test_the_error_of_a_task_that_was_let_go_is_not_that_of_the_one_submitted_anew(
    cell: Cell, standby: Standby
) -> None:
    first, second = cell.workers
    await cell.submit("flaky", on=0)
    await cell.finish("flaky", on=0)
    assert cell.client.states == {"flaky": "error"}
    cell.deaf |= {first.address, second.address}
    await cell.release("flaky")
    await cell.submit("flaky", on=1)
    await cell.change_leaders(standby)
    assert cell.client.states == {"flaky": "pending"}
    assert "flaky" not in first.state.tasks
    await cell.finish("flaky", on=1)
    assert cell.client.states == {"flaky": "finished"}


@on_both
async def test_the_result_of_a_task_that_was_let_go_is_not_that_of_the_one_submitted_anew(
    cell: Cell, standby: Standby
) -> None:
    first, second = cell.workers
    await cell.submit("good", on=0)
    await cell.finish("good", on=0)
    cell.deaf.add(first.address)
    await cell.release("good")
    await cell.submit("good", on=1)
    await cell.change_leaders(standby)
    assert cell.client.states == {"good": "pending"}
    assert "good" not in first.state.tasks
    await cell.finish("good", on=1)
    assert cell.holders("good") == {second.address}


@on_both
async def test_a_copy_of_a_result_that_was_let_go_is_not_that_of_the_task_submitted_anew(
    cell: Cell, standby: Standby
) -> None:
    first, second = cell.workers
    await cell.submit("good", on=0)
    await cell.finish("good", on=0)
    await cell.submit("good", "top", on=1, top=["good"])
    await cell.fetch(0, by=1)
    assert cell.holders("good") == {first.address, second.address}
    await cell.finish("top", on=1)
    cell.deaf.add(second.address)
    await cell.release("top")
    await cell.release("good")
    assert not cell.leader.tasks
    await cell.submit("good", on=0)
    await cell.change_leaders(standby)
    assert not second.state.tasks
    assert cell.client.states == {"good": "pending"}
    await cell.finish("good", on=0)
    assert cell.holders("good") == {first.address}


@on_both
async def test_a_run_of_a_task_that_was_let_go_is_not_one_of_the_task_submitted_anew(
    cell: Cell, standby: Standby
) -> None:
    first, second = cell.workers
    await cell.submit("good", on=0)
    assert "good" in first.executing
    cell.deaf |= {first.address, second.address}
    await cell.release("good")
    await cell.submit("good", on=1)
    await cell.change_leaders(standby)
    assert cell.leader.tasks["good"].processing_on.address == second.address
    first.finish("good")  # nothing can stop a thread
    await cell.talk()
    assert "good" not in first.state.tasks
    await cell.finish("good", on=1)
    assert cell.client.states == {"good": "finished"}


@on_both
async def test_what_a_former_function_returned_late_is_not_the_result_of_the_task_submitted_anew(
    cell: Cell, standby: Standby
) -> None:
    """Cancelled and asked for again while it executes, upstream's worker goes on with the first."""
    first, _ = cell.workers
    await cell.submit("good", on=0)
    await cell.release("good")
    await cell.submit("good", on=0)
    assert first.state.tasks["good"].state == "executing"
    first.lose_leader()
    first.finish("good")
    await cell.change_leaders(standby)
    assert cell.client.states == {"good": "pending"}
    await cell.finish("good", on=0)
    assert cell.client.states == {"good": "finished"}
    assert cell.runs["good"] == 2


@on_both
async def test_what_was_let_go_is_freed_at_once_by_the_next_leader(
    cell: Cell, standby: Standby
) -> None:
    """And not kept until its client may have resubmitted it."""
    first, second = cell.workers
    await cell.submit("good", on=0)
    await cell.finish("good", on=0)
    await cell.submit("running", on=1)
    cell.deaf |= {first.address, second.address}
    await cell.release("good")
    await cell.release("running")
    await cell.change_leaders(standby)
    assert not cell.leader.adoption.orphans
    assert not first.state.tasks
    assert second.state.tasks["running"].state == "cancelled"


@on_both
async def test_what_was_found_for_a_graph_that_was_resubmitted_counts_for_each_later_leader(
    cell: Cell, standby: Standby
) -> None:
    """Its runs are older than the graph, under the id that it has now."""
    kept = len(cell.log.records)
    first, second = cell.workers
    cell.leader._acknowledge = lambda client, sequence: None  # type: ignore[method-assign]
    await cell.submit("good", on=0)
    await cell.finish("good", on=0)
    await cell.submit("good", "top", on=1, top=["good"])
    await cell.fetch(0, by=1)
    del cell.log.records[kept:]  # nothing of it has committed
    for _ in range(3):
        await cell.change_leaders(standby)
        assert cell.holders("good") == {first.address, second.address}
        assert cell.leader.tasks["top"].state == "processing"
    await cell.finish("top", on=1)
    assert cell.client.states == {"good": "finished", "top": "finished"}
    assert cell.runs == {"good": 1, "top": 1}


@on_both
async def test_a_copy_that_the_leader_had_made_counts_though_its_worker_was_given_no_task(
    cell: Cell, standby: Standby
) -> None:
    first, second = cell.workers
    await cell.submit("good", on=0)
    await cell.finish("good", on=0)
    cell.leader.request_acquire_replicas(second.address, ["good"], stimulus_id="copy")
    await cell.talk()
    await cell.fetch(0, by=1)
    first.lose_leader()
    cell.workers.remove(first)
    await cell.leader.remove_worker(first.address, stimulus_id="dead", close=False)
    await cell.talk()
    await cell.change_leaders(standby)
    assert cell.holders("good") == {second.address}
    assert cell.runs["good"] == 1


@on_both
async def test_a_copy_is_as_old_as_when_it_came_though_its_worker_was_given_a_task_since(
    cell: Cell, standby: Standby
) -> None:
    """Until the release has committed, the leader goes on and frees nothing of the result."""
    first, second = cell.workers
    await cell.submit("good", on=0)
    await cell.finish("good", on=0)
    await cell.submit("good", "top", on=1, top=["good"])
    await cell.fetch(0, by=1)
    await cell.finish("top", on=1)
    await cell.release("top")
    cell.client.release("good")
    await cell.deliver()
    cell.client.submit({"other": []}, {"other"}, {"workers": [second.address]})
    await cell.deliver()
    assert "other" in second.executing
    cell.log.commit(len(cell.log.records))
    assert "good" not in cell.leader.tasks
    await cell.change_leaders(standby)  # no worker has heard that it is to free anything
    assert "good" not in first.state.tasks
    await cell.submit("good", on=0)
    assert cell.client.states["good"] == "pending"
    await cell.finish("good", on=0)
    assert cell.holders("good") == {first.address}
    assert cell.runs["good"] == 2
