"""What the preamble adds to setting up a connection between two processes of Dask.

    python -m benchmarks.connections --rounds 20

Connections over TLS on loopback, each made, agreed on by distributed's handshake and dropped: with
upstream's transport on both sides, and with ours on both, by turns. One process has both sides, so
a time has the work of both in it. The CPU time is that of the process; unlike the other it does not
depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import time
from typing import Any

from distributed.comm import Comm, connect, listen, tcp
from distributed.comm.registry import backends
from distributed.security import Security

from ha_scheduler.comm.preamble import TLSBackend, peer_introduction

BACKENDS = {"upstream": tcp.TLSBackend(), "with the preamble": TLSBackend()}
CONNECTIONS = 50  # in a row, on one listener


async def hold(comm: Comm) -> None:
    """Keep a connection until its caller has dropped it."""
    with contextlib.suppress(OSError):
        await comm.read()
    comm.abort()


async def set_up(security: Security, backend: tcp.TLSBackend) -> tuple[list[float], float]:
    """Seconds that each of ``CONNECTIONS`` took, and seconds of CPU for one."""
    backends["tls"] = backend
    arguments: dict[str, Any] = security.get_connection_args("client")
    taken = []
    async with listen("tls://127.0.0.1:0", hold, **security.get_listen_args("scheduler")) as server:
        cpu = time.process_time()
        for _ in range(CONNECTIONS):
            began = time.perf_counter()
            comm = await connect(server.contact_address, timeout=5, **arguments)
            taken.append(time.perf_counter() - began)
            assert (peer_introduction(comm) is not None) is isinstance(backend, TLSBackend)
            comm.abort()
        return taken, (time.process_time() - cpu) / CONNECTIONS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    security = Security.temporary()
    figures: dict[str, list[tuple[float, float]]] = {name: [] for name in BACKENDS}
    for _ in range(options.rounds):
        for name, backend in BACKENDS.items():
            each, cpu = asyncio.run(set_up(security, backend))
            figures[name].append((statistics.median(each), cpu))
    medians = []
    for name, rows in figures.items():
        taken, cpu = (statistics.median(column) for column in zip(*rows, strict=True))
        print(f"{name:>18}: {taken * 1e3:.2f} ms, {cpu * 1e3:.2f} ms of CPU")
        medians.append((taken, cpu))
    before, after = medians
    print(f"{'ratio':>18}: {after[0] / before[0]:.2f}, of CPU {after[1] / before[1]:.2f}")


if __name__ == "__main__":
    main()
