"""What a flood of connections costs: of a computation that runs, of memory, of CPU.

    python -m benchmarks.flood [--half-open 10000] [--idle 4000]

A cell of three peers and two workers computes tasks, one after the other, while callers from
several addresses of loopback hold connections open to a port of the leading peer. First
``--half-open`` of them say nothing, or one byte; then ``--idle`` introduce themselves at the peer
port as watchers, and stay. Callers that the port hangs up on come again.
"""

from __future__ import annotations

import argparse
import asyncio
import selectors
import socket
import statistics
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import psutil

from benchmarks.failover import wait_until_ready
from ha_scheduler import LocalHACluster
from ha_scheduler.gate.admission import Limits
from ha_scheduler.gate.nofile import raise_limit
from ha_scheduler.protocol import frames
from ha_scheduler.protocol.introduction import Kind, introduce
from ha_scheduler.security.contexts import client_context

ADDRESSES = 50  # that the flood comes from
AT_ONCE = Limits().handshakes // 2  # more than the gate begins would wait there
QUIET_S = 8.0
FLOOD_S = 12.0


def square(x: int) -> int:
    return x * x


class Tasks:
    """Submits a task and waits for it, over and over; how long each took."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._over = threading.Event()
        self.took: list[float] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        number = 0
        while not self._over.is_set():
            started = time.perf_counter()
            self._client.submit(square, number, pure=False).result(timeout=120)
            self.took.append(time.perf_counter() - started)
            number += 1
            time.sleep(0.01)

    def take(self) -> list[float]:
        took, self.took = self.took, []
        return took

    def stop(self) -> None:
        self._over.set()
        self._thread.join()


@contextmanager
def half_open(count: int, to: tuple[str, int], said: bytes = b"") -> Iterator[Callable[[], int]]:
    """Hold so many connections that say ``said`` and no more; returns how many have been made."""
    selector = selectors.DefaultSelector()
    over = threading.Event()
    made = [0]

    def call() -> None:
        caller = socket.socket()
        caller.setblocking(False)
        caller.bind((f"127.0.1.{made[0] % ADDRESSES + 1}", 0))
        caller.connect_ex(to)
        made[0] += 1
        selector.register(caller, selectors.EVENT_WRITE)

    def run() -> None:
        while not over.is_set():
            for _ in range(min(200, count - len(selector.get_map()))):
                call()
            for key, events in selector.select(0.05):
                caller = key.fileobj
                assert isinstance(caller, socket.socket)
                if events & selectors.EVENT_WRITE:
                    selector.modify(caller, selectors.EVENT_READ)
                    if said and not caller.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                        caller.send(said)
                else:  # it was hung up on
                    selector.unregister(caller)
                    caller.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield lambda: made[0]
    finally:
        over.set()
        thread.join()
        for key in list(selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        selector.close()


class Idle:
    """Connections of the peer port that are introduced and say nothing."""

    def __init__(self, to: tuple[str, int], files: Any) -> None:
        self._to = to
        self._context = client_context(files)
        self._held: list[asyncio.StreamWriter] = []

    async def hold(self, count: int) -> None:
        turn = asyncio.Semaphore(AT_ONCE)
        await asyncio.gather(*(self._call(number, turn) for number in range(count)))

    async def _call(self, number: int, turn: asyncio.Semaphore) -> None:
        source = (f"127.0.1.{number % ADDRESSES + 1}", 0)
        async with turn:
            reader, writer = await asyncio.open_connection(
                *self._to, ssl=self._context, local_addr=source
            )
            writer.write(frames.pack(introduce(Kind.WATCH)))
            await reader.readexactly(1)
            self._held.append(writer)

    async def let_go(self) -> None:
        for writer in self._held:
            writer.transport.abort()


@contextmanager
def idle(count: int, to: tuple[str, int], files: Any) -> Iterator[None]:
    """Hold so many connections, which are made ``AT_ONCE`` at a time."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def run(step: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(step, loop).result()

    callers = Idle(to, files)
    try:
        run(callers.hold(count))
        yield
    finally:
        run(callers.let_go())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def report(what: str, took: list[float], processes: dict[str, psutil.Process], cpu: float) -> None:
    memory = ", ".join(
        f"{name} {process.memory_info().rss >> 20} MB" for name, process in processes.items()
    )
    median, worst = statistics.median(took), max(took)
    print(
        f"{what}: {len(took)} tasks, median {median * 1e3:.1f} ms, 99% "
        f"{sorted(took)[int(len(took) * 0.99)] * 1e3:.1f} ms, worst {worst * 1e3:.1f} ms; "
        f"{memory}; CPU {cpu:.1f} s",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--half-open", type=int, default=10_000)
    parser.add_argument("--idle", type=int, default=4_000)
    options = parser.parse_args()
    raise_limit()
    with (
        LocalHACluster(n_peers=3, n_workers=2, nanny=False) as cluster,
        cluster.get_client() as client,
    ):
        wait_until_ready(cluster)
        cell = cluster.cell
        assert cell is not None
        leader = cluster.leader
        peer = cell.cell.peer(leader.name)
        engine_pid = leader.engine_pid
        assert engine_pid is not None
        processes = {"daemon": psutil.Process(leader.pid), "engine": psutil.Process(engine_pid)}
        tasks = Tasks(client)

        def watch(what: str, seconds: float) -> None:
            tasks.take()
            before = sum(sum(p.cpu_times()[:2]) for p in processes.values())
            time.sleep(seconds)
            spent = sum(sum(p.cpu_times()[:2]) for p in processes.values()) - before
            report(what, tasks.take(), processes, spent)

        watch("quiet", QUIET_S)
        ports = {
            "peer": peer.peer_port,
            "Dask": peer.dask_port,
            "HTTP": cell.dashboard_ports[leader.name],
        }
        for name, port in ports.items() if options.half_open else ():
            for said in (b"", b"\x16"):
                with half_open(options.half_open, (peer.host, port), said) as made:
                    watch(f"{options.half_open} half-open at {name}, {len(said)} bytes", FLOOD_S)
                    print(f"   {made()} were made", flush=True)
                watch("   afterwards", QUIET_S)
        with idle(options.idle, (peer.host, peer.peer_port), cell.client_tls):
            watch(f"{options.idle} idle at peer", FLOOD_S)
        watch("   afterwards", QUIET_S)
        tasks.stop()


if __name__ == "__main__":
    main()
