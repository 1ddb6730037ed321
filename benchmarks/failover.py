"""Kill leaders and measure: kill → new leader → workers back → first task finished.

    python -m benchmarks.failover --tasks 10000 --kills 20 --what engine

A three-peer cell with TLS and two workers on loopback works on ``--tasks`` live tasks while the
leading engine (``--what engine``) or the whole leading peer (``--what peer``) gets ``kill -9``,
again and again. Each time the cell first gets all its engines ready again. All processes share one
clock, so the times of the new leader's history are compared with the time of the kill.

``--held N`` has workers keep N finished results besides, and ``--tree N`` a tree of N tasks that
are all done but the last: the leader has to hear of each before it may decide anything.

It ends with what was executed more than once, which futures were lost, and which results are wrong:
all must be 0, or the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import operator
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from distributed import wait

from benchmarks.counting import counted_sleep, verdict
from benchmarks.figures import print_percentiles, print_phases, print_verdict, succeeded
from ha_scheduler import LocalHACluster
from ha_scheduler.protocol.control import EngineStatus

READY_TIMEOUT_S = 180.0  # a fresh engine replays a graph of 100,000 tasks in some 15 s
SETTLED_POLLS = 5
BATCH = 20_000  # tasks of a graph whose results are held
ENGINE_READY = ("ready", "active")
PHASES = ("detected", "elected", "serving", "workers_back", "clients_back", "first_task")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=10_000, help="live tasks at each kill")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--what", choices=("engine", "peer"), default="engine")
    parser.add_argument("--seconds", type=float, default=0.05, help="what one task takes")
    parser.add_argument("--held", type=int, default=0, help="finished results in memory")
    parser.add_argument("--tree", type=int, default=0, help="tasks of a tree, done but the last")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    return parser.parse_args()


def wait_until_ready(cluster: LocalHACluster) -> None:
    """All peers run and have an engine that may be activated."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    settled = 0
    while time.monotonic() < deadline:
        states = [cluster.cell.control.status(peer.name) for peer in cluster.peers]  # type: ignore[union-attr]
        # A moment is not enough: what has just committed may not have reached the followers yet.
        settled = settled + 1 if all(_is_ready(state.engine) for state in states) else 0
        if settled >= SETTLED_POLLS:
            return
        time.sleep(0.2)
    raise TimeoutError(f"engines are not ready after {READY_TIMEOUT_S:.0f} s: {states}")


def _is_ready(engine: EngineStatus) -> bool:
    return engine.state in ENGINE_READY and engine.lag_s < 0.5


def kill_once(cluster: LocalHACluster, what: str) -> dict[str, float]:
    """One failover: seconds from the kill to each phase."""
    leader = cluster.leader
    before = cluster.history()[-1]["term"]
    killed = time.time()
    if what == "engine":
        leader.kill_engine()
    else:
        leader.kill()
    entry = _next_entry(cluster, before)
    if what == "peer":
        leader.restart()
    return {phase: entry["started"] + after - killed for phase, after in entry["phases"].items()}


def _next_entry(cluster: LocalHACluster, before: int) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        entries = [entry for entry in cluster.history() if entry["term"] > before]
        done = [entry for entry in entries if "first_task" in entry["phases"]]
        if done:
            return dict(done[-1])
        time.sleep(0.05)
    raise TimeoutError(f"no task finished within 60 s of the kill: {cluster.history()[-2:]}")


def measure(options: argparse.Namespace, directory: str) -> dict[str, Any]:
    with LocalHACluster(n_peers=3, n_workers=2) as cluster, cluster.get_client() as client:
        futures: list[Any] = []
        failovers = []
        kept = [*hold(client, options.held), *grow(client, options.tree)]
        for number in range(options.kills):
            wait_until_ready(cluster)
            top_up(client, futures, options, directory)
            wait_until_ready(cluster)
            phases = kill_once(cluster, options.what)
            failovers.append(phases)
            print_phases(number, PHASES, phases, sum(future.done() for future in futures))
        result = {"failovers": failovers, **verdict(client, futures, directory)}
        result["lost"] += sum(future.status in ("cancelled", "lost", "error") for future in kept)
        return result


def hold(client: Any, count: int) -> list[Any]:
    """Futures of ``count`` small results in the memory of workers."""
    futures: list[Any] = []
    for first in range(0, count, BATCH):
        futures += client.map(operator.neg, range(first, min(count, first + BATCH)), pure=False)
    wait(futures)
    return futures


def grow(client: Any, count: int) -> list[Any]:
    """A binary tree of ``count`` tasks, of which all but the root are done; the root is its future.

    The root keeps a worker for longer than any benchmark.
    """
    if not count:
        return []
    tree: dict[Any, Any] = {("leaf", i): (operator.neg, i) for i in range(count // 2)}
    level = list(tree)
    while len(level) > 1:
        odd, level = level[len(level) & ~1 :], list(zip(level[::2], level[1::2], strict=False))
        level = [_joined(tree, *pair) for pair in level] + odd
    tree["root"] = (_sleep, level[0])
    (root,) = client.get(tree, ["root"], sync=False)
    while client.run_on_scheduler(_unfinished) > 1:
        time.sleep(0.2)
    return [root]


def _joined(tree: dict[Any, Any], left: Any, right: Any) -> Any:
    key = ("node", len(tree))
    tree[key] = (operator.add, left, right)
    return key


def _sleep(_: Any) -> None:
    time.sleep(86_400)


def _unfinished(dask_scheduler: Any) -> int:
    states = ("waiting", "processing", "queued", "no-worker")
    return sum(ts.state in states for ts in dask_scheduler.tasks.values())


def top_up(client: Any, futures: list[Any], options: argparse.Namespace, directory: str) -> None:
    """Submit until ``--tasks`` tasks are live, and wait until that is in the log."""
    live = sum(not future.done() for future in futures)
    numbers = range(len(futures), len(futures) + options.tasks - live)
    futures += client.map(
        counted_sleep, numbers, directory=directory, seconds=options.seconds, pure=False
    )
    wait(futures[:4])
    _wait_until_committed(client)


def _wait_until_committed(client: Any) -> None:
    """The graph is in the log; what happens before is measured by ``benchmarks.in_flight``."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    while len(client._ha.journal):
        if time.monotonic() > deadline:
            raise TimeoutError("the graph did not commit")
        time.sleep(0.05)


def report(options: argparse.Namespace, result: dict[str, Any]) -> None:
    print(f"\n{options.what} kill -9, {options.tasks} live tasks, {options.kills} kills; ms")
    print_percentiles("kill", PHASES, result["failovers"])
    print_verdict(result)


def main() -> int:
    options = arguments()
    with tempfile.TemporaryDirectory() as directory:
        result = measure(options, directory)
    report(options, result)
    if options.json:
        options.json.write_text(json.dumps(result))
    return 0 if succeeded(result) else 1


if __name__ == "__main__":
    sys.exit(main())
