"""Histories of queues, locks and variables while leaders die, freeze and wake up, or are cut off.

Each blow falls on whoever leads, in the midst of the crowd's calls; it is undone when the crowd
goes on with the next leader, so a leader that was frozen or cut off comes back into a cell that has
moved on. What must be true of the whole history is in ``crowd.py``.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

import pytest

from benchmarks.silent_drop import BLOWS as SILENT_BLOWS
from benchmarks.spread_cell import SpreadCell
from chaos.wire.network import NoNamespaces, check_permitted
from ha_scheduler import LocalHACluster
from ha_scheduler.deploy.peer_process import PeerProcess
from tests.system.conftest import SCALE, Scene, wait_until
from tests.system.crowd import Crowd

pytestmark = [pytest.mark.system, pytest.mark.timeout(300 * SCALE)]


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


@pytest.fixture
def cluster(scene: Scene) -> LocalHACluster:
    return scene.cluster


def all_follow(cluster: LocalHACluster) -> bool:
    return all(peer.engine_pid for peer in cluster.peers) and all(
        peer.status in ("leader", "follower") for peer in cluster.peers
    )


def histories_through(cluster: LocalHACluster, blows: list[str], seed: int) -> None:
    crowd = Crowd(f"crowd-{'-'.join(blows)}-{seed}", seed)
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
def test_histories_through_several_failovers(cluster: LocalHACluster, blows: list[str]) -> None:
    histories_through(cluster, blows, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_histories_through_blows_at_random(cluster: LocalHACluster, seed: int) -> None:
    histories_through(cluster, Random(seed).choices(list(BLOWS), k=5), seed)


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
def test_histories_through_partitions(spread: SpreadCell, how: str) -> None:
    """The leader's host is cut off, in both directions or one, and is heard again later."""
    blow, crowd = SILENT_BLOWS[how], Crowd(f"crowd-{how}", seed=1)
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
