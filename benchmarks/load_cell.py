"""A cell of three real daemons with TLS and LMDB on loopback, whose engines only make load.

What is waited for is told by the engines (``load_engine.py``); every wait has a deadline, and a
deadline that passes ends the benchmark with an error: something was lost or hangs.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from msgspec import to_builtins

from ha_scheduler.cell.peers import Cell
from ha_scheduler.cli.control import ControlClient
from ha_scheduler.deploy.ports import free_ports
from ha_scheduler.protocol.peer import PeerAddress
from ha_scheduler.security.authority import client_files, ensure_certificates

HOST = "127.0.0.1"
NAMES = ("a", "b", "c")
WAIT_S = 60.0
LOAD_TIMEOUT_S = 900.0
ROOT = Path(__file__).resolve().parent.parent

Event = dict[str, Any]


class LoadCell:
    """Peers a, b and c under ``directory``; ended, and their data gone, with the ``with`` block."""

    def __init__(self, under: Path | None, limits: dict[str, int] | None = None) -> None:
        """``under``: on the disk to measure. ``limits``: of ``peer/consensus/compaction.py``."""
        self._temporary = tempfile.TemporaryDirectory(prefix="load-cell-", dir=under)
        self.directory = Path(self._temporary.name)
        ports = iter(free_ports(HOST, 2 * len(NAMES)))
        self.cell = Cell(tuple(PeerAddress(n, HOST, next(ports), next(ports)) for n in NAMES))
        ensure_certificates(self.directory / "certificates", self.cell)
        self._limits = limits or {}
        self._control = ControlClient(self.cell, client_files(self.directory / "certificates"))
        self._events = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._events.bind(str(self.directory / "events"))
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        self.leader = ""
        self.activations = 0
        self._marks = 0

    def __enter__(self) -> LoadCell:
        try:
            for name in NAMES:
                self.start(name)
            self._await_start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self.daemons):
            self.kill(name)
        self._events.close()
        self._temporary.cleanup()

    # -- processes

    def start(self, name: str) -> None:
        with self.log_path(name).open("ab") as log:
            self.daemons[name] = subprocess.Popen(
                [
                    *(sys.executable, "-m", "ha_scheduler.peer.engine.launch", str(os.getpid())),
                    *self.command(name),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                start_new_session=True,
            )

    def command(self, name: str) -> list[str]:
        """The module that a peer runs, and its arguments."""
        peers = ",".join(f"{p.name}={p.host}:{p.peer_port}/{p.dask_port}" for p in self.cell.peers)
        settings = {
            "name": name,
            "directory": str(self.directory),
            "peers": peers,
            "limits": self._limits,
        }
        return ["benchmarks.load_daemon", json.dumps(settings)]

    def kill(self, name: str) -> float:
        """``kill -9`` of the daemon; when (CLOCK_MONOTONIC)."""
        daemon = self.daemons.pop(name)
        at = time.monotonic()
        daemon.kill()
        daemon.wait()
        return at

    def kill_all(self, *, with_children: bool) -> None:
        """``kill -9`` of all daemons in one moment, with what they forked or without."""
        for daemon in self.daemons.values():
            if with_children:
                os.killpg(daemon.pid, signal.SIGKILL)
            else:
                daemon.kill()
        for name in list(self.daemons):
            self.kill(name)

    def stop(self, name: str) -> None:
        """End the daemon as an operator does; what it knows to be committed is applied on disk."""
        daemon = self.daemons.pop(name)
        daemon.terminate()
        daemon.wait(WAIT_S)

    def log_path(self, name: str) -> Path:
        return self.directory / f"{name}.log"

    def process(self, name: str) -> psutil.Process:
        """The daemon of ``name``."""
        return psutil.Process(self.daemons[name].pid)

    def anonymous_bytes(self, name: str) -> int:
        """Memory of the daemon of ``name`` that is no page of a file: what must be bounded."""
        status = Path(f"/proc/{self.daemons[name].pid}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("RssAnon:"))
        return int(line.split()[1]) * 1024

    def cpu(self) -> dict[str, float]:
        """CPU seconds of each daemon so far, its engine not included."""
        times = {name: self.process(name).cpu_times() for name in self.daemons}
        return {name: t.user + t.system for name, t in times.items()}

    def status(self, name: str) -> dict[str, Any]:
        return dict(to_builtins(self._control.status(name)))

    # -- events

    def event(self, wanted: Callable[[Event], bool], seconds: float = WAIT_S) -> Event:
        """The next event that is ``wanted``; others are dropped. Raises ``TimeoutError``."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._events.settimeout(left)
            event = dict(json.loads(self._events.recv(65536)))
            if event["event"] == "activated":
                self.leader = event["name"]
                self.activations += 1
            if wanted(event):
                return event
        raise TimeoutError(f"not within {seconds:g} s; logs were in {self.directory}")

    def mark(self, peers: set[str] | None = None) -> dict[str, int]:
        """Let the leader write a mark and wait until all engines have read it.

        Returns how many records each was told of since it caught up. One that began afresh
        meanwhile found the mark in its ledger, and is sent another.
        """
        self._marks += 1
        order = {"op": "mark", "mark": f"mark-{self._marks}"}
        waiting = set(peers or self.daemons)
        live: dict[str, int] = {}
        self._order(order).close()
        while waiting - set(live):
            event = self.event(
                lambda e: e.get("mark") == order["mark"] or e["event"] == "caught_up"
            )
            if event["event"] == "caught_up":
                self._order(order).close()
            else:
                live[event["name"]] = event["live"]
        return live

    def _await_start(self) -> None:
        ready: set[str] = set()
        committed = False
        while len(ready) < len(NAMES) or not committed:
            event = self.event(lambda e: e["event"] in ("caught_up", "first_commit"))
            committed |= event["event"] == "first_commit"
            if event["event"] == "caught_up":
                ready.add(event["name"])
        self.mark()

    # -- load

    def begin_load(self, **order: Any) -> socket.socket:
        """Tell the leader's engine to make load; its answer comes on the socket."""
        return self._order({"op": "load", "count": 1_000_000_000, **order})

    def load(self, **order: Any) -> dict[str, Any]:
        """Make load and return what the engine measured, with what each daemon spent on it.

        Raises ``RuntimeError`` if an engine was not told of all that was acknowledged.
        """
        before, cpu = self.mark(), self.cpu()
        result = self.finish_load(self.begin_load(**order))
        after = self.mark()
        spent = {name: now - cpu[name] for name, now in self.cpu().items()}
        counts = {name: after[name] - before[name] for name in after}
        if len(set(counts.values())) != 1 or min(counts.values()) < result["payloads"]:
            raise RuntimeError(f"engines were told of different numbers of records: {counts}")
        leader_cpu = spent.pop(self.leader)
        return {**result, "leader_cpu": leader_cpu, "follower_cpu": max(spent.values())}

    def stop_load(self) -> None:
        """Let the load that runs issue nothing more."""
        self._order({"op": "stop"}).close()

    def finish_load(self, answer: socket.socket, seconds: float = LOAD_TIMEOUT_S) -> dict[str, Any]:
        """Raises ``TimeoutError``, and ``RuntimeError`` if the leader is none any more."""
        with answer:
            answer.settimeout(seconds)
            line = answer.makefile("rb").readline()
        if not line:
            raise RuntimeError(f"the leading engine ended during the load ({self.leader})")
        return dict(json.loads(line))

    def ask(self, name: str, **order: Any) -> Any:
        """What the engine of ``name`` answers. Raises ``OSError``."""
        with self._order(order, name) as answer:
            answer.settimeout(WAIT_S)
            return json.loads(answer.makefile("rb").readline())

    def _order(self, order: dict[str, Any], name: str = "") -> socket.socket:
        """``name``: by default the leader's."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.connect(str(self.directory / f"{name or self.leader}.orders"))
        connection.sendall(json.dumps(order).encode() + b"\n")
        return connection
