"""A cell of three peers, the scheduler of upstream's tests, whose leader can be killed.

``python -m tests.upstream.cell DIRECTORY`` starts one in that directory and then answers each line
of JSON with another: ``ready`` when somebody leads and could be followed, with what the leader
still holds of the test before, and ``strike`` when the leader is dead. It ends with its input. A
process of its own, because upstream's tests count the connections and threads of theirs.

A cell is started with the configuration of the test that asks for it, as a scheduler of upstream's
is; ``Cells`` keeps the last ones. A cell that is not clean after a test is not used again.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import dask.config

CELLS_MAX = 2  # with different configurations; three daemons and three engines each
CLEAN_SECONDS_MAX = 10.0  # for what a test has let go to be forgotten by the leader
READY_SECONDS_MAX = 60.0
POLL_S = 0.05
#: What a scheduler of upstream's reads, in the process of which it runs.
SECTIONS = ("scheduler", "admin", "diagnostics", "dashboard", "worker.memory")
#: The calls that empty what tests leave behind, as no test of upstream's needs to.
SWEEPING = {
    "queues": "queue_release",
    "variables": "variable_delete",
    "semaphores": "semaphore_close",
    "events": "event_clear",
}
AMM_START = "distributed.scheduler.active-memory-manager.start"

Victim = Literal["engine", "peer"]


def leftovers(dask_scheduler: Any) -> dict[str, list[Any]]:
    """What there is in a scheduler of its clients' making. Runs on the leader."""
    s, of = dask_scheduler, dask_scheduler.extensions
    found = {
        "clients": {*s.session_of, *s.client_comms} & s.clients.keys(),
        "workers": s.workers,
        "tasks": s.tasks,
        "queues": of["queues"].queues,
        "variables": of["variables"].variables,
        "semaphores": of["semaphores"].max_leases,
        "multi_locks": of["multi_locks"].locks,
        "events": of["events"]._events,
        "datasets": of["publish"].datasets,
        "metadata": s.task_metadata.keys() - {"cluster-manager-info"},  # of the cluster
        "worker_plugins": s.worker_plugins.keys() - {"shuffle"},  # of the scheduler
        "nanny_plugins": s.nanny_plugins,
        "scheduler_plugins": s.recorded_plugins,
        "amm": [] if of["amm"].running is dask.config.get(AMM_START) else ["started or stopped"],
    }
    return {kind: list(names) for kind, names in found.items() if names}


def forget_absent(dask_scheduler: Any) -> None:
    """End the grace of clients that closed while nobody led. Runs on the leader."""
    s = dask_scheduler
    for client in (s.session_of.keys() & s.clients.keys()) - s.client_comms.keys():
        s.remove_client(client, stimulus_id="its test is over")


