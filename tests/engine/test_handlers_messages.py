"""Messages of the streams that no answer acknowledges, said while the leader dies."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from distributed import Reschedule, Status
from distributed.worker_state_machine import RemoveReplicasEvent

from client_replay import Client
from ha_scheduler.engine.clients.absence import Absence
from ha_scheduler.worker.link import Phase
from tests.engine.conftest import Pair, eventually, pair
from tests.engine.counted import begin, gate, holders, runs, work


@pytest.fixture(autouse=True)
def _fresh() -> None:
    begin()


# Of a client


async def test_a_client_that_asks_for_a_state_is_told_it_by_the_next_leader() -> None:
    async with pair() as both:
        future = both.client.submit(work, 1, key="x")
        await future
        asked = asyncio.Event()
        both.leader.stream_handlers["report-key"] = lambda **message: asked.set()
        both.client.futures["x"].reset()
        both.client._send_to_scheduler({"op": "report-key", "key": "x"})
        await asked.wait()
        await both.kill_leader()
        assert future.status == "pending"
        await both.take_over()
        assert await future == 1
        assert runs[1] == 1


async def test_a_client_that_is_back_counts_as_heard_of() -> None:
    async with pair() as both:
        await both.kill_leader()
        leader = await both.take_over()
        taken_over = time.time()
        await both.client.submit(work, 1)
        both.client._heartbeat()
        await eventually(lambda: leader.clients[both.client.id].last_seen > taken_over)
        assert leader.clients[both.client.id].versions


async def test_a_client_that_closes_while_nobody_leads_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with pair() as both:
        other = await Client(both.address, asynchronous=True, set_as_default=False)
        future = other.submit(work, 1, key="x")
        await future
        await both.kill_leader()
        await other.close()
        monkeypatch.setattr(Absence, "seconds", lambda self, client, silent: 0.1)
        leader = await both.take_over()
        await eventually(lambda: "x" not in leader.tasks)
        assert other.id not in leader.clients


async def test_who_unsubscribed_while_nobody_led_hears_no_more() -> None:
    async with pair() as both:
        heard: list[Any] = []
        both.client.subscribe_topic("left", heard.append)
        both.client.subscribe_topic("kept", heard.append)
        await eventually(lambda: bool(both.leader._broker._topics["kept"].subscribers))
        await both.kill_leader()
        both.client.unsubscribe_topic("left")
        leader = await both.take_over()
        await both.client.log_event("left", 1)
        await both.client.log_event("kept", 2)
        await eventually(lambda: bool(heard))
        assert [message for _, message in heard] == [2]
        assert not leader._broker._topics["left"].subscribers


# Of a worker


async def test_a_copy_that_was_dropped_while_nobody_led_is_not_believed_in() -> None:
    async with pair() as both:
        keeper, dropper = both.workers
        future = both.client.submit(work, 1, key="x", workers=[keeper.address])
        await both.client.replicate([future], workers=[dropper.address])
        await eventually(lambda: len(holders(both.leader, "x")) == 2)
        await both.kill_leader()
        dropper.handle_stimulus(RemoveReplicasEvent(keys=["x"], stimulus_id="test"))
        assert "x" not in dropper.data
        leader = await both.take_over()
        assert holders(leader, "x") == {keeper.address}
        assert await future == 1


def answering(worker: Any, answer: Any) -> None:
    """The worker is asked for data and gives the answer, once."""
    give = worker.handlers["get_data"]

    async def get_data(comm: Any, **kwargs: Any) -> Any:
        worker.handlers["get_data"] = give
        return await answer(comm, kwargs)

    worker.handlers["get_data"] = get_data


async def dependent(both: Pair) -> tuple[Any, Any]:
    """A result on the first worker, and a task that needs it on the second."""
    holder, seeker = both.workers
    needed = both.client.submit(work, 1, key="x", workers=[holder.address])
    await eventually(lambda: needed.status == "finished")  # nobody fetches it
    return needed, both.client.submit(work, needed, key="y", workers=[seeker.address])


async def test_a_copy_that_was_fetched_while_nobody_led_is_known() -> None:
    async with pair() as both:
        asked, nobody_leads = asyncio.Event(), asyncio.Event()

        async def late(comm: Any, kwargs: Any) -> Any:
            asked.set()
            await nobody_leads.wait()
            return await both.workers[0].get_data(comm, **kwargs)

        answering(both.workers[0], late)
        needed, result = await dependent(both)
        await asked.wait()
        await both.kill_leader()
        nobody_leads.set()
        await eventually(lambda: "x" in both.workers[1].data)
        leader = await both.take_over()
        assert holders(leader, "x") == {worker.address for worker in both.workers}
        assert await both.client.gather([needed, result]) == [1, 1]


async def test_a_worker_that_seeks_an_input_is_told_by_the_next_leader() -> None:
    async with pair() as both:
        asked, nobody_leads = asyncio.Event(), asyncio.Event()

        async def has_nothing(comm: Any, kwargs: Any) -> Any:
            asked.set()
            await nobody_leads.wait()
            await comm.write({"status": "OK", "data": {}})
            await comm.read()
            return Status.dont_reply

        answering(both.workers[0], has_nothing)
        needed, result = await dependent(both)
        await asked.wait()
        await both.kill_leader()
        nobody_leads.set()
        seeking = both.workers[1].state.missing_dep_flight
        await eventually(lambda: bool(seeking))
        both.workers[1].find_missing()  # asks nobody
        await both.take_over()
        await eventually(lambda: both.workers[1]._ha.phase is Phase.UP)
        both.workers[1].find_missing()  # as every second or so
        assert await both.client.gather([needed, result]) == [1, 1]
        assert runs[1] == 2  # "x" and "y", each once


def give_back(number: int) -> int:
    runs["given"] += 1
    gate.wait(30)
    if runs["given"] == 1:
        raise Reschedule
    return number


async def test_a_task_that_gives_itself_back_while_nobody_leads_runs_again() -> None:
    async with pair(1) as both:
        future = both.client.submit(give_back, 1, key="x")
        await eventually(lambda: runs["given"] == 1)
        await both.kill_leader()
        gate.set()
        await eventually(lambda: "x" not in both.workers[0].state.tasks)
        await both.take_over()
        assert await future == 1
        assert runs["given"] == 2


async def test_what_a_task_logs_while_nobody_leads_is_kept() -> None:
    async with pair(1) as both:
        (worker,) = both.workers
        await both.kill_leader()
        await eventually(lambda: worker._ha.phase is Phase.DOWN)
        for number in range(3):
            worker.log_event("task", {"said": number})
        await both.take_over()
        logged: list[Any] = []
        while len(logged) < 3:
            logged = [event["said"] for _, event in await both.client.get_events("task")]
        assert logged == [0, 1, 2]
