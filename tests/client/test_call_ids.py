"""Numbered calls on the caller's side: one number a call, one slot a call under way."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from distributed.core import ConnectionPool

from client_replay.calls import call_ids
from client_replay.calls.call_ids import CallIds
from client_replay.calls.rpc import (
    NUMBERED,
    REPEATABLE,
    SESSIONS_MAX,
    WAITING,
    SchedulerRPC,
)
from client_replay.errors import AnswerLost, OutcomeUnknown
from ha_scheduler.protocol.client import EXPIRED, LOST, CallId, OpenCalls
from ha_scheduler.protocol.codec import from_op, tag_of
from tests.worker.scripted_leader import ScriptedLeader


class OfACell(ScriptedLeader):
    """Answers numbered calls as a test says, and keeps their numbers."""

    def __init__(self, *answers: Any) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.numbers: list[tuple[int, int, int]] = []  # session by its place in ``opened``
        self.timeouts: list[float | None] = []
        self._answers = list(answers)
        self.deaths_at_opening = 0
        self.handlers["queue_get"] = self.get
        self.handlers[tag_of(OpenCalls)] = self.opens

    def identity(self, n_workers: int = -1) -> dict[str, Any]:
        return {**super().identity(n_workers), "ha": self.cell()}

    async def opens(self, comm: Any, session: str, owner: str) -> str:
        assert owner == "owner"
        self.opened.append(session)
        if self.deaths_at_opening:
            self.deaths_at_opening -= 1
            comm.abort()
        return "OK"

    async def get(
        self, comm: Any, ha_call: Any = None, timeout: float | None = None, **kwargs: Any
    ) -> Any:
        call = from_op(CallId, ha_call)
        self.numbers.append((self.opened.index(call.session), call.slot, call.sequence))
        self.timeouts.append(timeout)
        answer = self._answers.pop(0)
        if answer == "die":
            await asyncio.sleep(0.05)
            comm.abort()
        return answer


async def asked(leader: ScriptedLeader, *calls: dict[str, Any]) -> list[Any]:
    """What the calls, one after the other, return or raise."""
    await leader.open()
    pool = await ConnectionPool(timeout=1)
    rpc = SchedulerRPC.around(pool(f"ha://127.0.0.1:{leader.port}"), "owner")
    results: list[Any] = []
    for call in calls:
        try:
            results.append(await rpc.queue_get(**call))
        except OSError as error:
            results.append(error)
    await pool.close()
    await leader.die()
    return results


async def test_a_call_keeps_its_number_when_it_is_repeated() -> None:
    leader = OfACell("die", "die", 1, 2)
    assert await asked(leader, {}, {}) == [1, 2]
    assert leader.numbers == [*[(0, 0, 1)] * 3, (0, 0, 2)]
    assert len(leader.opened) == 1


async def test_a_session_is_open_before_the_first_call_is_sent() -> None:
    leader = OfACell(1)
    leader.deaths_at_opening = 2
    assert await asked(leader, {}) == [1]
    assert len(leader.opened) == 3
    assert len(set(leader.opened)) == 1, "it is the same, whoever opened it"
    assert leader.numbers == [(0, 0, 1)]


async def test_calls_that_begin_at_once_open_one_session() -> None:
    leader = await OfACell(1, 2, 3).open()
    pool = await ConnectionPool(timeout=1)
    rpc = SchedulerRPC.around(pool(f"ha://127.0.0.1:{leader.port}"), "owner")
    assert sorted(await asyncio.gather(*(rpc.queue_get() for _ in range(3)))) == [1, 2, 3]
    assert len(leader.opened) == 1
    assert sorted(leader.numbers) == [(0, slot, 1) for slot in range(3)]
    await pool.close()
    await leader.die()


async def test_a_repeated_call_waits_for_what_is_left_of_its_time() -> None:
    leader = OfACell("die", 1, 2)
    await asked(leader, {"timeout": "10s"}, {"timeout": None})
    first, second, third = leader.timeouts
    assert first is not None
    assert second is not None
    assert 9.9 < first <= 10
    assert second <= first - 0.05
    assert third is None


async def test_a_call_of_a_session_that_is_over_is_begun_anew_if_it_was_sent_once() -> None:
    leader = OfACell(0, EXPIRED, 1)
    assert await asked(leader, {}, {}) == [0, 1]
    assert leader.numbers == [(0, 0, 1), (0, 0, 2), (1, 0, 1)]


async def test_a_cell_that_forgets_every_session_at_once_is_not_asked_for_ever() -> None:
    leader = OfACell(*[EXPIRED] * (SESSIONS_MAX + 1))
    (error,) = await asked(leader, {})
    assert isinstance(error, OutcomeUnknown)
    assert len(leader.opened) == SESSIONS_MAX


async def test_and_has_an_unknown_outcome_if_it_was_sent_before() -> None:
    leader = OfACell("die", EXPIRED, 1)
    first, second = await asked(leader, {}, {})
    assert isinstance(first, OutcomeUnknown), "the first call of a session as well"
    assert second == 1


async def test_an_answer_that_the_cell_does_not_keep_is_said_to_be_lost() -> None:
    (error,) = await asked(OfACell("die", LOST), {})
    assert isinstance(error, AnswerLost)
    assert "was done" in str(error)


async def test_a_scheduler_that_is_not_of_a_cell_is_sent_no_number() -> None:
    leader = ScriptedLeader()
    leader.handlers["queue_get"] = lambda: "plain"
    assert await asked(leader, {}) == ["plain"]


def test_calls_under_way_at_once_have_slots_of_their_own() -> None:
    made = CallIds("s")
    with made.take() as first, made.take() as second:
        assert (first.id.slot, second.id.slot) == (0, 1)
    with made.take() as third, made.take() as fourth:
        assert {third.id.slot, fourth.id.slot} == {0, 1}
        assert {third.id.sequence, fourth.id.sequence} == {2}


def test_there_is_an_end_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_ids, "SLOTS_MAX", 1)
    made = CallIds("s")
    with made.take(), pytest.raises(RuntimeError, match="wait for an answer"), made.take():
        pass
    with made.take():
        pass


def test_a_call_is_numbered_or_idempotent_and_never_both() -> None:
    assert not NUMBERED & REPEATABLE
    assert WAITING <= NUMBERED | REPEATABLE
