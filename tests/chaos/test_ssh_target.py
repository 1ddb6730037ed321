"""Processes of a host that is reached by ssh: signalled, started again, and healed by a will.

Slow, as each command is a connection: ``make test PYTEST_ARGS="-m slow tests/chaos"``.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from chaos.faults.base import parse
from chaos.faults.registry import FAULTS
from chaos.guard import NotAllowed, check
from chaos.scenario import Scenario
from chaos.targets.ssh import Ssh, read_description
from ha_scheduler.deploy.ports import free_ports
from ha_scheduler.errors import OperatorError
from tests.certificates import issue
from tests.deadlines import SCALE

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """Of an sshd of our own, with keys of its own."""
    if not os.access(SSHD, os.X_OK):
        pytest.skip("no sshd: scripts/install-system-packages --chaos")
    for name in ("host", "user"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)]
        subprocess.run(command, check=True)
    (port,) = free_ports("127.0.0.1", 1)
    options = {
        "HostKey": tmp_path / "host",
        "AuthorizedKeysFile": tmp_path / "user.pub",
        "StrictModes": "no",
        "PidFile": "none",
        "UsePAM": "no",
        "ListenAddress": "127.0.0.1",
        "Port": port,
    }
    Path("/run/sshd").mkdir(exist_ok=True)
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    with subprocess.Popen([SSHD, "-D", "-f", "/dev/null", *words]) as server:
        deadline = time.monotonic() + 10 * SCALE
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert time.monotonic() < deadline
                assert server.poll() is None
                time.sleep(0.05)
        yield port
        server.terminate()


def description(tmp_path: Path, port: int, name: str = "staging-x") -> Path:
    file = tmp_path / "cell.toml"
    options = [
        *("-p", str(port), "-i", str(tmp_path / "user"), "-o", "IdentitiesOnly=yes"),
        *("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "127.0.0.1"),
    ]
    words = ", ".join(f'"{option}"' for option in options)
    start = f"sh -c 'nohup sleep 600 >/dev/null 2>&1 </dev/null & echo $! > {tmp_path}/pid'"
    file.write_text(
        f'name = "{name}"\npeers = "a=127.0.0.1:8000/8001"\ntls-dir = "{tmp_path}/tls"\n'
        f'dask-config = "{tmp_path}/tls/dask.yaml"\n[hosts.a]\nssh = [{words}]\n'
        f'pid-file = "{tmp_path}/pid"\nstart = ["{start}"]\n'
    )
    return file


@pytest.fixture
def target(tmp_path: Path, port: int) -> Iterator[Any]:
    issue(tmp_path / "tls", "a")
    target = Ssh(tmp_path / "run", read_description(description(tmp_path, port)))
    target.restart("a")
    yield target
    target.signal("a", "both", 9)  # type: ignore[arg-type]


def inject(target: Any, text: str) -> Any:
    call = parse(text)
    return FAULTS.of(call).inject(target, call.arguments, Random(1))


@pytest.mark.slow
def test_a_process_there_is_killed_and_started_again(target: Any) -> None:
    before = target.pids("a").daemon
    active = inject(target, "kill:a:daemon")
    assert str(before) in active.proof()
    assert target.pids("a").daemon is None
    active.heal()
    assert target.pids("a").daemon not in (None, before)


@pytest.mark.slow
def test_a_process_there_is_stopped_and_goes_on_by_the_will(target: Any) -> None:
    active = inject(target, "pause:a:daemon")
    assert "stopped" in active.proof()
    for command in active.will:
        subprocess.run(command, check=True, capture_output=True)
    assert target.process_of("a", target.pids("a").daemon).status() == "running"


@pytest.mark.slow
def test_what_takes_more_than_signals_says_that_it_cannot_be_made(target: Any) -> None:
    for name in ("partition", "disk", "damage", "clock", "upgrade"):
        assert FAULTS.of(parse(name)).unavailable(target) is not None


def test_only_a_staging_cell_is_broken(tmp_path: Path) -> None:
    scenario = Scenario(target=f"ssh:{description(tmp_path, 22, 'production')}")
    with pytest.raises(NotAllowed, match="staging"):
        check(scenario, owned=False, cell="production")


def test_a_description_without_a_peers_host_is_refused(tmp_path: Path) -> None:
    file = description(tmp_path, 22)
    file.write_text(file.read_text().replace("hosts.a", "hosts.b"))
    with pytest.raises(OperatorError, match=r"hosts\.a"):
        read_description(file)
