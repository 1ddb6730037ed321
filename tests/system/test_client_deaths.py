"""The client dies, the leader dies, both do: what was submitted has one outcome."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask
import pytest
from distributed.client import _wait

import client_replay
from client_replay import Client
from tests.system.conftest import DEADLINE_S, Scene, wait_until

PROGRAM = """
import sys
from client_replay import resume, Client
from distributed.security import Security
from tests.system.conftest import recorded
path, directory, how, begin, end = sys.argv[1:6]
if how == "resume":
    client = resume(path, set_as_default=False)
else:
    security = Security(require_encryption=True, **dict(a.split("=", 1) for a in sys.argv[7:]))
    client = Client(sys.argv[6], security=security, journal=path, durable=True,
                    set_as_default=False)
futures = list(client.resumed.values())
for number in range(int(begin), int(end)):
    futures.append(client.submit(recorded, directory, f"t{number}", 0.2, key=f"t{number}"))
print("submitted", flush=True)
sys.stdin.read()
"""


@contextmanager
def program(scene: Scene, path: Path, begin: int, end: int) -> Iterator[subprocess.Popen[str]]:
    """A Python that submits tasks, under a journal that it begins or resumes."""
    security = scene.cluster.security
    tls = [
        f"{name}={getattr(security, name)}"
        for name in ("tls_ca_file", "tls_client_cert", "tls_client_key")
    ]
    how = "resume" if path.exists() else "begin"
    words = [path, scene.directory, how, begin, end, scene.cluster.scheduler_address, *tls]
    running = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *map(str, words)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert running.stdout is not None
    try:
        assert running.stdout.readline() == "submitted\n"
        yield running
    finally:
        running.kill()
        running.communicate()


def assert_each_once(scene: Scene, client: Any, count: int) -> None:
    futures = list(client.resumed.values())
    client.sync(_wait, futures, timeout=DEADLINE_S)
    assert sorted(client.gather(futures)) == sorted(f"t{n}" for n in range(count))
    assert scene.executions() == {f"t{number}": 1 for number in range(count)}


def test_the_client_and_the_leader_die_and_another_process_has_it_all(
    scene: Scene, tmp_path: Path
) -> None:
    path = tmp_path / "work.journal"
    with program(scene, path, 0, 6) as first:
        scene.wait_for_engines()
        leader = scene.cluster.leader
        first.kill()
        leader.kill()
    with client_replay.resume(path, set_as_default=False) as client:
        assert_each_once(scene, client, 6)
    leader.start()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_clients_and_leaders_die_in_any_order_again_and_again(
    scene: Scene, tmp_path: Path, seed: int
) -> None:
    path, choose = tmp_path / "work.journal", random.Random(seed)
    for round_ in range(4):
        with program(scene, path, round_ * 5, round_ * 5 + 5) as running:
            victims = choose.choice([["client"], ["leader"], ["client", "leader"]])
            choose.shuffle(victims)
            time.sleep(choose.random())
            for victim in victims:
                if victim == "client":
                    running.kill()
                else:
                    scene.wait_for_engines()
                    leader = scene.cluster.leader
                    leader.kill()
                    leader.start()
    with client_replay.resume(path, set_as_default=False) as client:
        assert_each_once(scene, client, 20)


@pytest.mark.slow
def test_a_hundred_thousand_submits_go_through_three_failovers(
    scene: Scene, tmp_path: Path
) -> None:
    with Client(scene.cluster, journal=tmp_path / "many.journal", set_as_default=False) as client:
        futures = []
        for number in range(100_000):
            futures.append(client.submit(abs, -number, key=f"n{number}"))
            if number in (25_000, 50_000, 75_000):
                scene.wait_for_engines()
                leader = scene.cluster.leader
                leader.kill()
                leader.start()
        client.sync(_wait, futures, timeout=900)
        assert sum(future.status == "finished" for future in futures) == 100_000
        assert client.gather(futures[::1000]) == list(range(0, 100_000, 1000))
        assert len(client.outages) >= 3


@pytest.mark.slow
def test_a_gigabyte_goes_through_a_journal_of_a_quarter(scene: Scene, tmp_path: Path) -> None:
    megabytes = 16
    with (
        dask.config.set({"ha.client.journal-limit": "256 MiB"}),
        Client(scene.cluster, journal=tmp_path / "large.journal", set_as_default=False) as client,
    ):
        futures, most = [], 0
        for number in range(64):
            data = os.urandom(megabytes << 20)
            futures.append(client.submit(len, data, key=f"d{number}"))
            most = max(most, client._ha.journal.nbytes)
            if number == 20:
                scene.wait_for_engines()
                leader = scene.cluster.leader
                leader.kill()
                leader.start()
        assert client.gather(futures) == [megabytes << 20] * 64
        assert most <= 256 << 20


@pytest.mark.slow
def test_a_client_that_is_stopped_for_a_minute_has_lost_nothing(
    scene: Scene, tmp_path: Path
) -> None:
    path = tmp_path / "work.journal"
    with program(scene, path, 0, 4) as running:
        running.send_signal(signal.SIGSTOP)
        wait_until(lambda: len(scene.executions()) == 4, "all have run")
        time.sleep(60)
        running.send_signal(signal.SIGCONT)
        time.sleep(2)
        assert running.poll() is None
    with client_replay.resume(path, set_as_default=False) as client:
        assert_each_once(scene, client, 4)
