"""Settings: options win over the environment, that over files; what is no setting is refused; and
what a running peer takes on SIGHUP.

Method: the command line in a process of its own, with a configuration of its own; and one daemon.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from ha_scheduler.cell.peers import parse_peers
from ha_scheduler.cli.configuration import Configuration, about
from ha_scheduler.deploy.ports import free_ports
from ha_scheduler.errors import OperatorError
from ha_scheduler.peer.reloading import compare, in_words
from ha_scheduler.peer.settings import PeerSettings
from tests.deadlines import SCALE

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def given(tmp_path: Path) -> Run:
    """Run with this text in a file of Dask's configuration, and these variables."""

    def run(text: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        directory = tmp_path / "dask"
        directory.mkdir(exist_ok=True)
        (directory / "ha.yaml").write_text(text)
        return subprocess.run(
            [sys.executable, "-m", "ha_scheduler.cli", *arguments],
            env={**os.environ, "DASK_CONFIG": str(directory), **variables},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    return run


def test_the_environment_wins_over_a_file_and_each_value_says_where_it_is_from(given: Run) -> None:
    text = "ha: {peer: {tick-ms: 40, election_ticks: 20, engine-env: [A, B]}}"
    done = given(text, "config", "show", "--format", "json", DASK_HA__PEER__TICK_MS="60")
    shown = json.loads(done.stdout)
    assert shown["tick-ms"] == {"value": 60, "source": "environment", "unit": "milliseconds"}
    assert shown["election-ticks"] == {"value": 20, "source": "file", "unit": "ticks"}
    assert shown["engine-env"]["value"] == ["A", "B"]
    assert shown["priority"]["source"] == "default"
    assert given(text, "config", "check").returncode == 0
    assert "40" in given(text, "config", "show").stdout


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "ha: {peer: {tik-ms: 40}}",
            "ha.peer.tik-ms in Dask's configuration is no setting; did you",
        ),
        ("ha: {peer: {tick-ms: fast}}", "ha.peer.tick-ms in Dask's configuration: 'fast' is not"),
        ("ha: {peer: {protocol: udp}}", "ha.peer.protocol in Dask's configuration: 'udp' is not"),
        ("ha: {peer: {priority: 9}}", "--priority 9 is out of range; use 0 to 2"),
        ("ha: {peer: {check: true}}", "ha.peer.check in Dask's configuration is no setting"),
        ("ha: {peer: [1]}", "ha.peer in Dask's configuration is no mapping"),
        ("ha: {peer: {session-ttl: 1 minute}}", "--session-ttl 1 minute is not longer than"),
        ("ha: {peer: {engine-watchdog: 1}}", "--engine-watchdog 1 is out of range; use 5"),
    ],
)
def test_what_is_no_setting_or_no_value_is_refused_at_a_check_and_at_a_start(
    given: Run, text: str, sentence: str, tmp_path: Path
) -> None:
    start = ("--peers", "a=127.0.0.1", "--data-dir", str(tmp_path / "data"))
    for arguments in (("config", "check"), start):
        done = given(text, *arguments)
        assert done.returncode == 2
        assert sentence in done.stderr
        assert done.stderr.count("\n") == 1
    assert not (tmp_path / "data").exists()


