"""Wrong certificates at every port of a real cell.

Method: one peer with its engine, and a worker under a nanny, as their commands start them. At each
port where they listen, callers with certificates of every wrong kind shake hands, introduce
themselves and wait for a byte. The handshake of TLS 1.3 is over for the caller before the server
has looked at its certificate, so only a byte of the server's says that it was let in.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from ha_scheduler.cell.peers import parse_peers
from ha_scheduler.cell.tls_files import TlsFiles
from ha_scheduler.comm.preamble import ALPN
from ha_scheduler.deploy.ports import free_ports
from ha_scheduler.protocol import frames
from ha_scheduler.protocol.introduction import Kind, introduce
from ha_scheduler.security.authority import (
    ISSUING,
    PEERS,
    client_files,
    create_authority,
    engine_files,
    load,
    peer_files,
)
from tests.certificates import odd
from tests.deadlines import SCALE

pytestmark = pytest.mark.system

PORTS = ("peer", "engine", "worker", "nanny")
_STARTED = re.compile(r"Start (Nanny|worker) at: *'?tls://127\.0\.0\.1:(\d+)")
DAY = timedelta(days=1)


@dataclass
class Running:
    directory: Path
    cell: str
    ports: dict[str, int]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    base = tmp_path_factory.mktemp("ports")
    tls, (peer, dask) = base / "tls", free_ports("127.0.0.1", 2)
    peers = f"a=127.0.0.1:{peer}/{dask}"
    cell = parse_peers(peers)
    create_authority(tls, cell)
    commands = [
        [
            *("-m", "ha_scheduler.cli", "--peers", peers, "--no-dashboard"),
            *("--tls-dir", str(tls), "--data-dir", str(base / "data")),
        ],
        [
            *("-m", "distributed.cli.dask_worker", cell.client_address, "--no-dashboard"),
            *("--host", "127.0.0.1", "--nthreads", "1"),
        ],
    ]
    environment = {**os.environ, "DASK_CONFIG": str(tls / "dask.yaml")}
    with contextlib.ExitStack() as stack, (base / "log").open("wb") as log:
        for command in commands:
            process = subprocess.Popen(
                [sys.executable, *command], env=environment, stdout=log, stderr=log, cwd=base
            )
            stack.callback(process.wait)
            stack.callback(process.terminate)
        ports = {"peer": peer, "engine": dask, **_of_the_worker(base / "log")}
        yield Running(tls, cell.identity, ports)


def _of_the_worker(log: Path) -> dict[str, int]:
    """Where the nanny and its worker listen, by what they say; each serves HTTP somewhere else."""
    deadline = time.monotonic() + 60 * SCALE
    while time.monotonic() < deadline:
        said = log.read_text()
        found = {name.lower(): int(number) for name, number in _STARTED.findall(said)}
        if len(found) == 2 and "Registered to" in said:
            return found
        time.sleep(0.1)
    raise AssertionError(log.read_text())


def context_of(files: TlsFiles | None, newest: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """Of a caller that takes any server."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    made.set_alpn_protocols([ALPN])
    if newest is not None:
        made.maximum_version = newest
    if files is not None:
        made.load_cert_chain(files.cert_file, files.key_file)
    return made


def said(
    running: Running, port: str, context: ssl.SSLContext, session: ssl.SSLSession | None = None
) -> tuple[bytes, ssl.SSLSession | None, bool]:
    """What the server answers, empty if it hangs up; the session, and whether it was resumed."""
    number = running.ports[port]
    kind = Kind.CONTROL if port == "peer" else Kind.CLIENT
    cell = running.cell if port == "peer" else ""
    with socket.create_connection(("127.0.0.1", number), 10 * SCALE) as plain:
        try:
            with context.wrap_socket(plain, session=session) as link:
                link.sendall(frames.pack(introduce(kind, cell)))
                return link.recv(1000), link.session, bool(link.session_reused)
        except OSError:
            return b"", None, False


@pytest.mark.parametrize("port", PORTS)
def test_who_has_a_certificate_for_it_is_answered(running: Running, port: str) -> None:
    assert said(running, port, context_of(client_files(running.directory)))[0]


@pytest.mark.parametrize("port", PORTS)
def test_no_wrong_certificate_is_answered(running: Running, port: str, tmp_path: Path) -> None:
    own = running.directory
    create_authority(tmp_path, parse_peers("a=127.0.0.1:1/2"))
    client, peer = [("OU", "client"), ("CN", "client")], [("OU", "peer"), ("CN", "a")]
    issuing, peers = load(own, ISSUING), load(own, PEERS)
    wrong = {
        "none": None,
        "of another cell": client_files(tmp_path),
        "of another cell's peer of that name": peer_files(tmp_path, "a"),
        "expired": odd(tmp_path, "expired", client, issuing, valid=(-2 * DAY, -DAY)),
        "not yet valid": odd(tmp_path, "future", client, issuing, valid=(DAY, 2 * DAY)),
        "an expired peer's": odd(tmp_path, "old", peer, peers, valid=(-2 * DAY, -DAY)),
        "a peer's by the issuing authority": odd(tmp_path, "forged", peer, issuing),
        "a client's by the peers' authority": odd(tmp_path, "mixed", client, peers),
        "of a role that there is not": odd(tmp_path, "root", [("OU", "root")], issuing),
    }
    let_in = [who for who, files in wrong.items() if said(running, port, context_of(files))[0]]
    assert let_in == []


@pytest.mark.parametrize("port", PORTS)
def test_tls_1_2_is_not_answered(running: Running, port: str) -> None:
    context = context_of(client_files(running.directory), ssl.TLSVersion.TLSv1_2)
    assert said(running, port, context)[0] == b""


@pytest.mark.parametrize("port", PORTS)
def test_no_session_is_resumed(running: Running, port: str) -> None:
    context = context_of(client_files(running.directory))
    answer, session, _ = said(running, port, context)
    assert answer
    assert session is None or not session.has_ticket
    answer, _, resumed = said(running, port, context, session)
    assert answer
    assert not resumed


def test_an_engines_certificate_opens_nothing_on_a_peer_port(running: Running) -> None:
    answer, _, _ = said(running, "peer", context_of(engine_files(running.directory, "a")))
    assert b"opens nothing on the peer port" in answer
