"""What ends the scheduler that reads it costs the cell two engines, and others some moments."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from client_replay import Client
from ha_scheduler import LocalHACluster
from ha_scheduler.errors import SetAside
from tests.deadlines import SCALE
from tests.system.conftest import new_cluster

AN_ENGINE = "'--channel-fd' in open('/proc/self/cmdline').read()"


class Poison:
    """Runs ``code`` in each engine that unpickles it, and leaves a line in ``book`` before."""

    def __init__(self, book: Path, code: str, unless: str = "False") -> None:
        self.code = (
            f"if {AN_ENGINE} and not ({unless}):\n"
            f" import os, signal\n"
            f" open({str(book)!r}, 'a').write('x')\n"
            f" {code}"
        )

    def __reduce__(self) -> Any:
        return exec, (self.code,)


WAYS = {
    "exit status 77": "os._exit(77)",
    "SIGSEGV": "os.kill(os.getpid(), signal.SIGSEGV)",
    "SIGKILL": "os.kill(os.getpid(), signal.SIGKILL)",
}
LEADS = (
    "[o for o in __import__('gc').get_objects()"
    " if type(o).__name__ == 'Scheduler' and getattr(o, 'recorder', None)]"
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalHACluster]:
    with new_cluster(n_workers=1, nanny=False) as started:
        yield started


@pytest.fixture
def clients(cluster: LocalHACluster) -> Iterator[tuple[Client, Client]]:
    with (
        Client(cluster, set_as_default=False) as one,
        Client(cluster, set_as_default=False) as other,
    ):
        yield one, other


def use(*inputs: Any) -> str:
    return "used"


def longest_wait(client: Client, until: Any) -> float:
    """How long the slowest of another user's tasks took while this went on."""
    longest, deadline = 0.0, time.monotonic() + 30 * SCALE
    while not until():
        assert time.monotonic() < deadline, "it goes on"
        began = time.monotonic()
        client.submit(use, pure=False).result(timeout=20 * SCALE)
        longest = max(longest, time.monotonic() - began)
    return longest


def settle(cluster: LocalHACluster) -> None:
    """Every peer has an engine that is ready."""
    deadline = time.monotonic() + 30 * SCALE
    while not all(peer.engine_pid for peer in cluster.peers):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    "way", ["SIGSEGV", *(pytest.param(w, marks=pytest.mark.slow) for w in WAYS if w != "SIGSEGV")]
)
def test_a_graph_that_ends_who_reads_it_is_refused_after_two_engines(
    cluster: LocalHACluster, clients: tuple[Client, Client], tmp_path: Path, way: str
) -> None:
    client, other = clients
    other.submit(use).result()
    poison = client.submit(use, Poison(tmp_path / "book", WAYS[way]), pure=False)
    longest = longest_wait(other, poison.done)
    error = poison.exception(timeout=20 * SCALE)
    assert isinstance(error, SetAside)
    assert f"{way} on " in str(error)
    assert client.id in str(error)
    assert (tmp_path / "book").read_text() == "xx"
    assert longest < 10 * SCALE
    assert client.submit(use, pure=False).result(timeout=20 * SCALE) == "used"


def test_what_ends_only_those_that_replay_it_leaves_the_leader_alone(
    cluster: LocalHACluster, clients: tuple[Client, Client], tmp_path: Path
) -> None:
    client, other = clients
    leader = cluster.leader
    poison = Poison(tmp_path / "book", "os._exit(77)", unless=LEADS)
    future = client.submit(use, poison, pure=False)
    assert future.result(timeout=20 * SCALE) == "used"
    wait_for(lambda: (tmp_path / "book").exists() and (tmp_path / "book").read_text() == "xx")
    settle(cluster)
    assert cluster.leader.name == leader.name
    leader.kill_engine()
    assert other.submit(use, pure=False).result(timeout=20 * SCALE) == "used"
    assert isinstance(future.exception(timeout=20 * SCALE), SetAside)
    assert (tmp_path / "book").read_text() == "xx"


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 30 * SCALE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_kill_from_outside_condemns_nobody(
    cluster: LocalHACluster, clients: tuple[Client, Client], tmp_path: Path
) -> None:
    client, _ = clients
    book, gate = tmp_path / "book", tmp_path / "gate"
    code = f"while not os.path.exists({str(gate)!r}): __import__('time').sleep(0.01)"
    slow = client.submit(use, Poison(book, code), pure=False)
    for deaths in range(1, 4):
        wait_for(lambda n=deaths: book.exists() and len(book.read_text()) == n)
        os.kill(cluster.leader.engine_pid, signal.SIGKILL)
    gate.touch()
    assert slow.result(timeout=20 * SCALE) == "used"
