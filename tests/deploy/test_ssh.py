"""``HASSHCluster``: a whole cell over ssh, on an sshd of the test's own."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("asyncssh", reason="the extra `ssh` is not installed")

from ha_scheduler.deploy import HASSHCluster
from ha_scheduler.deploy.ports import free_ports
from ha_scheduler.errors import OperatorError
from tests.deadlines import SCALE

SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
needs_sshd = pytest.mark.skipif(SSHD is None, reason="no sshd (Debian: openssh-server)")


@pytest.fixture
def connect(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """An sshd on a port of its own, with its own keys; what ``asyncssh.connect`` needs for it."""
    assert SSHD is not None
    (port,) = free_ports("127.0.0.1", 1)
    for key in ("host", "own"):
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / key)]
        subprocess.run(words, check=True)
    (tmp_path / "authorized").write_bytes((tmp_path / "own.pub").read_bytes())
    (tmp_path / "config").write_text(
        f"ListenAddress 127.0.0.1:{port}\nListenAddress 127.0.0.2:{port}\n"
        f"HostKey {tmp_path}/host\nPidFile none\nAuthorizedKeysFile {tmp_path}/authorized\n"
        "PermitRootLogin prohibit-password\nPasswordAuthentication no\nUsePAM no\nStrictModes no\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    words = [SSHD, "-D", "-f", str(tmp_path / "config"), "-E", str(tmp_path / "sshd.log")]
    server = subprocess.Popen(words)
    deadline = time.monotonic() + 10 * SCALE
    while "listening" not in _log(tmp_path):
        assert server.poll() is None, _log(tmp_path)
        assert time.monotonic() < deadline, _log(tmp_path)
        time.sleep(0.05)
    yield {
        "port": port,
        "username": getpass.getuser(),
        "known_hosts": None,
        "client_keys": [str(tmp_path / "own")],
    }
    server.terminate()
    server.wait()


def _log(directory: Path) -> str:
    file = directory / "sshd.log"
    return file.read_text().lower() if file.exists() else ""


def peers() -> list[str]:
    ports = free_ports("127.0.0.1", 6)
    hosts = ("127.0.0.1", "127.0.0.2", "127.0.0.1")
    pairs = zip("abc", hosts, ports[::2], ports[1::2], strict=True)
    return [f"{name}={host}:{one}/{other}" for name, host, one, other in pairs]


def daemons(directory: Path) -> list[psutil.Process]:
    """The peers whose data is below this directory."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or ())
        if "ha_scheduler.cli.main" in line and str(directory) in line:
            found.append(process)
    return found


def workers_of(cluster: HASSHCluster) -> list[psutil.Process]:
    lines = {p: " ".join(p.info["cmdline"] or ()) for p in psutil.process_iter(["cmdline"])}
    return [p for p, line in lines.items() if "dask_spec" in line and f"{cluster.name}-" in line]


@needs_sshd
@pytest.mark.slow
@pytest.mark.system
def test_a_cell_over_ssh_survives_its_leader_and_goes_with_its_cluster(
    connect: dict[str, Any], tmp_path: Path
) -> None:
    there = tmp_path / "there"
    options: dict[str, Any] = {
        "directory": tmp_path / "here",
        "remote_directory": str(there),
        "remote_python": sys.executable,
        "connect_options": connect,
        "worker_options": {"nthreads": 1, "memory_limit": "400MB"},
        "start_timeout_s": 60 * SCALE,
    }
    cell = peers()
    with (
        HASSHCluster(cell, ["127.0.0.1", "127.0.0.2"], **options) as cluster,
        cluster.get_client() as client,
    ):
        client.wait_for_workers(2, timeout=60 * SCALE)
        held = client.submit(int, 7)
        assert held.result(timeout=30 * SCALE) == 7
        assert len(daemons(there)) == 3
        assert workers_of(cluster)
        leader = client.run_on_scheduler(os.getppid)
        psutil.Process(leader).kill()
        assert client.submit(int, 8).result(timeout=30 * SCALE) == 8
        assert held.result() == 7
        assert client.run_on_scheduler(os.getppid) != leader
        files = {file.name for file in (there / "peer-a" / "tls").iterdir()}
        assert not files & {"peer-b-key.pem", "peers-ca-key.pem"}
        with HASSHCluster(cell, [], **options) as other:
            assert other.scheduler_info["address"]
        assert len(daemons(there)) == 2, "another one that uses the same peers has not ended them"
        assert client.submit(int, 9).result(timeout=30 * SCALE) == 9
    assert not daemons(there)
    assert not workers_of(cluster)


@needs_sshd
@pytest.mark.slow
@pytest.mark.system
def test_a_cell_that_does_not_start_says_why_and_leaves_nothing(
    connect: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(RuntimeError, match=r"no-such-option"):
        HASSHCluster(
            peers(),
            directory=tmp_path / "here",
            remote_directory=str(tmp_path / "there"),
            connect_options=connect,
            peer_options=["--no-such-option"],
            start_timeout_s=3,
        )
    assert not daemons(tmp_path / "there")


def test_peers_that_make_no_cell_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(OperatorError):
        HASSHCluster(["a=127.0.0.1", "a=127.0.0.2"], directory=tmp_path / "here")
    assert not (tmp_path / "here").exists()
