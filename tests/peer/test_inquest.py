"""Whether an engine's end is to be blamed on what it had open; and whether one hangs."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ha_scheduler.ledger.records import OPEN_MAX, EngineEnded
from ha_scheduler.peer.engine import oom
from ha_scheduler.peer.engine.inquest import UNTOLD_MAX, End, How, Untold, cause, finding
from ha_scheduler.peer.engine.watchdog import EVERY_S, START_S, Clock, Watchdog
from ha_scheduler.protocol.engine import Exposure
from ha_scheduler.shared_exposures import SLOTS, SharedExposures

GRAPH = Exposure(b"g" * 16, "graph", "of x", "alice", "s", 1)


@pytest.mark.parametrize(
    ("end", "why"),
    [
        (End(How.BY_ITSELF, -signal.SIGSEGV), "SIGSEGV"),
        (End(How.BY_ITSELF, -signal.SIGABRT), "SIGABRT"),
        (End(How.BY_ITSELF, 77), "exit status 77"),
        (End(How.BY_ITSELF, 0), "exit status 0"),
        (End(How.BY_ITSELF, -9, oom_kills=1), "out of memory (SIGKILL by the kernel)"),
        (End(How.BY_ITSELF, -9, own_signal=9), "SIGKILL"),
        (End(How.BY_ITSELF, -15, own_signal=15), "SIGTERM"),
        (End(How.HUNG, -9, "it made no progress for 120.0 s"), "it made no progress for 120.0 s"),
    ],
)
def test_an_end_that_an_engine_brought_about_by_itself_counts(end: End, why: str) -> None:
    assert cause(end) == why


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_from_outside_never_counts(number: int) -> None:
    assert cause(End(How.BY_ITSELF, -number)) == ""
    assert cause(End(How.BY_ITSELF, -number, own_signal=signal.SIGUSR1)) == ""


@given(st.integers(-64, 255), st.integers(0, 64), st.integers(0, 3))
def test_what_the_daemon_ended_for_its_own_reasons_never_counts(
    status: int, own_signal: int, oom_kills: int
) -> None:
    end = End(How.BY_DAEMON, status, "it led, and leadership is lost", own_signal, oom_kills)
    assert cause(end) == ""


def test_without_anything_open_nobody_is_blamed() -> None:
    end = End(How.BY_ITSELF, -signal.SIGSEGV)
    of = {"number": 7, "peer": "a", "term": 3, "led": True, "at": 100}
    assert finding(end, (), **of) is None
    record = finding(end, (GRAPH,) * (OPEN_MAX + 1), **of)
    assert record == EngineEnded(7, "a", 3, True, "SIGSEGV", 100, (GRAPH,) * OPEN_MAX)


def record(number: int) -> EngineEnded:
    return EngineEnded(number, "a", 1, True, "SIGSEGV", 1, (GRAPH,))


def test_an_end_is_told_until_it_has_committed_and_proposed_once_a_term() -> None:
    untold = Untold()
    untold.add(record(1))
    assert untold.due(untold.to_tell(), 4) == [record(1)]
    untold.proposed(record(1), 4)
    assert untold.due(untold.to_tell(), 4) == []
    assert untold.due(untold.to_tell(), 5) == [record(1)], "the next leader cannot rely on it"
    untold.committed(record(1))
    assert untold.to_tell() == ()


def test_more_ends_than_can_be_told_forget_the_oldest() -> None:
    untold = Untold()
    for number in range(UNTOLD_MAX + 2):
        untold.add(record(number))
    assert [each.id for each in untold.to_tell()] == list(range(2, UNTOLD_MAX + 2))


# -- the watchdog


def hangs_after(
    watchdog: Watchdog, heard: bool, clocks: list[Clock], *, started: bool = True
) -> float:
    """After how many seconds of the same it is taken to hang."""
    for number in range(1, 10_000):
        if watchdog.observe(heard, clocks, started=started):
            return number * EVERY_S
    raise AssertionError("never")


def test_a_silent_loop_hangs_when_nothing_of_a_client_is_open() -> None:
    assert hangs_after(Watchdog(5.0), False, []) == 5.5


def test_an_engine_that_has_not_answered_yet_is_given_time_to_start() -> None:
    assert hangs_after(Watchdog(5.0), False, [], started=False) == START_S + EVERY_S
    assert hangs_after(Watchdog(90.0), False, [], started=False) == 90.0 + EVERY_S


def test_what_makes_no_progress_hangs_although_the_loop_answers() -> None:
    assert hangs_after(Watchdog(5.0), True, [(1, 100.0, 0.0)]) == 6.0


def test_a_large_graph_gets_more_time() -> None:
    assert hangs_after(Watchdog(5.0), False, [(1, 100.0, 20.0)]) == 26.0


def test_progress_is_what_counts_and_not_time() -> None:
    watchdog = Watchdog(1.0)
    for step in range(100):
        assert not watchdog.observe(False, [(1, float(step // 2), 0.0)])


# -- the shared pages


@pytest.fixture
def pages() -> Iterator[SharedExposures]:
    shared = SharedExposures.create()
    yield shared
    shared.release()


def test_what_is_open_is_there_after_a_sudden_death(pages: SharedExposures) -> None:
    other = Exposure(b"o" * 16, "call", "run", "é" * 250, "s" * 250, 2)
    child = os.fork()
    if not child:
        pages.close(pages.open(GRAPH))
        pages.open(GRAPH)
        pages.open(other)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert pages.read() == (GRAPH, other)
    assert len(pages.clocks()) == 2


def test_more_than_fits_is_not_written_and_gives_nothing_back(pages: SharedExposures) -> None:
    slots = [pages.open(GRAPH) for _ in range(SLOTS + 2)]
    assert slots[SLOTS:] == [0, 0]
    for slot in slots:
        pages.close(slot)
    assert pages.read() == ()
    assert pages.open(GRAPH)


@given(st.binary(min_size=1, max_size=200), st.integers(0, SLOTS * 2048))
def test_a_reader_believes_nothing_of_what_an_engine_wrote(noise: bytes, at: int) -> None:
    shared = SharedExposures(-1)
    shared.open(GRAPH)
    shared._pages[at : at + len(noise)] = noise
    for exposure in shared.read():
        assert isinstance(exposure, Exposure)
    for _, _, patience_s in shared.clocks():
        assert 0 <= patience_s <= 24 * 3600 or patience_s != patience_s
    shared.release()


@pytest.mark.parametrize("name", ["memory.events", "memory.oom_control", "vmstat"])
def test_the_kernels_count_is_read_wherever_it_stands(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_text("low 0\nhigh 3\noom 2\noom_kill 5\noom_group_kill 9\n")
    assert oom.OomKills(file).count() == 5
    file.unlink()
    assert oom.OomKills(file).count() == 0
