"""Whatever only looks is answered by the next leader, as the former one would have answered.

The moments: the leader has the question and dies before it answers, and nobody leads when it is
asked. All questions are under way at once, so one failover answers for all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from distributed import Event, Queue

from client_replay.calls.rpc import READ_ONLY
from tests.engine.conftest import Pair, eventually, pair

Check = Callable[[Any], bool]


@dataclass
class Question:
    """A request, and what holds of its answer; without ``check`` it is that of before."""

    arguments: dict[str, Any] = field(default_factory=dict)
    check: Check | None = None


def asks(check: Check | None = None, **arguments: Any) -> Question:
    return Question(arguments, check)


def has(*names: str) -> Check:
    return lambda answer: all(name in answer for name in names)


def is_a(kind: type) -> Check:
    return lambda answer: isinstance(answer, kind)


def fail(number: int) -> int:
    raise ZeroDivisionError(number)


#: What each request asks. Those of one leader's diary are answered out of the next one's.
QUESTIONS: dict[str, Question] = {
    "adaptive_target": asks(),
    "benchmark_hardware": asks(check=has("disk", "memory", "network")),
    "call_stack": asks(),
    "check_idle": asks(check=lambda since: since is None or since > 0),
    "dump_state": asks(check=has("tasks", "workers", "clients")),
    "echo": asks(data="a word"),
    "event_is_set": asks(name="event"),
    "events": asks(topic="topic", check=lambda events: [e[1] for e in events] == ["happened"]),
    "gather": asks(keys=["data"]),
    "get_cluster_state": asks(exclude=[], check=has("scheduler", "workers", "versions")),
    "get_error_cause": asks(keys=["failed"]),
    "get_logs": asks(check=is_a(tuple)),
    "get_metadata": asks(keys=["a"]),
    "get_runspec": asks(key="failed"),
    "get_story": asks(keys_or_stimuli=["data"], check=is_a(tuple)),
    "get_task_prefix_states": asks(check=has("data")),
    "get_task_status": asks(keys=["data", "failed", "unknown"]),
    "get_task_stream": asks(check=is_a(tuple)),
    "get_task_stream_index": asks(check=is_a(int)),
    "ha-scaling": asks(check=is_a(dict)),
    "has_what": asks(),
    "identity": asks(check=has("workers", "ha")),
    "logs": asks(check=is_a(tuple)),
    "nbytes": asks(),
    "ncores": asks(),
    "ncores_running": asks(),
    "performance_report": asks(start=0, last_count=0, check=has("Dask Performance Report")),
    "processing": asks(),
    "profile": asks(check=has("count")),
    "publish_get": asks(names=["set"]),
    "publish_list": asks(),
    "queue_qsize": asks(name="queue"),
    "semaphore_value": asks(name="semaphore"),
    "versions": asks(),
    "who_has": asks(),
    "worker_logs": asks(check=lambda logs: len(logs) == 2),
    "workers_to_close": asks(),
}

#: A report is a page of bokeh's.
ASKED = [op for op in QUESTIONS if op != "performance_report" or find_spec("bokeh")]


def test_there_is_a_question_for_each_request_that_only_looks() -> None:
    assert sorted(QUESTIONS) == sorted(READ_ONLY)


async def furnish(both: Pair) -> list[Any]:
    """Something of everything that can be asked for."""
    client = both.client
    kept = client.submit(bytes, 10, key="data", workers=[both.workers[0].address])
    failed = client.submit(fail, 1, key="failed", workers=[both.workers[1].address])
    await kept
    await failed.exception()
    queue = await Queue("queue", client=client)
    await queue.put(1)
    await Event("event", client=client).set()
    await client.scheduler.semaphore_register(name="semaphore", max_leases=2, lease_timeout=30)
    await client.scheduler.semaphore_acquire(name="semaphore", lease_id="lease", timeout=None)
    await client.set_metadata("a", 1)
    await client.publish_dataset(1, name="set")
    await client.log_event("topic", "happened")
    for worker in both.workers:
        for name in [name for name in worker.handlers if name.startswith("benchmark_")]:
            worker.handlers[name] = at_once
    return [kept, failed]


async def at_once(comm: Any, **kwargs: Any) -> dict[str, float]:
    """In place of a measurement of many seconds, of which nothing here depends."""
    return {"1 kiB": 1.0}


def ask(both: Pair) -> dict[str, asyncio.Future[Any]]:
    return {
        op: asyncio.ensure_future(getattr(both.client.scheduler, op)(**QUESTIONS[op].arguments))
        for op in ASKED
    }


def never_answered(leader: Any) -> set[str]:
    """The leader takes in every question and answers none. Returns those that have arrived."""
    arrived = set()

    def taking(op: str) -> Any:
        async def take(**kwargs: Any) -> None:
            arrived.add(op)
            await asyncio.Event().wait()

        return take

    for op in ASKED:
        leader.handlers[op] = taking(op)
    return arrived


def wrong(before: dict[str, Any], after: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The answers that are not as they must be."""
    return {op: (before[op], after[op]) for op in ASKED if not _fits(op, before, after)}


def _fits(op: str, before: dict[str, Any], after: dict[str, Any]) -> bool:
    check = QUESTIONS[op].check
    return check(after[op]) if check is not None else bool(after[op] == before[op])


async def answers(asked: dict[str, asyncio.Future[Any]]) -> dict[str, Any]:
    return dict(zip(asked, await asyncio.gather(*asked.values()), strict=True))


async def test_what_only_looks_is_asked_again_of_the_next_leader() -> None:
    async with pair() as both:
        held = await furnish(both)
        before = await answers(ask(both))
        assert wrong(before, before) == {}
        arrived = never_answered(both.leader)
        asked = ask(both)
        await eventually(lambda: len(arrived) == len(ASKED))
        await both.kill_leader()
        await both.take_over()
        assert wrong(before, await answers(asked)) == {}
        del held


async def test_what_only_looks_waits_for_a_leader() -> None:
    async with pair() as both:
        held = await furnish(both)
        before = await answers(ask(both))
        await both.kill_leader()
        asked = ask(both)
        await both.take_over()
        assert wrong(before, await answers(asked)) == {}
        del held
