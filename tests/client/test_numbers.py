"""Numbered calls on the caller's side: one number a call, one slot a call under way."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from distributed.core import ConnectionPool

from client_replay import numbers
from client_replay.errors import OutcomeUnknown
from client_replay.numbers import Numbers
from client_replay.rpc import EXPIRED, NUMBERED, REPEATABLE, WAITING, SchedulerRPC
from tests.worker.scripted_leader import ScriptedLeader


class OfACell(ScriptedLeader):
    """Answers numbered calls as a test says, and keeps their numbers."""

    def __init__(self, *answers: Any) -> None:
        super().__init__()
        self.numbers: list[tuple[str, int, int, bool]] = []
        self.timeouts: list[float | None] = []
        self._answers = list(answers)
        self.handlers["queue_get"] = self.get

    def identity(self, n_workers: int = -1) -> dict[str, Any]:
        return {**super().identity(n_workers), "ha": self.cell()}

    async def get(
        self, comm: Any, ha_call: Any = None, timeout: float | None = None, **kwargs: Any
    ) -> Any:
        self.numbers.append(ha_call)
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
    rpc = SchedulerRPC.around(pool(f"ha://127.0.0.1:{leader.port}"), "session")
    results: list[Any] = []
    for call in calls:
        try:
            results.append(await rpc.queue_get(**call))
        except OSError as error:
            results.append(error)
    await pool.close()
    await leader.die()
    return results


def test_a_call_keeps_its_number_when_it_is_repeated() -> None:
    leader = OfACell("die", "die", 1, 2)
    assert asyncio.run(asked(leader, {}, {})) == [1, 2]
    assert leader.numbers == [
        *[("session", 0, 1, False)] * 3,
        ("session", 0, 2, True),
    ]


def test_a_repeated_call_waits_for_what_is_left_of_its_time() -> None:
    leader = OfACell("die", 1, 2)
    asyncio.run(asked(leader, {"timeout": "10s"}, {"timeout": None}))
    first, second, third = leader.timeouts
    assert first is not None
    assert second is not None
    assert 9.9 < first <= 10
    assert second <= first - 0.05
    assert third is None


def test_a_call_of_a_session_that_is_over_is_begun_anew_if_it_was_sent_once() -> None:
    leader = OfACell(0, EXPIRED, 1)
    assert asyncio.run(asked(leader, {}, {})) == [0, 1]
    session, slot, sequence, known = leader.numbers[-1]
    assert session != "session"
    assert (slot, sequence, known) == (0, 1, False)


def test_and_has_an_unknown_outcome_if_it_was_sent_before() -> None:
    leader = OfACell(0, "die", EXPIRED, 1)
    first, second, third = asyncio.run(asked(leader, {}, {}, {}))
    assert (first, third) == (0, 1)
    assert isinstance(second, OutcomeUnknown)


def test_a_scheduler_that_is_not_of_a_cell_is_sent_no_number() -> None:
    leader = ScriptedLeader()
    leader.handlers["queue_get"] = lambda: "plain"
    assert asyncio.run(asked(leader, {})) == ["plain"]


def test_calls_under_way_at_once_have_slots_of_their_own() -> None:
    made = Numbers("s")
    with made.take() as first, made.take() as second:
        assert (first.slot, second.slot) == (0, 1)
    with made.take() as third, made.take() as fourth:
        assert {third.slot, fourth.slot} == {0, 1}
        assert {third.sequence, fourth.sequence} == {2}


def test_a_repeated_call_says_what_is_known_by_then() -> None:
    """Else it would open a session again that had ended, and be done twice."""
    made = Numbers("s")
    with made.take() as number:
        assert number.to_send() == ("s", 0, 1, False)
        made.known = True  # another call was answered meanwhile
        assert number.to_send() == ("s", 0, 1, True)


def test_there_is_an_end_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numbers, "SLOTS_MAX", 1)
    made = Numbers("s")
    with made.take(), pytest.raises(RuntimeError, match="wait for an answer"), made.take():
        pass
    with made.take():
        pass


def test_a_call_is_numbered_or_idempotent_and_never_both() -> None:
    assert not NUMBERED & REPEATABLE
    assert WAITING <= NUMBERED | REPEATABLE
