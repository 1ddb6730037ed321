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
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import dask.config

from tests.cells import POLL_S, clear

CELLS_MAX = 2  # with different configurations; three daemons and three engines each
READY_SECONDS_MAX = 60.0
#: What a scheduler of upstream's reads, in the process of which it runs.
SECTIONS = ("scheduler", "admin", "diagnostics", "dashboard", "worker.memory")

Victim = Literal["engine", "peer"]


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
        left = {kind: [repr(name) for name in names] for kind, names in clear(cluster).items()}
        return {"address": cluster.scheduler_address, "leftovers": left}

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
