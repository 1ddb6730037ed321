"""Faults of processes fire, prove it, and are undone, whoever is meant."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import psutil
import pytest

from chaos.faults.base import BadFault, CannotInject, parse
from chaos.faults.registry import FAULTS
from tests.chaos.toy_target import ToyTarget
from tests.deadlines import SCALE


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Any]:
    with ToyTarget(tmp_path, "a", "b", "c") as target:
        yield target


def inject(target: Any, text: str) -> Any:
    call = parse(text)
    return FAULTS.of(call).inject(target, call.arguments, Random(1))


def down(target: Any) -> list[str]:
    return [peer for peer in target.peers if target.pids(peer).daemon is None]


@pytest.mark.parametrize(
    ("who", "count"),
    [("leader", 1), ("b", 1), ("majority", 2), ("minority", 1), ("followers", 2), ("all", 3)],
)
def test_those_who_are_meant_are_killed_and_come_back(target: Any, who: str, count: int) -> None:
    active = inject(target, f"kill:{who}")
    assert len(down(target)) == count
    assert active.proof() is not None
    active.heal()
    active.heal()
    assert down(target) == []
    assert len(target.restarted) == count
    assert active.proof() is not None, "what has come back is another process"


def test_an_engine_alone_is_killed_and_its_daemon_is_left(target: Any) -> None:
    daemon = target.pids("a").daemon
    active = inject(target, "kill:leader:engine")
    active.heal()
    pids = target.pids("a")
    assert (pids.daemon, pids.engine) == (daemon, None)
    assert active.proof() is not None


def test_a_signal_that_ends_nothing_proves_nothing(
    target: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chaos.faults.process.SEEN_S_MAX", 0.05)
    monkeypatch.setattr(target, "signal", lambda *_: None)
    for fault in ("pause:leader", "kill:leader"):
        assert inject(target, fault).proof() is None


def test_who_is_frozen_runs_on_after_the_heal(target: Any) -> None:
    active = inject(target, "pause:leader:3s")
    assert "a stopped" in str(active.proof())
    daemon = psutil.Process(target.pids("a").daemon)
    assert daemon.status() == psutil.STATUS_STOPPED
    active.heal()
    assert daemon.status() != psutil.STATUS_STOPPED


def test_a_will_undoes_a_freeze_when_the_harness_cannot(target: Any) -> None:
    active = inject(target, "pause:all")
    for command in active.will:
        subprocess.run(command, check=True)
    for peer in target.peers:
        for pid in (target.pids(peer).daemon, target.pids(peer).engine):
            assert psutil.Process(pid).status() != psutil.STATUS_STOPPED


def test_a_storm_kills_over_and_over(target: Any) -> None:
    active = inject(target, "storm:3:10ms:b")
    active._thread.join(10 * SCALE)
    active.heal()
    assert "3 deaths" in str(active.proof())
    assert target.restarted == ["b"] * 3
    assert down(target) == []


def test_rolling_restarts_reach_every_peer_once(target: Any) -> None:
    active = inject(target, "rolling:10ms")
    active._thread.join(10 * SCALE)
    active.heal()
    assert target.restarted == ["a", "b", "c"]


def test_nobody_is_struck_for_a_leader_that_there_is_not(
    target: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chaos.faults.base.LEADER_S_MAX", 0.1)
    target.leading = None
    with pytest.raises(CannotInject, match="nobody leads"):
        inject(target, "kill:leader")


@pytest.mark.parametrize(
    "text",
    ["", "kill:", "nonsense", "kill:3s", "kill:leader:b", "storm:0", "pause:leader:3x", "kill:z"],
)
def test_what_is_no_fault_is_refused(target: Any, text: str) -> None:
    with pytest.raises(BadFault):
        inject(target, text)
    assert down(target) == []


def test_how_long_a_fault_lasts_may_be_said_with_it() -> None:
    call = parse("pause:engine:leader:250ms")
    assert FAULTS.of(call).lasts(call.arguments) == 0.25
    assert FAULTS.of(call).lasts(("leader",)) is None