class _Host:
    """What the process of a cell does."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster

    def ready(self) -> dict[str, Any]:
        """Wait for a leader with a successor, and until the test before is forgotten."""
        cluster = self._cluster
        deadline = time.monotonic() + READY_SECONDS_MAX
        while not cluster.cell.has_successor(cluster.leader.name, None):
            if time.monotonic() > deadline:
                raise TimeoutError(f"no successor is ready: {cluster.peers}")
            time.sleep(POLL_S)
        return {"address": cluster.scheduler_address, "leftovers": self._clean()}

    def _clean(self) -> dict[str, list[str]]:
        deadline = time.monotonic() + CLEAN_SECONDS_MAX
        found: dict[str, list[Any]] = {"unknown": []}
        while found and time.monotonic() < deadline:
            with contextlib.suppress(OSError):  # a leader that was killed late, and has just died
                found = self._cluster.sync(self._leftovers)
                if found:
                    self._cluster.sync(self._sweep, found)
                    self._unpublish(found.get("datasets", ()))
                    time.sleep(POLL_S)
        if found:
            print("left behind:", found, file=sys.stderr, flush=True)
        return {kind: [repr(name) for name in names] for kind, names in found.items()}

    async def _leftovers(self) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = await self._on_leader(leftovers)
        return found

    async def _on_leader(self, function: Callable[[Any], Any]) -> Any:
        from distributed.protocol.pickle import dumps

        answer = await self._cluster.scheduler_comm.run_function(
            function=dumps(function), args=dumps(()), kwargs=dumps({}), wait=True
        )
        assert answer["status"] == "OK", answer
        return answer["result"]

    async def _sweep(self, found: dict[str, list[Any]]) -> None:
        await self._on_leader(forget_absent)
        for kind, op in SWEEPING.items():
            for name in found.get(kind, ()):
                with contextlib.suppress(OSError, KeyError):
                    await getattr(self._cluster.scheduler_comm, op)(name=name)

    def _unpublish(self, names: Iterable[Any]) -> None:
        if names:
            with self._cluster.get_client() as client:
                for name in names:
                    client.unpublish_dataset(name)

    def strike(self, victim: Victim) -> dict[str, Any]:
        """Kill the leader: its engine alone, or the peer, which is started again at once."""
        leader = self._cluster.leader
        if victim == "engine":
            leader.kill_engine()
        else:
            leader.kill()
            leader.start()
        return {"killed": leader.name}


def serve(directory: Path) -> None:
    """The process of the cell."""
    from ha_scheduler import LocalHACluster

    with LocalHACluster(
        0, nanny=False, security=False, dashboard_address=None, data_dir=directory
    ) as cluster:
        host = _Host(cluster)
        for line in sys.stdin:
            order = json.loads(line)
            handler: Callable[..., dict[str, Any]] = getattr(host, order.pop("do"))
            try:
                answer = handler(**order)
            except Exception as error:  # the test process starts another cell
                traceback.print_exc()
                answer = {"error": repr(error)}
            print(json.dumps(answer), flush=True)


class CellLost(RuntimeError):
    """The cell has ended or is not ready in time; the logs in its directory say why."""


class Cell:
    """A cell as seen by the process of the tests."""

    def __init__(self, directory: Path, config: str) -> None:
        directory.mkdir(parents=True)
        self._lock = threading.Lock()
        with (directory / "cell.log").open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.upstream.cell", str(directory)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | {"DASK_INTERNAL_INHERIT_CONFIG": config},
            )
        self.directory = directory

    def ready(self) -> str | None:
        """The address of the cell if it is fit for a test, else None. Raises ``CellLost``."""
        answer = self._ask(do="ready")
        return None if answer["leftovers"] else str(answer["address"])

    def strike(self, victim: Victim) -> None:
        """Kill the leader. Raises ``CellLost``."""
        self._ask(do="strike", victim=victim)

    def _ask(self, **order: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            try:
                self._process.stdin.write(json.dumps(order) + "\n")
                self._process.stdin.flush()
                answer = json.loads(self._process.stdout.readline() or '{"error": "it has ended"}')
            except BrokenPipeError:
                answer = {"error": "it has ended"}
        if "error" in answer:
            raise CellLost(f"the cell in {self.directory}: {answer['error']}")
        return dict(answer)

    def close(self) -> None:
        """End the cell."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()


class Cells:
    """The cells of one process of tests, by configuration."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._cells: dict[str, Cell] = {}  # the last used last
        self._prepared: tuple[str, Cell, str] | None = None
        self._started = 0

    def prepare(self) -> None:
        """Have ready what ``fit`` will give, before the time of a test begins."""
        config = _configuration()
        self._prepared = (config, *self._clean(config))

    def fit(self) -> tuple[Cell, str]:
        """A clean cell with the scheduler's configuration of this moment, and its address."""
        config = _configuration()
        prepared, self._prepared = self._prepared, None
        if prepared is not None and prepared[0] == config:
            return prepared[1:]
        return self._clean(config)

    def _clean(self, config: str) -> tuple[Cell, str]:
        cell = self._cells.pop(config, None)
        address = self._address(cell)
        if cell is None or address is None:
            while len(self._cells) >= CELLS_MAX:
                self._cells.pop(next(iter(self._cells))).close()
            self._started += 1
            name = f"cell-{os.getpid()}-{self._started}"
            cell = Cell(self._directory / name, config)
            address = self._address(cell)
            if address is None:
                raise CellLost(f"{cell.directory} did not start")
        self._cells[config] = cell
        return cell, address

    @staticmethod
    def _address(cell: Cell | None) -> str | None:
        if cell is None:
            return None
        try:
            address = cell.ready()
        except CellLost:
            address = None
        if address is None:
            cell.close()
        return address

    def close(self) -> None:
        """End them all."""
        for cell in self._cells.values():
            cell.close()


def _configuration() -> str:
    return str(
        dask.config.serialize(
            {f"distributed.{name}": dask.config.get(f"distributed.{name}") for name in SECTIONS}
        )
    )


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
