"""What a task costs the leading engine's scheduler: one process, no network, paired rounds.

    python -m benchmarks.per_task [--tasks 5000] [--rounds 15] [--profile map|submit]

Plain ``distributed.Scheduler`` and the engine's are in the same process, each with two workers and
a client that are stand-ins for their streams: what is sent to them is taken, and answered as a
worker would. Rounds alternate between the two, with the garbage of the round before collected;
what is compared is CPU time, pair by pair, so a slow moment of the machine is in both halves of a
pair. Phases: the graph is taken (``update_graph``), its tasks run, its keys are released. The log
commits 3 ms after it was asked, as a cell on loopback does. Two runs of it differ by some 2 %.

The records are encoded, as they are in a cell; what a daemon does with them is not in the figure.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import itertools
import logging
import operator
import os
import pstats
import statistics
import time
from collections.abc import Iterator
from typing import Any, ClassVar

import distributed
from dask._expr import LLGExpr
from dask._task_spec import Task
from distributed.protocol.serialize import Serialized, serialize, to_serialize

from ha_scheduler.engine.stream.recorder import OnCommit
from ha_scheduler.protocol.client import Hello
from ha_scheduler.protocol.codec import to_op
from tests import standalone

CLIENT = "Client-1"
WORKERS = [f"tcp://127.0.0.1:{port}" for port in (50_001, 50_002)]
COMMIT_S = 0.003
METRICS = {
    "bandwidth": {"total": 1e8, "workers": {}, "types": {}}, "task_counts": {}, "memory": 0,
    "spilled_bytes": {"memory": 0, "disk": 0}, "event_loop_interval": 0.02, "managed_bytes": 0,
    "digests_total_since_heartbeat": {}, "transfer": {},
}  # fmt: skip
WORKER = {
    "status": "running", "nthreads": 1, "now": 0.0, "resources": {}, "memory_limit": 1 << 34,
    "metrics": METRICS, "services": {}, "local_directory": "/", "versions": {}, "nanny": "",
    "extra": {}, "stimulus_id": "benchmark", "resolve_address": False,
}  # fmt: skip
PHASES = ("graph", "run", "release", "total")
Cost = dict[str, float]  # microseconds of CPU a task, by phase

_sequences = itertools.count(1)
_background: set[asyncio.Task[Any]] = set()


class CommitsSoon(standalone.ImmediateLog):
    """A log whose records commit as late as those of a cell on loopback."""

    def __init__(self) -> None:
        self.records = self.nbytes = 0

    def propose(self, data: bytes, on_commit: OnCommit | None) -> None:
        self.records += 1
        self.nbytes += len(data)
        if on_commit is not None:
            asyncio.get_running_loop().call_later(COMMIT_S, on_commit)


class Engine(standalone.Scheduler):
    async def start_unsafe(self) -> Any:
        self.log_ = CommitsSoon()
        self.prepare_to_lead(1, self.log_, lambda phase, detail: None)
        result = await super(standalone.Scheduler, self).start_unsafe()
        self.recover()
        return result


class Stream:
    """Stands for a connection and for its ``BatchedSend``: says what it is told to, keeps all."""

    name = peer_address = local_address = "tcp://benchmark"
    extra_info: ClassVar[dict[str, Any]] = {}

    def __init__(self, *says: Any) -> None:
        self._says = list(says)
        self.sent: list[dict[str, Any]] = []
        self.comm = self

    async def read(self) -> Any:
        if self._says:
            return self._says.pop(0)
        return await asyncio.Event().wait()

    async def write(self, msg: Any, serializers: Any = None, on_error: str = "message") -> int:
        return 0

    def send(self, *messages: dict[str, Any]) -> None:
        self.sent.extend(messages)

    def take(self) -> list[dict[str, Any]]:
        taken, self.sent = self.sent, []
        return taken

    def closed(self) -> bool:
        return False

    def abort(self) -> None: ...


class Subject:
    """A scheduler with its stand-ins."""

    def __init__(self, kind: type[Any]) -> None:
        self.numbered = kind is Engine
        self.scheduler = kind(
            host="127.0.0.1", port=0, dashboard=False, dashboard_address=None, validate=False
        )
        self.workers: dict[str, Stream] = {}

    async def start(self) -> None:
        await self.scheduler
        self.scheduler.periodic_callbacks["worker-ttl"].stop()
        for n, address in enumerate(WORKERS):
            self._begin(
                self.scheduler.add_worker(
                    Stream(), address=address, server_id=address, name=f"w{n}", **WORKER
                )
            )
        hello = [to_op(Hello("session", 0, 0))] if self.numbered else []
        says = [hello] if hello else []
        self._begin(self.scheduler.add_client(Stream(*says), client=CLIENT, versions={}))
        while CLIENT not in self.scheduler.client_comms or len(self.scheduler.stream_comms) < 2:
            await asyncio.sleep(0.01)
        self.workers = {address: Stream() for address in WORKERS}
        self.scheduler.stream_comms.update(self.workers)
        self.scheduler.client_comms[CLIENT] = self.client = Stream()

    def _begin(self, serving: Any) -> None:
        _background.add(asyncio.create_task(serving))

    async def round(self, graphs: list[tuple[set[str], Serialized]]) -> Cost:
        """What it cost, from the first graph to the last release."""
        count = sum(len(keys) for keys, _ in graphs)
        gc.collect()
        moments = [time.process_time()]
        for keys, expr in graphs:
            await self._submit(keys, expr)
        moments.append(time.process_time())
        self._run(count)
        moments.append(time.process_time())
        for keys, _ in graphs:
            self.scheduler.client_releases_keys(keys=list(keys), client=CLIENT)
        await asyncio.sleep(20 * COMMIT_S)
        while self.scheduler.tasks:
            await asyncio.sleep(COMMIT_S)
        moments.append(time.process_time())
        self._forget_what_was_sent()
        spent = [later - earlier for earlier, later in itertools.pairwise(moments)]
        return dict(zip(PHASES, [s / count * 1e6 for s in (*spent, sum(spent))], strict=True))

    async def _submit(self, keys: set[str], expr: Serialized) -> None:
        numbered = {"ha_sequence": next(_sequences)} if self.numbered else {}
        await self.scheduler.update_graph(
            client=CLIENT, expr_ser=expr, keys=keys, internal_priority=None, code=(),
            submitting_task=None, fifo_timeout=0, actors=None, annotations={}, span_metadata={},
            **numbered,
        )  # fmt: skip

    def _run(self, count: int) -> None:
        finished = self.scheduler.stream_handlers["task-finished"]
        while count:
            for address, stream in self.workers.items():
                for message in stream.take():
                    if message["op"] == "compute-task":
                        finished(worker=address, **_report(message))
                        count -= 1

    def _forget_what_was_sent(self) -> None:
        for stream in (*self.workers.values(), self.client):
            stream.take()


def _report(message: dict[str, Any]) -> dict[str, Any]:
    return {
        "key": message["key"], "run_id": message["run_id"], "status": "OK", "nbytes": 28,
        "type": b"\x80\x04int", "typename": "int", "metadata": {}, "thread": 1,
        "startstops": ({"action": "compute", "start": 1.0, "stop": 1.00001},),
        "stimulus_id": "benchmark",
    }  # fmt: skip


def graphs(tasks: int, each: int) -> Iterator[tuple[set[str], Serialized]]:
    """Of so many tasks in all, with ``each`` in one; as a client sends them."""
    name = f"neg-{next(_sequences)}"
    for start in range(0, tasks, each):
        keys = [f"{name}-{i}" for i in range(start, start + each)]
        graph = {key: Task(key, operator.neg, i) for i, key in enumerate(keys)}
        header, frames = serialize(to_serialize(LLGExpr(graph)), on_error="raise")
        yield set(keys), Serialized(header, [bytes(frame) for frame in frames])


async def compare(subjects: list[Subject], tasks: int, each: int, rounds: int) -> None:
    costs: list[list[Cost]] = [[], []]
    for number in range(rounds + 1):
        for subject, of_subject in zip(subjects, costs, strict=True):
            cost = await subject.round(list(graphs(tasks, each)))
            if number:  # the first is the warm-up
                of_subject.append(cost)
    print(f"{tasks} tasks, {each} a graph, {rounds} pairs; us of CPU a task, medians")
    for phase in PHASES:
        plain, ours = ([cost[phase] for cost in of_subject] for of_subject in costs)
        ratios = sorted(b / a for a, b in zip(plain, ours, strict=True))
        quarter = len(ratios) // 4
        print(
            f"  {phase:8} plain {statistics.median(plain):7.1f}  "
            f"engine {statistics.median(ours):7.1f}  ratio {statistics.median(ratios):.3f}"
            f"  (quartiles {ratios[quarter]:.3f} to {ratios[-1 - quarter]:.3f})"
        )


async def profile(subjects: list[Subject], tasks: int, each: int) -> None:
    """What the engine calls that the plain scheduler does not."""
    found = []
    for subject in subjects:
        profiler = cProfile.Profile()
        work = list(graphs(tasks, each))
        profiler.enable()
        await subject.round(work)
        profiler.disable()
        found.append(pstats.Stats(profiler).stats)  # type: ignore[attr-defined]
    plain, ours = found
    more = []
    for place, (_, calls, own, _, _) in ours.items():
        _, plain_calls, plain_own, _, _ = plain.get(place, (0, 0, 0.0, 0.0, {}))
        more.append((own - plain_own, calls - plain_calls, place))
    for seconds, calls, (path, line, name) in sorted(more, reverse=True)[:60]:
        where = path.rsplit("site-packages/", 1)[-1].removeprefix(os.getcwd() + "/")
        print(
            f"  {seconds / tasks * 1e6:+7.2f} us {calls / tasks:+7.2f} calls  {where}:{line} {name}"
        )


async def run(options: argparse.Namespace) -> None:
    subjects = [Subject(distributed.Scheduler), Subject(Engine)]
    for subject in subjects:
        await subject.start()
    sizes = {"map": options.tasks, "submit": 1}
    if options.profile:
        each = sizes[options.profile]
        for subject in subjects:
            await subject.round(list(graphs(options.tasks, each)))
        await profile(subjects, options.tasks, each)
        return
    for each in sizes.values():
        await compare(subjects, options.tasks, each, options.rounds)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.per_task", description=__doc__)
    parser.add_argument("--tasks", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--profile", choices=("map", "submit"))
    options = parser.parse_args()
    logging.disable(logging.ERROR)
    asyncio.run(run(options))


if __name__ == "__main__":
    main()
