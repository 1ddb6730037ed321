"""A node gets its certificate for a token, once, and from nobody but a peer of the cell.

Method: one real peer with its enrolment port; the commands as an operator and a node give them.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ha_scheduler.cell.peers import parse_peers
from ha_scheduler.cli.main import main
from ha_scheduler.deploy.ports import free_ports
from ha_scheduler.protocol import frames
from ha_scheduler.protocol.enrolment import Authorities
from ha_scheduler.security.authority import (
    client_files,
    create_authority,
    ec_key,
    peer_files,
)
from ha_scheduler.security.certificate import fingerprint
from ha_scheduler.security.checks import check_files, subject_of
from ha_scheduler.security.contexts import web_context
from ha_scheduler.security.enrolment import Unfit, requested_key
from ha_scheduler.security.files import read_certificates
from ha_scheduler.security.tls import Role
from tests.certificates import Signer, odd
from tests.deadlines import SCALE


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)))


@dataclass
class Running:
    peers: str
    directory: Path
    enrolment: str
    fingerprint: str
    pid: int
    log: Path

    def token(self, path: Path, role: str = "join") -> Path:
        asked = ("--role", role, "--subject", "node-7", "--out", path)
        result = run("token", "issue", "--peers", self.peers, "--tls-dir", self.directory, *asked)
        assert result.exit_code == 0, result.output
        return path

    def join(self, node: Path, *more: object) -> Result:
        return run("cert", "join", "--peers", self.enrolment, "--dir", node, *more)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    base = tmp_path_factory.mktemp("enrolment")
    peer, dask, enrolment = free_ports("127.0.0.1", 3)
    peers, tls = f"a=127.0.0.1:{peer}/{dask}", base / "tls"
    create_authority(tls, parse_peers(peers))
    (tls / "peers-ca-key.pem").rename(base / "offline.pem")
    command = [
        *(sys.executable, "-m", "ha_scheduler.cli", "--peers", peers, "--no-dashboard"),
        *("--tls-dir", str(tls), "--data-dir", str(base / "data")),
        *("--enrolment-port", str(enrolment)),
    ]
    with (base / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=dict(os.environ))
    try:
        deadline = time.monotonic() + 60 * SCALE
        asked = ("status", "--peers", peers, "--tls-dir", tls, "--format", "json")
        while '"serving": true' not in run(*asked).output:
            assert time.monotonic() < deadline, (base / "log").read_text()
            time.sleep(0.1)
        authority = read_certificates(tls / "peers-ca.pem")[0]
        yield Running(
            peers,
            tls,
            f"127.0.0.1:{enrolment}",
            fingerprint(authority),
            process.pid,
            base / "log",
        )
    finally:
        process.kill()
        process.wait()


@pytest.mark.system
def test_a_token_gives_one_certificate_which_opens_the_cell_and_is_renewed(
    running: Running, tmp_path: Path
) -> None:
    node, token = tmp_path / "node", running.token(tmp_path / "token")
    joined = ("--ca-fingerprint", running.fingerprint, "--token-file", token)
    result = running.join(node, *joined)
    assert result.exit_code == 0, result.output
    files = client_files(node)
    check_files(files, role=Role.CLIENT, name="node-7")
    assert (node / "dask.yaml").exists()
    status = run("status", "--peers", running.peers, "--tls-dir", node)
    assert "leader" in status.output

    again = running.join(tmp_path / "other", *joined)
    assert again.exit_code == 1
    assert "revoked" in again.output
    assert not client_files(tmp_path / "other").cert_file.exists()

    before = read_certificates(files.cert_file)[0]
    renewed = running.join(node)
    assert renewed.exit_code == 0, renewed.output
    after = read_certificates(files.cert_file)[0]
    assert after.serial_number != before.serial_number
    assert after.public_key() == before.public_key()
    assert subject_of(files.cert_file).name == "node-7"


@pytest.mark.system
def test_a_token_for_something_else_gives_none(running: Running, tmp_path: Path) -> None:
    token = running.token(tmp_path / "token", role="client")
    joined = ("--ca-fingerprint", running.fingerprint, "--token-file", token)
    result = running.join(tmp_path / "node", *joined)
    assert result.exit_code == 1
    assert "it is one of client" in result.output


@pytest.mark.system
def test_a_daemon_looks_at_renewed_certificates_when_it_is_told_to(running: Running) -> None:
    own = peer_files(running.directory, "a")
    by, subject = load_offline(running), [("OU", "peer"), ("CN", "a")]
    odd(running.directory, "peer-a", subject, by, valid=(-timedelta(days=1), timedelta(days=5)))
    os.kill(running.pid, signal.SIGHUP)
    deadline = time.monotonic() + 20 * SCALE
    while not all(
        words in running.log.read_text()
        for words in (
            f"made with the renewed {own.cert_file}",
            "looked at the certificates again: all can be used",
            "peer-a.pem expires in 4 days",
        )
    ):
        assert time.monotonic() < deadline, running.log.read_text()
        time.sleep(0.05)
    status = run("status", "--peers", running.peers, "--tls-dir", running.directory)
    assert "peer-a.pem expires in 4 days" in status.output


def load_offline(running: Running) -> Signer:
    """The peers' authority, whose key is kept elsewhere."""
    certificate = read_certificates(running.directory / "peers-ca.pem")[0]
    return certificate, ec_key(running.directory.parent / "offline.pem")


def test_who_has_another_authority_never_sees_the_token(tmp_path: Path) -> None:
    """An impostor answers with its own authority, and with that of the cell, which it has read."""
    create_authority(tmp_path / "own", parse_peers("a=127.0.0.1"))
    create_authority(tmp_path / "impostor", parse_peers("a=127.0.0.1"))
    (tmp_path / "token").write_text("the token")
    (tmp_path / "token").chmod(0o600)
    wanted = fingerprint(read_certificates(tmp_path / "own" / "peers-ca.pem")[0])
    context = web_context(client_files(tmp_path / "impostor"))
    for shown in ("impostor", "own"):
        heard = bytearray()
        listening = socket.create_server(("127.0.0.1", 0))
        answer = frames.pack(Authorities((tmp_path / shown / "ca.pem").read_bytes()))

        def serve(
            listening: socket.socket = listening, heard: bytearray = heard, said: bytes = answer
        ) -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                    with context.wrap_socket(connection, server_side=True) as link:
                        heard.extend(link.recv(10_000))
                        link.sendall(said)
                except OSError:
                    if listening.fileno() < 0:
                        return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        result = run(
            *("cert", "join", "--peers", f"127.0.0.1:{listening.getsockname()[1]}"),
            *("--dir", tmp_path / f"node-{shown}", "--ca-fingerprint", wanted),
            *("--token-file", tmp_path / "token"),
        )
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join(10)
        assert result.exit_code != 0
        assert heard
        assert b"the token" not in heard


def test_what_is_no_request_is_refused() -> None:
    for said in (b"", b"hello", b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n"):
        with pytest.raises(Unfit):
            requested_key(said)
