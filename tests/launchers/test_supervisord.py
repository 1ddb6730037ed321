"""Slow: the configuration as it is shipped, under a real supervisord, with a real peer."""

from __future__ import annotations

import getpass
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ha_scheduler.cell.peers import parse_peers
from ha_scheduler.deploy.ports import free_ports
from ha_scheduler.security.authority import ensure_certificates
from tests.deadlines import SCALE
from tests.launchers.test_service_files import PROGRAM, SUPERVISORD
from tests.peer.toy_cell import within

pytestmark = pytest.mark.slow

BIN = Path(sys.prefix) / "bin"
NAME = "dask-ha-scheduler"
OWN = """
[unix_http_server]
file={base}/socket
[supervisord]
nodaemon=true
pidfile={base}/pid
logfile={base}/supervisord.log
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl=unix://{base}/socket
[include]
files={base}/peer.conf
"""


class Supervisor:
    def __init__(self, base: Path) -> None:
        self.base = base

    def control(self, *words: str) -> str:
        command = [str(BIN / "supervisorctl"), "-c", str(self.base / "conf"), *words]
        return subprocess.run(command, capture_output=True, text=True).stdout

    def state(self) -> str:
        words = self.control("status", NAME).split()
        return words[1] if len(words) > 1 else ""

    def pid(self) -> int:
        return int(self.control("pid", NAME) or 0)

    def log(self) -> str:
        path = self.base / f"{NAME}.log"
        return path.read_text() if path.exists() else ""


def here(text: str, base: Path) -> str:
    """The configuration with the paths of this test."""
    for shipped, ours in (
        (PROGRAM, str(BIN / NAME)),
        ("/var/lib/dask-ha", str(base / "data")),
        ("/var/log/supervisor", str(base)),
        ("dask-ha\n", f"{getpass.getuser()}\n"),
        ("environment=", f'environment=DASK_CONFIG="{base}/ha.yaml",'),
    ):
        assert shipped in text
        text = text.replace(shipped, ours)
    return text


@contextmanager
def supervised(base: Path) -> Iterator[Supervisor]:
    pytest.importorskip("supervisor")
    peer_port, dask_port = free_ports("127.0.0.1", 2)
    peers = f"a=127.0.0.1:{peer_port}/{dask_port}"
    for name in ("tls", "data"):
        (base / name).mkdir(mode=0o700)
    ensure_certificates(base / "tls", parse_peers(peers))
    settings = {"peers": peers, "name": "a", "tls-dir": str(base / "tls"), "dashboard": False}
    (base / "ha.yaml").write_text(json.dumps({"ha": {"peer": settings}}))
    (base / "peer.conf").write_text(here(SUPERVISORD.read_text(), base))
    (base / "conf").write_text(OWN.format(base=base))
    process = subprocess.Popen(
        [str(BIN / "supervisord"), "-c", str(base / "conf")], stdout=subprocess.DEVNULL
    )
    supervisor = Supervisor(base)
    try:
        yield supervisor
    except BaseException:
        sys.stderr.write(supervisor.log()[-6000:])
        raise
    finally:
        process.terminate()
        process.wait(timeout=40 * SCALE)


def test_a_killed_peer_is_started_again_and_a_stopped_one_has_time_to_end(tmp_path: Path) -> None:
    with supervised(tmp_path) as supervisor:
        within(20, lambda: supervisor.state() == "RUNNING", every=0.2)
        within(20, lambda: "engine_serving" in supervisor.log(), every=0.2)
        first = supervisor.pid()
        os.kill(first, signal.SIGKILL)
        within(20, lambda: supervisor.pid() not in (0, first), every=0.2)
        within(20, lambda: supervisor.log().count("engine_serving") == 2, every=0.2)
        supervisor.control("signal", "HUP", NAME)
        within(10, lambda: "settings_reloaded" in supervisor.log(), every=0.2)
        supervisor.control("stop", NAME)
        assert supervisor.state() == "STOPPED"
        assert f"stopped: {NAME} (exit status 0)" in (tmp_path / "supervisord.log").read_text()
