"""Secrets stay in their files: a cell with canaries, and all that it writes is searched for them.

Method: one peer of its own daemon and engine, real processes under TLS. The canaries are the bytes
of its private keys, tokens that it has made and a variable of the daemon's environment. Searched:
the arguments and the environment of every process, its logs, its status, and what is printed of
what holds them.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from ha_scheduler.cell.peers import parse_peers
from ha_scheduler.cli.main import main
from ha_scheduler.deploy.ports import free_ports
from ha_scheduler.errors import OperatorError
from ha_scheduler.security.authority import client_files, create_authority, peer_files
from ha_scheduler.security.contexts import server_context
from ha_scheduler.security.files import read_private_key
from tests.certificates import security_of
from tests.deadlines import SCALE

ENVIRONMENT = "canary-of-the-environment-5f1e"


def canaries(directory: Path) -> list[str]:
    """Of each private key a line, which is in nothing but that key; of each token its signature."""
    found = []
    for path in directory.rglob("*-key.pem"):
        lines = path.read_text().splitlines()
        found += [line for line in lines[1:-1] if len(line) > 40]
    assert len(found) >= 5
    tokens = [path.read_text().strip() for path in directory.rglob("*.token")]
    return [*found, *(token.rpartition(".")[2] for token in tokens), ENVIRONMENT]


def held(text: str, directory: Path) -> list[str]:
    return [canary for canary in canaries(directory) if canary in text]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "tls"


@pytest.fixture
def running(tmp_path: Path, directory: Path) -> Iterator[tuple[psutil.Process, Path, str]]:
    peer, dask = free_ports("127.0.0.1", 2)
    peers = f"a=127.0.0.1:{peer}/{dask}"
    create_authority(directory, parse_peers(peers))
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "ha_scheduler.cli", "--peers", peers, "--no-dashboard"),
                *("--tls-dir", str(directory), "--data-dir", str(tmp_path / "data")),
                *("--log-level", "debug"),
            ],
            env={**os.environ, "DASK_HA_TOKEN": ENVIRONMENT, "AWS_SECRET_ACCESS_KEY": ENVIRONMENT},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield psutil.Process(process.pid), log, peers
    finally:
        process.kill()
        process.wait()


@pytest.mark.system
def test_nothing_that_a_peer_writes_or_shows_has_a_secret(
    running: tuple[psutil.Process, Path, str], directory: Path
) -> None:
    daemon, log, peers = running

    def status() -> str:
        asked = ["status", "--peers", peers, "--tls-dir", str(directory), "--format", "json"]
        return CliRunner().invoke(main, asked).output

    deadline = time.monotonic() + 60 * SCALE
    while '"serving": true' not in status():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
    assert len(canaries(log.parent)) > len(canaries(directory)), "the data has a key that signs"
    assert list(directory.glob("*.token"))
    for process in daemon.children(recursive=True):
        assert held("\0".join(process.cmdline()), log.parent) == []
        if process.pid != daemon.pid and os.geteuid() == 0:
            environ = Path(f"/proc/{process.pid}/environ").read_bytes().decode(errors="replace")
            assert held(environ, log.parent) == []
    assert held("\0".join(daemon.cmdline()), log.parent) == []
    assert held(status(), log.parent) == []
    assert held(log.read_text(), log.parent) == []
    assert json.loads(status())["peers"][0]["certificates"]
    call_without_token(directory, int(peers.rpartition("/")[2]))
    audited = log.parent / "data" / "audit"
    while '"by":"engine"' not in (lines := read_all(audited)):
        assert time.monotonic() < deadline, lines
        time.sleep(0.1)
    assert held(lines, log.parent) == []


def call_without_token(directory: Path, port: int) -> None:
    """At the engine's port, as an unmodified client would."""
    files = client_files(directory)
    context = ssl.create_default_context(cafile=str(files.ca_file))
    context.check_hostname = False
    context.load_cert_chain(files.cert_file, files.key_file)
    with (
        socket.create_connection(("127.0.0.1", port)) as raw,
        context.wrap_socket(raw) as caller,
        contextlib.suppress(OSError),
    ):
        caller.settimeout(5)
        caller.recv(1)


def read_all(directory: Path) -> str:
    return "".join(path.read_text() for path in directory.rglob("*") if path.is_file())


def test_what_holds_secrets_does_not_print_them(tmp_path: Path) -> None:
    create_authority(tmp_path, parse_peers("a=127.0.0.1"))
    files = peer_files(tmp_path, "a")
    shown = [
        repr(files),
        repr(server_context(files)),
        str(vars(server_context(files))),
        repr(security_of(client_files(tmp_path))),
        repr(security_of(client_files(tmp_path)).get_connection_args("client")),
        repr(read_private_key(files.key_file)),
    ]
    assert held("\n".join(shown), tmp_path) == []


def test_an_error_about_a_key_does_not_print_it(tmp_path: Path) -> None:
    create_authority(tmp_path, parse_peers("a=127.0.0.1"))
    files = peer_files(tmp_path, "a")
    secret = canaries(tmp_path)
    broken = files.key_file.read_text().replace("PRIVATE", "PRIVAT")
    files.key_file.write_text(broken)
    for act in (lambda: read_private_key(files.key_file), lambda: server_context(files)):
        with pytest.raises(OperatorError) as caught:
            act()
        said = "".join(traceback.format_exception(caught.value))
        assert not any(canary in said for canary in secret)


def test_the_canaries_are_of_the_keys(tmp_path: Path) -> None:
    """The search could find them."""
    create_authority(tmp_path, parse_peers("a=127.0.0.1"))
    text = peer_files(tmp_path, "a").key_file.read_text()
    assert held(text, tmp_path)
    assert all(re.fullmatch(r"[\w+/=-]+", canary) for canary in canaries(tmp_path))
    assert base64.b64decode(canaries(tmp_path)[0] + "==")
