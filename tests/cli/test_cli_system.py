"""Real daemons on loopback: first start, what the operator asks, and data that is another's.

Method: three processes are started at the same moment with nothing on disk, and everything is read
from outside: exit statuses, stderr, and the answers of ``status``.
"""

from __future__ import annotations

import contextlib
import json
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deadlines import SCALE

pytestmark = pytest.mark.system

DEADLINE_S = 30.0 * SCALE
COMMAND = [sys.executable, "-m", "ha_scheduler.cli"]
DASK_HA = [sys.executable, "-m", "dask", "ha"]


def free_ports(count: int) -> list[int]:
    """Ports free at this moment, random because other test runs on this machine choose too."""
    with contextlib.ExitStack() as held:
        ports: list[int] = []
        while len(ports) < count:
            port = random.SystemRandom().randrange(10_000, 32_000)  # below all source ports
            probe = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                ports.append(port)
        return ports


class Peers:
    """Three daemons of one cell."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        ports = iter(free_ports(6))
        self.peers = ",".join(f"{name}=127.0.0.1:{next(ports)}/{next(ports)}" for name in "abc")
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def arguments(self, name: str) -> list[str]:
        return [
            *("--peers", self.peers, "--name", name, "--no-dashboard"),
            *("--data-dir", str(self.directory / name), "--tls-dir", str(self.directory / "tls")),
            *("--pid-file", str(self.directory / f"{name}.pid")),
        ]

    def start(self, name: str) -> None:
        with (self.directory / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [*COMMAND, *self.arguments(name)], stdout=log, stderr=log
            )

    def run_as_another_cell(self, name: str) -> subprocess.CompletedProcess[str]:
        """A cell of one peer, on the data directory of our peer ``name``."""
        peer_port, dask_port = free_ports(2)
        alone = f"{name}=127.0.0.1:{peer_port}/{dask_port}"
        tls = ["--tls-dir", str(self.directory / "tls")]
        return run("--peers", alone, "--data-dir", str(self.directory / name), *tls)

    def ask(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run(command, *self._cell(), *arguments)

    def ask_by_dask(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The same, as ``dask ha …``."""
        return run(command, *self._cell(), *arguments, program=DASK_HA)

    def _cell(self) -> list[str]:
        return ["--peers", self.peers, "--tls-dir", str(self.directory / "tls")]

    def leader(self) -> str:
        """The peer that leads with an active engine, while every other is ready to take over."""
        deadline = time.monotonic() + DEADLINE_S
        answer: dict[str, object] = {}
        while time.monotonic() < deadline:
            done = self.ask("status", "--format", "json")
            if done.stdout:
                answer = json.loads(done.stdout)
                by_name = {peer["name"]: peer for peer in answer["peers"]}
                engine = by_name.get(answer["leader"], {}).get("engine", {}).get("state")
                if engine == "active" and not any("error" in peer for peer in by_name.values()):
                    members = by_name[answer["leader"]]["members"]
                    if all(m["engine_ready"] or m["name"] == answer["leader"] for m in members):
                        return str(answer["leader"])
            time.sleep(0.5)  # each question is a process
        logs = "\n".join(path.read_text() for path in self.directory.glob("*.log"))
        raise AssertionError(f"no leader with all peers up: {answer}\n{logs}")

    def stop(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait(DEADLINE_S)


def run(*arguments: str, program: list[str] = COMMAND) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*program, *arguments], capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )


@pytest.fixture
def peers(tmp_path: Path) -> Iterator[Peers]:
    started = Peers(tmp_path)
    try:
        yield started
    finally:
        started.stop()


def test_a_cell_from_its_first_start(peers: Peers, tmp_path: Path) -> None:
    for name in "abc":
        peers.start(name)
    leader = peers.leader()
    assert {path.name for path in (tmp_path / "tls").glob("*.pem")} == {
        *("ca.pem", "client.pem", "client-key.pem"),
        *(f"{name}-ca{suffix}.pem" for name in ("peers", "issuing") for suffix in ("", "-key")),
        *(
            f"{kind}-{name}{suffix}.pem"
            for kind in ("peer", "engine")
            for name in "abc"
            for suffix in ("", "-key")
        ),
    }
    pid_file = tmp_path / f"{leader}.pid"
    assert int(pid_file.read_text()) == peers.processes[leader].pid

    to = next(name for name in "abc" if name != leader)
    moved = peers.ask("transfer", "--to", to)
    assert (moved.returncode, moved.stderr) == (0, "")
    assert moved.stdout.startswith(f"{to} leads in term ")
    assert peers.leader() == to
    terms = [entry["term"] for entry in json.loads(peers.ask("history", "--format", "json").stdout)]
    assert terms == sorted(terms)
    assert len(terms) >= 2

    by_dask = peers.ask_by_dask("status", "--format", "json")
    assert (by_dask.returncode, by_dask.stderr) == (0, "")
    assert json.loads(by_dask.stdout)["leader"] == to
    by_dask = peers.ask_by_dask("history", "--format", "json")
    assert [entry["term"] for entry in json.loads(by_dask.stdout)] == terms
    assert to in peers.ask_by_dask("history").stdout

    # The same peer once more: its port is taken, and once more without it, its data is locked.
    again = run(*peers.arguments(to))
    assert again.returncode == 2
    assert "is taken by another process; stop it (is this peer running already?)" in again.stderr
    locked = peers.run_as_another_cell(to)
    assert locked.returncode == 2
    assert f"another process runs on {tmp_path / to}" in locked.stderr
    assert locked.stderr.count("\n") == 1

    # After its end its data is there, and still not another cell's.
    peers.processes[to].send_signal(signal.SIGTERM)
    assert peers.processes[to].wait(DEADLINE_S) == 0
    assert not (tmp_path / f"{to}.pid").exists()
    foreign = peers.run_as_another_cell(to)
    assert foreign.returncode == 2
    assert "names neither the peers of this cell today" in foreign.stderr
    assert foreign.stderr.count("\n") == 1

    peers.start(to)
    assert peers.leader() in "abc"


def test_a_killed_peer_starts_again_at_once_on_its_ports(peers: Peers) -> None:
    for name in "abc":
        peers.start(name)
    leader = peers.leader()
    peers.processes[leader].kill()
    peers.processes[leader].wait(DEADLINE_S)
    peers.start(leader)  # its engine may hold the Dask port for a moment yet
    peers.leader()
    assert peers.processes[leader].poll() is None
