"""Turns: many together, a suspect alone; and what is open while whose code runs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import Any

import pytest

from ha_scheduler.engine.exposures import Exposures, LeavingRefused, digest, note_own_signals
from ha_scheduler.errors import SetAside
from ha_scheduler.ledger.records import EngineEnded
from ha_scheduler.protocol.engine import Exposure
from ha_scheduler.shared_exposures import SharedExposures

A, B = (Exposure(digest([name]), "graph", "of x") for name in (b"a", b"b"))


class Engine:
    """Exposures, and what a daemon would read of them."""

    def __init__(self) -> None:
        self.pages = SharedExposures(-1)
        self.exposures = Exposures(self.pages)

    def seen(self) -> list[Exposure]:
        return list(self.pages.read())

    def died_of(self, *exposures: Exposure, times: int = 1) -> None:
        for number in range(times):
            self.exposures.cases.apply(EngineEnded(number, "a", 1, True, "SIGSEGV", 1, exposures))


@pytest.fixture
def engine() -> Engine:
    return Engine()


async def test_a_coroutine_is_open_in_its_steps_and_not_while_it_waits(engine: Engine) -> None:
    gate, seen = asyncio.Event(), []

    async def work() -> str:
        seen.append(engine.seen())
        await gate.wait()
        seen.append(engine.seen())
        return "done"

    async def steps() -> Any:
        return await engine.exposures.step_by_step(work(), A)

    task = asyncio.create_task(steps())
    await asyncio.sleep(0)
    assert engine.seen() == []
    gate.set()
    assert await task == "done"
    assert seen == [[A], [A]]
    assert engine.seen() == []


async def test_an_error_and_a_cancellation_reach_the_coroutine(engine: Engine) -> None:
    told: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            told.append("cancelled")
            raise

    async def steps() -> None:
        await engine.exposures.step_by_step(work(), A)

    task = asyncio.create_task(steps())
    await asyncio.sleep(0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert told == ["cancelled"]


async def test_a_suspect_is_tried_alone_and_what_waits_goes_on_afterwards(engine: Engine) -> None:
    engine.died_of(A)
    order: list[str] = []
    gates = {"a": asyncio.Event(), "b": asyncio.Event()}

    async def part(name: str, exposure: Exposure) -> None:
        async with engine.exposures.turn(exposure):
            order.append(f"{name} begins")
            await gates[name].wait()
            order.append(f"{name} ends")

    first = asyncio.create_task(part("b", B))
    await asyncio.sleep(0)
    suspect = asyncio.create_task(part("a", A))
    await asyncio.sleep(0)
    last = asyncio.create_task(part("b", B))
    await asyncio.sleep(0)
    assert order == ["b begins"], "the suspect waits, and what comes after it waits for it"
    gates["b"].set()
    gates["a"].set()
    await asyncio.gather(first, suspect, last)
    assert order == ["b begins", "b ends", "a begins", "a ends", "b begins", "b ends"]


async def test_a_suspect_that_goes_to_a_thread_within_its_step_is_not_in_its_own_way(
    engine: Engine,
) -> None:
    engine.died_of(A)

    async def work() -> str:
        async with engine.exposures.turn(A):
            await asyncio.sleep(0.01)
        return "done"

    async def steps(exposure: Exposure) -> Any:
        return await engine.exposures.step_by_step(work(), exposure)

    async with asyncio.timeout(5):
        assert await asyncio.gather(*(steps(each) for each in (A, B, A, B))) == ["done"] * 4


async def test_a_turn_that_nobody_waits_for_any_more_is_nobodys(engine: Engine) -> None:
    engine.died_of(A)

    async def hold(gate: asyncio.Event) -> None:
        async with engine.exposures.turn(A):
            await gate.wait()

    gate = asyncio.Event()
    holder, waiter = asyncio.create_task(hold(gate)), asyncio.create_task(hold(gate))
    await asyncio.sleep(0)
    waiter.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiter
    gate.set()
    await holder
    async with asyncio.timeout(5), engine.exposures.turn(B):
        pass


def test_what_runs_within_another_is_a_part_of_it_unless_it_has_an_owner(engine: Engine) -> None:
    exposures = engine.exposures
    with exposures.open(A):
        with exposures.open(B):
            assert engine.seen() == [A]
        with exposures.open(B, apart=True):
            assert engine.seen() == [B]
        assert engine.seen() == [A]
    assert engine.seen() == []


def test_what_this_process_ends_of_stays_to_be_seen(engine: Engine) -> None:
    with pytest.raises(ArithmeticError), engine.exposures.open(A, fatal=True):
        raise ArithmeticError
    assert engine.seen() == [A]


def test_what_is_set_aside_is_not_opened(engine: Engine) -> None:
    engine.died_of(A, times=2)
    with pytest.raises(SetAside, match="SIGSEGV on a"):
        engine.exposures.open(A)
    with engine.exposures.open(B):
        pass


def test_leaving_the_process_is_an_error_of_who_asked_for_it(engine: Engine) -> None:
    with pytest.raises(LeavingRefused, match="SystemExit"), engine.exposures.open(A):
        raise SystemExit(3)
    assert engine.seen() == []


def test_a_signal_to_oneself_is_told_before_it_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    pages, sent = SharedExposures(-1), []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    monkeypatch.setattr(signal, "raise_signal", lambda number: sent.append((0, number)))
    note_own_signals(pages)
    os.kill(1, signal.SIGTERM)
    assert pages.own_signal() == 0
    os.kill(os.getpid(), signal.SIGKILL)
    assert pages.own_signal() == signal.SIGKILL
    signal.raise_signal(signal.SIGTERM)
    assert pages.own_signal() == signal.SIGTERM
    assert len(sent) == 3
