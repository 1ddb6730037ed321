"""Clients and workers that know the virtual address alone, while the hosts that have it die.

Real hosts as far as the network goes (a namespace each), real ARP; each host is watched for the
address every 5 ms: no two have it at once.
"""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.spread_cell import PEERS, SpreadCell
from chaos.targets.namespaces import VIP
from chaos.wire.network import NoNamespaces, check_permitted
from tests.system.conftest import DEADLINE_S, SCALE, wait_until

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(300 * SCALE)]

DEAD_PEER_S, DEAD_ENGINE_S = 2.5 * SCALE, 1.0 * SCALE  # until the address is on another host
SAMPLE_S = 0.005


class Watcher(threading.Thread):
    """When a host had the address, by its kernel."""

    def __init__(self, cell: SpreadCell, host: str) -> None:
        super().__init__(daemon=True)
        self.host = host
        self.spans: list[list[float]] = []  # first and last moment that it was seen
        self.stopped = threading.Event()
        self._cell = cell

    def run(self) -> None:
        seen = False
        with self._cell.network.inside(self.host):
            while not self.stopped.wait(SAMPLE_S):
                now = time.monotonic()
                has = VIP in Path("/proc/thread-self/net/fib_trie").read_text()
                if has and seen:
                    self.spans[-1][1] = now
                elif has:
                    self.spans.append([now, now])
                seen = has

    def taken_after(self, moment: float) -> float | None:
        return next((began for began, _ in self.spans if began > moment), None)


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SpreadCell]:
    try:
        check_permitted()
    except NoNamespaces as error:
        pytest.skip(f"no network namespaces: {error}")
    with SpreadCell(tmp_path_factory.mktemp("cell"), vip=True) as cell:
        yield cell


@pytest.fixture
def watchers(cell: SpreadCell) -> Iterator[list[Watcher]]:
    cell.wait_until_ready()
    leader = cell.leader().name
    wait_until(lambda: cell.status(leader)["vip_held"], "the leader's host has the address")
    watchers = [Watcher(cell, host) for host in PEERS]
    for watcher in watchers:
        watcher.start()
    yield watchers
    for watcher in watchers:
        watcher.stopped.set()
        watcher.join()
    spans = sorted((*span, watcher.host) for watcher in watchers for span in watcher.spans)
    for (_, until, holder), (since, _, other) in itertools.pairwise(spans):
        assert until < since or holder == other, f"{holder} and {other} had it at once"


def _kill(cell: SpreadCell, name: str) -> None:
    cell.peers[name].kill()


def _restart(cell: SpreadCell, name: str) -> None:
    with cell.network.inside(name):
        cell.peers[name].start()


def _freeze(cell: SpreadCell, name: str) -> None:
    cell.peers[name].pause()


def _wake(cell: SpreadCell, name: str) -> None:
    time.sleep(1.0)  # the next leader has it by now, and its neighbours know
    cell.peers[name].resume()


def _cut(cell: SpreadCell, name: str) -> None:
    cell.network.cut(name)


def _heal(cell: SpreadCell, name: str) -> None:
    assert cell.network.heal() > 0


def _kill_engine(cell: SpreadCell, name: str) -> None:
    os.kill(cell.status(name)["engine"]["pid"], signal.SIGKILL)


def _nothing(cell: SpreadCell, name: str) -> None:
    pass


def _terminate(cell: SpreadCell, name: str) -> None:
    pid = cell.peers[name].pid
    assert pid is not None
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not cell.peers[name].alive, "the peer has stopped")


@pytest.mark.parametrize(
    ("strike", "heal", "within_s"),
    [
        pytest.param(_kill, _restart, DEAD_PEER_S, id="killed"),
        pytest.param(_freeze, _wake, DEAD_PEER_S, id="frozen"),
        pytest.param(_cut, _heal, DEAD_PEER_S, id="cut-off"),
        pytest.param(_kill_engine, _nothing, DEAD_ENGINE_S, id="engine-killed"),
        pytest.param(_terminate, _restart, DEAD_ENGINE_S, id="stopped"),
    ],
)
def test_the_address_follows_the_leader_and_work_goes_on(
    cell: SpreadCell,
    watchers: list[Watcher],
    strike: Callable[[SpreadCell, str], None],
    heal: Callable[[SpreadCell, str], None],
    within_s: float,
) -> None:
    before = [cell.client.submit(pow, 2, n, pure=False) for n in range(50)]
    leader = cell.leader().name
    struck = time.monotonic()
    strike(cell, leader)
    assert cell.client.submit(pow, 3, 3, pure=False).result(DEADLINE_S) == 27
    others = [watcher for watcher in watchers if watcher.host != leader]
    wait_until(lambda: any(w.taken_after(struck) for w in others), "another host has it")
    took_s = min(moment for w in others if (moment := w.taken_after(struck))) - struck
    heal(cell, leader)
    cell.wait_until_ready()
    assert cell.client.gather(before) == [2**n for n in range(50)]
    assert took_s < within_s
