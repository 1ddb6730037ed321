"""What a call of a durable coordination object costs, against the disk and against plain Dask.

    python -m benchmarks.coordination --directory /a/directory/on/the/disk

Five things take turns, a few calls each, so that a slow moment of the machine hits all of them:

- *disk*: one process appends a record's bytes and calls ``fdatasync``;
- *plain*: upstream's scheduler, which keeps everything in memory alone;
- *engine*: the engine by itself: it numbers and records each call, and what it records commits at
  once, so this is what the calls cost without consensus and without a disk;
- *commit*: one record through three daemons, from the proposal of the leader's engine until it
  knows of the commit: consensus and disks without scheduler and client;
- *cell*: three peers, each a daemon and an engine, and the client's calls as a user makes them.

Whatever talks over loopback does so with TLS. A latency is that of one synchronous call in the
calling thread; one call is under way at a time. CPU is that of one process for one call.
``Queue.qsize`` changes nothing and is there to show what a call costs that no disk has to take.
Target: a durable call within three times an ``fdatasync``, both at the median.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from distributed import Client, Lock, Queue, Variable
from distributed.security import Security

import client_replay
from benchmarks.figures import percentile
from benchmarks.load_cell import LoadCell
from benchmarks.plain import HOST, PlainCluster
from ha_scheduler import LocalHACluster
from ha_scheduler.cell.peers import Cell
from ha_scheduler.deploy.ports import free_ports
from ha_scheduler.protocol.peer import PeerAddress
from ha_scheduler.security.authority import client_files, ensure_certificates

RECORD_BYTES = 200  # of a coordination record, about
WARM_UP_CALLS = 20
COMMITS_S = 60.0  # far above what a round of them takes
NAMES = 1000  # of the values that the bare commits replace in turn
TITLES = ("", "", "min ms", "p50 ms", "p99 ms", "p50 / fdatasync", "p50 / plain")
CPU_TITLES = ("client", "engine", "daemon, leader", "daemon, follower")

#: One call of a coordination object
Call = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Lane:
    """One of the things that take turns: its calls by name, and whose CPU they take."""

    name: str
    calls: dict[str, Call]
    pids: Callable[[], dict[str, int]]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, help="on the disk to measure; default: TMPDIR")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--calls", type=int, default=50, help="of each kind, in a round")
    return parser.parse_args()


def calls_of(client: Any) -> dict[str, Call]:
    """What is measured. The lock's two calls follow each other, so a round leaves it free."""
    lock = Lock("lock", scheduler_rpc=client.scheduler, loop=client.loop)
    queue, variable = Queue("queue", client=client), Variable("variable", client=client)
    return {
        "Lock.acquire": lock.acquire,
        "Lock.release": lock.release,
        "Queue.put": lambda: queue.put(1),
        "Queue.qsize": queue.qsize,
        "Variable.set": lambda: variable.set(1),
    }


# -- the lanes


@contextlib.contextmanager
def plain_lane() -> Iterator[Lane]:
    with (
        PlainCluster(n_workers=0) as cluster,
        Client(cluster.address, security=cluster.security, set_as_default=False) as client,
    ):
        yield Lane("plain", calls_of(client), lambda: {"engine": cluster.scheduler_pid})


@contextlib.contextmanager
def engine_lane() -> Iterator[Lane]:
    """``python -m tests.standalone``."""
    with tempfile.TemporaryDirectory(prefix="lone-engine-") as directory:
        (port,) = free_ports(HOST, 1)
        ensure_certificates(Path(directory), Cell((PeerAddress("a", HOST, 8785, 8786),)))
        files = client_files(Path(directory))
        engine = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.standalone"),
                *(f"--port={port}", f"--tls-ca-file={files.ca_file}", "--log-level=warning"),
                *(f"--tls-cert={files.cert_file}", f"--tls-key={files.key_file}"),
            ],
            stderr=subprocess.DEVNULL,
        )
        security = Security(
            require_encryption=True,
            tls_ca_file=str(files.ca_file),
            tls_client_cert=str(files.cert_file),
            tls_client_key=str(files.key_file),
        )
        try:
            with client_replay.Client(
                f"tls://{HOST}:{port}", security=security, set_as_default=False
            ) as client:
                yield Lane("engine", calls_of(client), lambda: {"engine": engine.pid})
        finally:
            engine.kill()
            engine.wait()


@contextlib.contextmanager
def cell_lane(under: Path | None) -> Iterator[Lane]:
    with (
        tempfile.TemporaryDirectory(prefix="coordination-", dir=under) as directory,
        LocalHACluster(n_peers=3, n_workers=0, data_dir=directory) as cluster,
        cluster.get_client() as client,
    ):

        def pids() -> dict[str, int]:
            leader = cluster.leader
            follower = next(peer for peer in cluster.peers if peer.name != leader.name)
            return {
                "engine": leader.engine_pid or 0,
                "daemon, leader": leader.pid or 0,
                "daemon, follower": follower.pid or 0,
            }

        yield Lane("cell", calls_of(client), pids)


