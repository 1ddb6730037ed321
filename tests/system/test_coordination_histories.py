"""Histories of queues, locks and variables while leaders die, freeze and wake up, or are cut off.

Each blow falls on whoever leads, in the midst of the crowd's calls; it is undone when the crowd
goes on with the next leader, so a leader that was frozen or cut off comes back into a cell that has
moved on. The crowd is the harness's (``chaos/workloads/coordination.py``), and so is the judge.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from benchmarks.silent_drop import BLOWS as SILENT_BLOWS
from benchmarks.spread_cell import SpreadCell
from chaos.checkers.linearizability.checker import calls_of, judge_object, never_got
from chaos.history import Operation, Writer, operations, read
from chaos.wire.network import NoNamespaces, check_permitted
from chaos.workloads import coordination
from chaos.workloads.session import Session, Settings
from client_replay import Client
from ha_scheduler import LocalHACluster
from ha_scheduler.deploy.peer_process import PeerProcess
from tests.system.conftest import DEADLINE_S, SCALE, Scene, wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(300 * SCALE)]

N_ONWARD = 5  # times that the lock must be taken after a blow, until the next one may fall


class Crowd:
    """The harness's crowd, in this process."""

    def __init__(self, client: Client, directory: Path, seed: int) -> None:
        self._path = directory / "history.ndjson"
        settings = Settings(
            workload="coordination",
            process="test",
            role="0",
            address="",
            seed=seed,
            rate=1,
            deadline_s=DEADLINE_S,
            clients=1,
            workers=2,
            directory=str(directory),
            history=str(self._path),
        )
        self._session = Session(settings, client, Writer(self._path, "test"))
        self._crowd = coordination.Crowd(self._session, f"crowd-{seed}-{directory.name}")

    def start(self) -> None:
        self._crowd.start()

    def goes_on(self) -> None:
        """Returns when the crowd has done something since."""
        before = self._times_held()
        wait_until(
            lambda: self._crowd.failures or self._times_held() > before + N_ONWARD,
            "the crowd goes on",
            every_s=0.1,
        )

    def finish(self) -> None:
        """Stop, when what was put has been got."""
        self._session.stopping.set()
        self._crowd.join(DEADLINE_S)

    def check(self) -> None:
        """What was seen is what one scheduler that never fell could have shown."""
        assert not [op for op in self._operations() if op.type == "info"], "each call ended"
        objects = calls_of(self._operations())
        assert {name.partition(":")[0] for name in objects} == {
            "queue",
            "variable",
            "lock",
            "semaphore",
        }
        assert not [finding for item in objects.items() if (finding := judge_object(*item))]
        assert not list(never_got(objects))

    def abandon(self) -> None:
        """The test is over, perhaps because it failed: let the threads end."""
        self._session.stopping.set()

    def _times_held(self) -> int:
        return sum(op.f == "release" and op.type == "ok" for op in self._operations())

    def _operations(self) -> list[Operation]:
        return list(operations(read([self._path])))


@dataclass(frozen=True)
class Blow:
    """What befalls a leader, and what brings it back."""

    strike: Callable[[PeerProcess], object]
    undo: Callable[[PeerProcess], object]


def _signal(number: signal.Signals) -> Callable[[PeerProcess], None]:
    """To the daemon alone: its engine runs on, and must find that its lease is over."""

    def send(peer: PeerProcess) -> None:
        assert peer.pid is not None
        os.kill(peer.pid, number)

    return send


BLOWS = {
    "engine": Blow(PeerProcess.kill_engine, lambda peer: None),
    "peer": Blow(PeerProcess.kill, PeerProcess.start),
    "freeze": Blow(PeerProcess.pause, PeerProcess.resume),
    "freeze the daemon": Blow(_signal(signal.SIGSTOP), _signal(signal.SIGCONT)),
}


def all_follow(cluster: LocalHACluster) -> bool:
    return all(peer.engine_pid for peer in cluster.peers) and all(
        peer.status in ("leader", "follower") for peer in cluster.peers
    )


def histories_through(scene: Scene, blows: list[str], seed: int) -> None:
    cluster, crowd = scene.cluster, Crowd(scene.client, scene.directory, seed)
    try:
        crowd.start()
        for name in blows:
            wait_until(lambda: all_follow(cluster), "all are back")
            leader = cluster.leader
            BLOWS[name].strike(leader)
            crowd.goes_on()
            BLOWS[name].undo(leader)
        crowd.goes_on()
        crowd.finish()
        crowd.check()
    finally:
        crowd.abandon()


@pytest.mark.parametrize(
    "blows",
    [
        ["engine", "peer", "freeze"],
        pytest.param(["peer"] * 3, marks=pytest.mark.slow),
        pytest.param(["freeze"] * 3, marks=pytest.mark.slow),
        pytest.param(["freeze the daemon"] * 3, marks=pytest.mark.slow),
    ],
    ids=", ".join,
)
def test_histories_through_several_failovers(scene: Scene, blows: list[str]) -> None:
    histories_through(scene, blows, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_histories_through_blows_at_random(scene: Scene, seed: int) -> None:
    histories_through(scene, Random(seed).choices(list(BLOWS), k=5), seed)


@pytest.fixture(scope="module")
def spread(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SpreadCell]:
    try:
        check_permitted()
    except NoNamespaces as error:
        pytest.skip(f"no network namespaces: {error}")
    with SpreadCell(tmp_path_factory.mktemp("cell")) as cell:
        yield cell


@pytest.mark.slow
@pytest.mark.parametrize("how", ["drop", "deaf", "mute"])
def test_histories_through_partitions(spread: SpreadCell, how: str, tmp_path: Path) -> None:
    """The leader's host is cut off, in both directions or one, and is heard again later."""
    blow, crowd = SILENT_BLOWS[how], Crowd(spread.client, tmp_path, seed=1)
    try:
        crowd.start()
        for _ in range(2):
            spread.wait_until_ready()
            name = spread.leader().name
            crowd.goes_on()
            blow.strike(spread, name)
            crowd.goes_on()
            blow.heal(spread, name)
        crowd.finish()
        crowd.check()
    finally:
        crowd.abandon()
