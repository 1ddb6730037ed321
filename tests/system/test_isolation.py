"""Code of a user in the engine of a real peer: what it reaches, says and proposes of the cell."""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ha_scheduler.confinement import landlock
from ha_scheduler.deploy.cell import LocalCell, is_serving
from ha_scheduler.errors import ControlError
from ha_scheduler.ledger.encoding import encode
from ha_scheduler.ledger.records import PeerNamed, Record
from ha_scheduler.protocol import frames
from ha_scheduler.protocol.engine import Serving
from ha_scheduler.protocol.introduction import Kind, introduce
from tests.system.conftest import new_cluster, wait_until

pytestmark = pytest.mark.system


def reach(directory: str, dask_scheduler: Any = None) -> dict[str, str]:
    """What a function of ``run_on_scheduler`` can get at. Runs in the engine."""
    import ctypes
    import mmap

    daemon, base = os.getppid(), Path(directory)
    tls, data = base / "certificates", base / "peer-a" / "data"

    def traced() -> None:
        if ctypes.CDLL(None).ptrace(16, daemon, 0, 0) < 0:
            raise PermissionError

    tries: dict[str, Callable[[], Any]] = {
        "key": lambda: (tls / "peer-a-key.pem").read_text(),
        "peers' authority": lambda: (tls / "peers-ca-key.pem").read_text(),
        "issuing authority": lambda: (tls / "issuing-ca-key.pem").read_text(),
        "ledger": lambda: (data / "data.mdb").read_bytes(),
        "ledger, changed": lambda: (data / "data.mdb").open("r+b"),
        "memory": lambda: os.open(f"/proc/{daemon}/mem", os.O_RDWR),
        "environment": lambda: Path(f"/proc/{daemon}/environ").read_bytes(),
        "root": lambda: Path(f"/proc/{daemon}/root{tls}/peer-a-key.pem").read_text(),
        "signal": lambda: os.kill(daemon, 0),
        "trace": traced,
        "lease": lambda: dask_scheduler.lease.extend(time.monotonic() + 3600),
        "lease, mapped": lambda: mmap.mmap(dask_scheduler.lease.fd, mmap.PAGESIZE),
        "secret": lambda: os.environ["AWS_SECRET_ACCESS_KEY"],
    }
    for descriptor in range(3, 64):
        tries[f"file {descriptor}"] = lambda n=descriptor: os.readlink(f"/proc/{daemon}/fd/{n}")
    found = {}
    for name, attempt in tries.items():
        try:
            found[name] = str(attempt())
        except (OSError, KeyError, TypeError):
            pass
    return found


def own_files(dask_scheduler: Any = None) -> tuple[str, str]:
    security = dask_scheduler.security
    return security.tls_scheduler_cert, security.tls_scheduler_key


def propose(record: Record, dask_scheduler: Any = None) -> None:
    """Once this has been answered."""
    log, data = dask_scheduler.recorder._log, encode(record)
    dask_scheduler.loop.call_later(0.1, log.propose, data, None)


def say_elsewhere(dask_scheduler: Any = None) -> None:
    elsewhere = Serving(dask_scheduler.term, "tls://203.0.113.66:666")
    dask_scheduler.loop.call_later(0.1, dask_scheduler.recorder._log.send, elsewhere)


GONE = PeerNamed(1, 2, "b", "10.0.0.2", 8785, 8786, False, "was removed by a client")
OVERSTEPS: dict[str, tuple[Callable[..., None], tuple[Any, ...]]] = {
    "a PeerNamed is a daemon's to write": (propose, (GONE,)),
    "said twice that it serves": (say_elsewhere, ()),
}


@pytest.mark.skipif(landlock.abi() < landlock.SIGNALS_ABI, reason="needs Linux 6.12")
def test_code_of_a_user_in_the_engine_gets_at_nothing_of_its_daemon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "in the environment of the daemon")
    with (
        new_cluster(n_peers=1, n_workers=1, nanny=False) as cluster,
        cluster.get_client() as client,
    ):
        (peer,), cell = cluster.peers, cluster.cell
        assert cell is not None
        assert cell.control.status("a").engine.isolation == "full"
        assert client.run_on_scheduler(reach, str(cluster.directory)) == {}
        cert, key = client.run_on_scheduler(own_files)
        assert "an engine opens nothing" in refused_at(cell.cell.peer("a").peer_port, cert, key)

        pid, term = peer.pid, cell.control.status("a").term
        for why, (overstep, arguments) in OVERSTEPS.items():
            engine = peer.engine_pid
            client.run_on_scheduler(overstep, *arguments)
            wait_until(lambda e=engine: peer.engine_pid not in (e, None), "it was replaced")
            wait_until(lambda: serves(cell), "the next one serves")
            assert why in peer.tail()
        assert client.submit(sum, [1, 2]).result() == 3
        status = cell.control.status("a")
        assert peer.pid == pid
        assert [member.name for member in status.members] == ["a"]
        assert term < status.term < term + 100
        assert status.address == f"tls://127.0.0.1:{cell.cell.peer('a').dask_port}"


def serves(cell: LocalCell) -> bool:
    try:
        return is_serving(cell.control.status("a"))
    except ControlError:
        return False


def refused_at(port: int, cert: str, key: str) -> str:
    """What the peer port answers to the holder of this pair."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(Path(cert).parent / "ca.pem")
    context.load_cert_chain(cert, key)
    with context.wrap_socket(socket.create_connection(("127.0.0.1", port), 10)) as link:
        link.sendall(frames.pack(introduce(Kind.CONTROL)))
        return link.recv(4096).decode(errors="replace")
