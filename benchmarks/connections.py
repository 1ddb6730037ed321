"""What the preamble, and a token in it, add to setting up a connection between processes of Dask.

    python -m benchmarks.connections --rounds 20

Connections over TLS on loopback, each made, agreed on by distributed's handshake and dropped: with
upstream's transport on both sides, with ours on both, and with ours at a server of a cell, which
verifies a token, by turns. One process has both sides, so a time has the work of both in it. The
CPU time is that of the process; unlike the other it does not depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from distributed.comm import Comm, connect, listen, tcp
from distributed.comm.registry import backends
from distributed.security import Security

from ha_scheduler.cell.peers import parse_peers
from ha_scheduler.comm.callers import Callers
from ha_scheduler.comm.preamble import TLSBackend
from ha_scheduler.protocol.ring import Ring
from ha_scheduler.security.authority import client_files, engine_files, ensure_certificates
from ha_scheduler.security.identity import TokenRole
from ha_scheduler.security.key_ring import KeyRing, raw
from ha_scheduler.security.token import Claims, issue, read

CONNECTIONS = 50  # in a row, on one listener
VERIFICATIONS = 500
CELL_ID = "1" * 32
KEY = Ed25519PrivateKey.generate()
RING = Ring(CELL_ID, version=1, keys=(raw(KEY.public_key()),))


class Server:
    """Keeps a connection until its caller has dropped it."""

    def __init__(self, *, asks: bool) -> None:
        """``asks``: for a token, as a server of a cell."""
        self.serves_a_cell = asks
        self._comms: dict[Comm, str] = {}
        self.callers = Callers(self)
        if asks:
            self.callers.take(RING)

    async def hold(self, comm: Comm) -> None:
        with contextlib.suppress(OSError):
            await comm.read()
        comm.abort()


VARIANTS: dict[str, tuple[tcp.TLSBackend, bool]] = {
    "upstream": (tcp.TLSBackend(), False),
    "with the preamble": (TLSBackend(), False),
    "with a token": (TLSBackend(), True),
}


def certificates(directory: Path) -> tuple[Security, Security]:
    """Of a server and of a caller, with a token beside that of the latter."""
    ensure_certificates(directory, parse_peers("a=127.0.0.1:8785", any_count=True))
    now = int(time.time())
    claims = Claims(CELL_ID, "alice", TokenRole.CLIENT, "a" * 32, now, now + 3600)
    (directory / "client.token").write_text(issue(claims, KEY))
    pairs = []
    for files in (engine_files(directory, "a"), client_files(directory)):
        ca, cert, key = map(str, (files.ca_file, files.cert_file, files.key_file))
        pairs.append(
            Security(
                require_encryption=True,
                tls_ca_file=ca,
                tls_scheduler_cert=cert,
                tls_scheduler_key=key,
                tls_client_cert=cert,
                tls_client_key=key,
            )
        )
    return pairs[0], pairs[1]


async def set_up(
    server: Security, caller: Security, backend: tcp.TLSBackend, *, asks: bool
) -> tuple[list[float], float]:
    """Seconds that each of ``CONNECTIONS`` took, and seconds of CPU for one."""
    backends["tls"] = backend
    arguments: dict[str, Any] = caller.get_connection_args("client")
    taken, holder = [], Server(asks=asks)
    options = server.get_listen_args("scheduler")
    async with listen("tls://127.0.0.1:0", holder.hold, **options) as listener:
        cpu = time.process_time()
        for _ in range(CONNECTIONS):
            began = time.perf_counter()
            comm = await connect(listener.contact_address, timeout=5, **arguments)
            taken.append(time.perf_counter() - began)
            comm.abort()
        return taken, (time.process_time() - cpu) / CONNECTIONS


def verification(directory: Path) -> float:
    """Seconds of CPU for one."""
    token, ring = (directory / "client.token").read_bytes(), KeyRing(RING)
    began = time.process_time()
    for _ in range(VERIFICATIONS):
        read(token, ring, now=time.time())
    return (time.process_time() - began) / VERIFICATIONS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    figures: dict[str, list[tuple[float, float]]] = {name: [] for name in VARIANTS}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        server, caller = certificates(directory)
        for _ in range(options.rounds):
            for name, (backend, asks) in VARIANTS.items():
                each, cpu = asyncio.run(set_up(server, caller, backend, asks=asks))
                figures[name].append((statistics.median(each), cpu))
        verified = verification(directory)
    before = None
    for name, rows in figures.items():
        taken, cpu = (statistics.median(column) for column in zip(*rows, strict=True))
        before = before or (taken, cpu)
        print(
            f"{name:>18}: {taken * 1e3:.2f} ms, {cpu * 1e3:.2f} ms of CPU; "
            f"ratio {taken / before[0]:.2f}, of CPU {cpu / before[1]:.2f}"
        )
    print(f"{'one verification':>18}: {verified * 1e6:.0f} us of CPU")


if __name__ == "__main__":
    main()