def test_an_option_wins_over_everything_and_files_over_defaults(given: Run, tmp_path: Path) -> None:
    port, dask = free_ports("127.0.0.1", 2)
    peers = f"'a=127.0.0.1:{port}/{dask}'"
    text = f"ha: {{peer: {{peers: {peers}, data-dir: {tmp_path}/d, priority: 7}}}}"
    done = given(text, "--check", "--priority", "1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "can be started" in done.stdout
    assert "--priority 7" in given(text, "--check").stderr


def test_a_file_that_is_generated_holds_every_setting_and_is_fine(given: Run) -> None:
    text = given("", "config", "generate").stdout
    assert given(text, "config", "check").stdout.startswith("0 settings")
    lines = [
        line.replace("    # ", "    ", 1) if line.startswith("    # ") and ": " in line else line
        for line in text.splitlines()
        if not line.startswith("    # ") or line[6:].split(":")[0] in keys()
    ]
    tree = yaml.safe_load("\n".join(lines))["ha"]["peer"]
    assert set(tree) == keys()
    assert given("\n".join(lines), "config", "check").returncode == 0


def keys() -> set[str]:
    return {f.name.replace("_", "-") for f in fields(Configuration) if not about(f).once}


def test_every_number_has_a_unit_and_bounds() -> None:
    for each in fields(Configuration):
        known = about(each)
        if known.kind in (int, float):
            assert known.least is not None, each.name
            assert known.unit or each.name == "priority", each.name


@pytest.mark.parametrize("ticks", [2, 13_000])
def test_bounds_hold_whoever_makes_a_configuration(ticks: int) -> None:
    with pytest.raises(OperatorError, match="--election-ticks"):
        Configuration(election_ticks=ticks)


def test_what_a_running_peer_takes_of_new_settings_and_what_waits() -> None:
    def settings(**more: Any) -> PeerSettings:
        options = {"log_level": more.pop("log_level", "info"), "preload": more.pop("preload", [])}
        cell = parse_peers("a=127.0.0.1,b=127.0.0.2,c=127.0.0.3")
        return PeerSettings(cell, "a", Path("/d"), engine_options=options, **more)

    new = settings(priority=1, learner=False, log_level="debug", preload=["secret"], host="::1")
    changes = compare(settings(), new)
    assert in_words(changes.taken) == "log-level info → debug, priority 2 → 1"
    assert in_words(changes.waiting) == "host, preload"


@pytest.mark.system
def test_a_peer_takes_new_settings_and_its_log_is_rotated_while_it_runs(tmp_path: Path) -> None:
    port, dask = free_ports("127.0.0.1", 2)
    config, log = tmp_path / "ha.yaml", tmp_path / "log"
    tree: dict[str, Any] = {
        "peers": f"a=127.0.0.1:{port}/{dask}",
        "data-dir": str(tmp_path / "data"),
        "tls-dir": str(tmp_path / "tls"),
        "log-file": str(log),
        "log-format": "json",
        "dashboard-address": ":0",
    }

    def write(**more: Any) -> None:
        config.write_text(yaml.safe_dump({"ha": {"peer": {**tree, **more}}}))

    def lines() -> list[dict[str, Any]]:
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def logged(action: str, **fields: str) -> dict[str, Any]:
        deadline = time.monotonic() + 30 * SCALE
        while time.monotonic() < deadline:
            for line in lines():
                if line.get("action") == action and fields.items() <= line.items():
                    return line
            time.sleep(0.02)
        raise AssertionError(f"no {action} in {log.read_text() if log.exists() else 'no file'}")

    write()
    daemon = subprocess.Popen(
        [sys.executable, "-m", "ha_scheduler.cli"], env={**os.environ, "DASK_CONFIG": str(config)}
    )
    try:
        pid = logged("engine_started")["message"].split()[-1]
        logged("engine_serving")
        assert any(line["process"] == "engine" for line in lines())
        # What the running engine writes goes through its daemon, and so to the new file.
        assert os.readlink(f"/proc/{pid}/fd/2").startswith("pipe:")
        log.rename(tmp_path / "log.1")
        write(priority=1, **{"tick-ms": 60})
        daemon.send_signal(signal.SIGHUP)
        assert "priority 2 → 1" in logged("settings_reloaded", process="peer")["message"]
        waiting = logged("restart_needed")["message"]
        assert "timing" in waiting
        write(priority=9)
        daemon.send_signal(signal.SIGHUP)
        assert "--priority 9 is out of range" in logged("reload_refused")["message"]
        assert daemon.poll() is None
        assert "peer_up" in (tmp_path / "log.1").read_text()
    finally:
        daemon.terminate()
        assert daemon.wait(30 * SCALE) == 0
