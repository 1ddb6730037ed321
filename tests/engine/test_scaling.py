"""Adaptivity in the leader: goals and signals outlive owners and leaders."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import msgspec
import pytest

from ha_scheduler.comm.calling import CALLER
from ha_scheduler.engine.scaling import goals
from ha_scheduler.protocol.engine import ScaleWanted
from ha_scheduler.protocol.worker import LIFETIME, LIFETIME_LEFT
from ha_scheduler.security.identity import Identity, TokenRole
from ha_scheduler.worker.worker import Worker
from tests.engine.conftest import Pair, eventually, pair

gate = threading.Event()


@pytest.fixture(autouse=True)
def _fresh() -> None:
    gate.clear()


def blocked(number: int) -> int:
    gate.wait(30)
    return number


async def asked(both: Pair, **goal: Any) -> dict[str, Any]:
    said: dict[str, Any] = await getattr(both.client.scheduler, "ha-scale")(**goal)
    return said


async def report(both: Pair) -> dict[str, Any]:
    said: dict[str, Any] = await getattr(both.client.scheduler, "ha-scaling")()
    return said


async def worker(both: Pair, name: str, **options: Any) -> Worker:
    made = await Worker(both.address, nthreads=1, name=name, dashboard_address=":0", **options)
    both.workers.append(made)
    return made


async def test_a_goal_and_its_signal_outlive_the_leader() -> None:
    async with pair(0) as both:
        said = await asked(both, owner="farm", minimum=2, maximum=5)
        assert (said["signal"], said["wanted"], said["workers"]) == ("under duress", 2, 0)
        since = (await report(both))["farm"]["since"]
        assert since > 0
        await both.kill_leader()
        await both.take_over()
        said = (await report(both))["farm"]
        assert (said["signal"], said["wanted"], said["maximum"]) == ("under duress", 2, 5)
        assert said["since"] == since


async def test_an_engine_that_was_started_on_the_ledger_knows_the_goals() -> None:
    async with pair(0) as both:
        await asked(both, owner="farm", policy="fixed", minimum=3, target_s=60.0)
        await both.kill_leader()
        await both.take_over(rebuilt=True)
        assert (await report(both))["farm"]["wanted"] == 3


async def test_what_is_to_do_asks_for_workers_and_what_is_done_gives_them_back() -> None:
    async with pair(0) as both:
        await asked(both, owner="farm", maximum=3, target_s=0.1)
        futures = both.client.map(blocked, range(8))
        await eventually(lambda: len(both.leader.tasks) == 8)
        for number in range(3):
            said = await asked(both, owner="farm", maximum=3, target_s=0.1)
            assert said["signal"] == "under duress"
            await worker(both, f"farm-{number}")
        await eventually(lambda: len(both.leader.workers) == 3)
        assert (await asked(both, owner="farm", maximum=3, target_s=0.1))["leaving"] == ()
        gate.set()
        await both.client.gather(futures)
        futures.clear()
        await eventually(lambda: not both.leader.tasks)
        said = await asked(both, owner="farm", maximum=3, target_s=0.1)
        assert said["signal"] == "idling"
        assert sorted(said["leaving"]) == ["farm-0", "farm-1", "farm-2"]


async def test_workers_of_others_are_neither_counted_nor_let_go() -> None:
    async with pair(0) as both:
        for name in ("farm-0", "farmer-0", "farm-east-0", "stray"):
            await worker(both, name)
        await asked(both, owner="farm-east", minimum=0)
        said = await asked(both, owner="farm", minimum=0)
        assert said["workers"] == 1, "farm-east-0 is of the owner with the longer name"
        assert said["leaving"] == ("farm-0",)


async def test_a_goal_that_is_withdrawn_is_gone_under_every_leader() -> None:
    async with pair(0) as both:
        await asked(both, owner="farm", minimum=2)
        assert await getattr(both.client.scheduler, "ha-unscale")(owner="farm") is True
        assert await getattr(both.client.scheduler, "ha-unscale")(owner="farm") is False
        await both.kill_leader()
        await both.take_over()
        assert await report(both) == {}
        assert both.leader.scaling_signals == {}


@pytest.mark.parametrize(
    ("goal", "why"),
    [
        ({"owner": ""}, "owner"),
        ({"owner": "x" * 257}, "owner"),
        ({"owner": "farm", "minimum": -1}, "minimum"),
        ({"owner": "farm", "minimum": 3, "maximum": 2}, "in order"),
        ({"owner": "farm", "maximum": 10**9}, "in order"),
        ({"owner": "farm", "target_s": 0.0}, "target duration"),
        ({"owner": "farm", "policy": "greedy"}, "greedy"),
        ({"owner": 7}, "owner"),
    ],
)
async def test_a_goal_that_makes_no_sense_is_refused_and_changes_nothing(
    goal: dict[str, Any], why: str
) -> None:
    async with pair(0) as both:
        with pytest.raises(Exception, match=why):
            await asked(both, **goal)
        assert both.leader.scaling_goals == {}


async def test_there_are_only_so_many_owners(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(goals, "OWNERS_MAX", 2)
    async with pair(0) as both:
        await asked(both, owner="a")
        await asked(both, owner="b")
        with pytest.raises(ValueError, match="withdraw"):
            await asked(both, owner="c")
        await asked(both, owner="b", minimum=1)


async def test_the_goal_of_a_subject_is_changed_by_nobody_else() -> None:
    alice, eve = (Identity(name, TokenRole.CLIENT) for name in ("alice", "eve"))
    root = Identity("root", TokenRole.ADMIN)
    async with pair(0) as both:
        CALLER.set(alice)
        await both.leader.scale_asked(owner="farm", minimum=1)
        CALLER.set(eve)
        for call in (both.leader.scale_asked, both.leader.unscale_asked):
            with pytest.raises(PermissionError, match="not of"):
                await call(owner="farm")
        CALLER.set(root)
        await both.leader.scale_asked(owner="farm", minimum=2)
        CALLER.set(alice)
        assert (await both.leader.scale_asked(owner="farm", minimum=3))["wanted"] == 3


async def test_a_command_is_told_to_start_workers_and_then_which_have_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with pair(1) as both:
        said: list[ScaleWanted] = []
        both.leader.tell_scale = said.append
        futures = both.client.map(blocked, range(4), workers=["farm-0"])
        await eventually(lambda: len(both.leader.tasks) == 4)
        await asked(both, owner="farm", minimum=1, maximum=1, command=True)
        assert said == [ScaleWanted(1, "farm", 1)]
        both.leader.look_at_scaling()
        assert len(said) == 1, "it takes its time"
        monkeypatch.setattr(goals, "REPEAT_S", 0.0)
        both.leader.look_at_scaling()
        assert said == [ScaleWanted(1, "farm", 1)] * 2, "it brought nothing"
        await worker(both, "farm-0")
        gate.set()
        await both.client.gather(futures)
        await asked(both, owner="farm", minimum=0, maximum=1, command=True)
        said.clear()
        while not said:
            both.leader.look_at_scaling()
            await asyncio.sleep(0.01)
        assert said == [ScaleWanted(1, "farm", 0, ("farm-0",))]
        assert [ws.name for ws in both.leader.workers.values()] == ["w0"]
        assert await both.client.gather(futures) == list(range(4)), "its results were moved first"


async def test_a_worker_near_the_end_of_its_lifetime_is_replaced_before() -> None:
    async with pair(0) as both:
        await worker(both, "farm-0", lifetime="600s", lifetime_stagger="0s")
        (ws,) = both.leader.workers.values()
        await eventually(lambda: LIFETIME_LEFT in ws.metrics)
        assert ws.metrics[LIFETIME] == 600
        assert 590 < ws.metrics[LIFETIME_LEFT] <= 600
        said = await asked(both, owner="farm", minimum=1, maximum=1)
        assert (said["signal"], said["total"]) == ("content", 1)
        both.workers[0].periodic_callbacks["heartbeat"].stop()
        ws.metrics[LIFETIME_LEFT] = 59.0
        said = await asked(both, owner="farm", minimum=1, maximum=1)
        assert (said["signal"], said["total"], said["ending"]) == ("under duress", 2, 1)
        await worker(both, "farm-1")
        said = await asked(both, owner="farm", minimum=1, maximum=1)
        assert (said["signal"], said["total"], said["leaving"]) == ("content", 2, ())


@pytest.mark.parametrize("odd", [None, "soon", float("nan"), -1.0])
async def test_what_a_worker_says_of_its_lifetime_ends_no_look(odd: Any) -> None:
    async with pair(1) as both:
        (ws,) = both.leader.workers.values()
        both.workers[0].periodic_callbacks["heartbeat"].stop()
        ws.metrics = {**ws.metrics, LIFETIME: odd, LIFETIME_LEFT: odd}
        assert (await asked(both, owner="w", minimum=0))["workers"] in (0, 1)


def test_the_message_to_the_daemon_is_bounded() -> None:
    for odd in ({"total": 10**6}, {"total": 1, "leaving": ["x"] * 1001}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({"op": "scale-wanted", "term": 1, "owner": "a", **odd}, ScaleWanted)