# -- measuring


class Figures:
    """Seconds of every call, and of CPU a call, by (lane, call)."""

    def __init__(self) -> None:
        self.seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
        self.cpu: dict[tuple[str, str], list[float]] = defaultdict(list)

    def median(self, lane: str, call: str) -> float:
        return percentile(self.seconds[lane, call], 0.5)


def raw_syncs(under: Path | None, count: int) -> list[float]:
    """Seconds of each append of a record and its ``fdatasync``."""
    data, took = os.urandom(RECORD_BYTES), []
    with tempfile.TemporaryFile(dir=under) as file:
        for _ in range(count):
            began = time.perf_counter()
            os.write(file.fileno(), data)
            os.fdatasync(file.fileno())
            took.append(time.perf_counter() - began)
    return took


def cpu_seconds(pids: dict[str, int]) -> dict[str, float]:
    times = {who: psutil.Process(pid).cpu_times() for who, pid in pids.items()}
    own = time.process_time()
    return {"client": own, **{who: t.user + t.system for who, t in times.items()}}


def run_lane(lane: Lane, figures: Figures, count: int) -> None:
    pids = lane.pids()
    before = cpu_seconds(pids)
    for _ in range(count):
        for name, call in lane.calls.items():
            began = time.perf_counter()
            call()
            figures.seconds[lane.name, name].append(time.perf_counter() - began)
    for who, now in cpu_seconds(pids).items():
        figures.cpu[lane.name, who].append((now - before[who]) / count / len(lane.calls))


def run_commits(cell: LoadCell, figures: Figures, count: int) -> None:
    result = cell.load(
        size=RECORD_BYTES,
        outstanding=1,
        count=count,
        seconds=COMMITS_S,
        least=count,
        names=NAMES,
        each=True,
    )
    figures.seconds["commit", ""] += result["latencies"]
    for who in ("engine", "leader", "follower"):
        title = who if who == "engine" else f"daemon, {who}"
        figures.cpu["commit", title].append(result[f"{who}_cpu"] / result["payloads"])


def measure(options: argparse.Namespace) -> Figures:
    figures, under = Figures(), options.directory
    with (
        plain_lane() as plain,
        engine_lane() as engine,
        LoadCell(under) as commits,
        cell_lane(under) as cell,
    ):
        for lane in (plain, engine, cell):
            run_lane(lane, Figures(), WARM_UP_CALLS)
        run_commits(commits, Figures(), WARM_UP_CALLS)
        for number in range(options.rounds):
            figures.seconds["disk", ""] += raw_syncs(under, options.calls)
            run_lane(plain, figures, options.calls)
            run_lane(engine, figures, options.calls)
            run_commits(commits, figures, options.calls)
            run_lane(cell, figures, options.calls)
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
    return figures


# -- reporting


def report(figures: Figures) -> None:
    sync = figures.median("disk", "")
    print("| " + " | ".join(TITLES) + " |")
    print("|" + "---|" * len(TITLES))
    names = list(dict.fromkeys(name for _, name in figures.seconds))
    for name in names:
        for lane in dict.fromkeys(lane for lane, call in figures.seconds if call == name):
            report_row(figures, lane, name, sync)
    print("\n| CPU of a call, µs | " + " | ".join(CPU_TITLES) + " |")
    print("|" + "---|" * (1 + len(CPU_TITLES)))
    for lane in dict.fromkeys(lane for lane, _ in figures.cpu):
        cells = (figures.cpu.get((lane, who)) for who in CPU_TITLES)
        row = (f"{statistics.fmean(cell) * 1e6:,.0f}" if cell else "" for cell in cells)
        print(f"| {lane} | " + " | ".join(row) + " |")


def report_row(figures: Figures, lane: str, name: str, sync: float) -> None:
    seconds = figures.seconds[lane, name]
    median = percentile(seconds, 0.5)
    title = {"disk": f"{RECORD_BYTES} B and `fdatasync`", "commit": "one record"}.get(lane, name)
    times = (min(seconds), median, percentile(seconds, 0.99))
    against = ""
    if (plain := figures.seconds.get(("plain", name))) and lane != "plain":
        against = f"{median / percentile(plain, 0.5):.1f}"
    print(f"| {title} | {lane} | " + " | ".join(f"{s * 1e3:.2f}" for s in times), end="")
    print(f" | {median / sync:.1f} | {against} |")


def main() -> int:
    report(measure(arguments()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
