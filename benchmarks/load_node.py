"""A node that is told over a Unix socket to make load, and tells in datagrams what happens to it.

An order is one JSON line, and so is its answer. Whoever measures waits for events and never polls.
What proposes is a subclass: the load engine of a daemon, or another Raft (``rafts/node.py``).
"""

from __future__ import annotations

import functools
import json
import math
import os
import selectors
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.figures import percentile

MARK = "mark"  # the space of the records by which all nodes say how far they are
PASSING = "load"  # the space of payloads that nobody will look for
KEPT = "kept"  # how the spaces begin whose payloads each node can name ("applied", "has")

OnCommit = Callable[[], None]


class Load:
    """One order: keep ``outstanding`` payloads of ``size`` bytes in flight."""

    def __init__(self, order: dict[str, Any], answer: socket.socket) -> None:
        self.size = int(order["size"])
        self.outstanding = int(order["outstanding"])
        self.count = int(order["count"])  # at most so many
        self.deadline = time.monotonic() + float(order["seconds"])
        self.least = int(order.get("least", 1))
        self.names = int(order["names"])  # payloads replace those of the same name
        self.space = str(order.get("space", PASSING))
        self.each = bool(order.get("each"))  # whether every latency is wanted
        self.answer = answer
        self.payload = os.urandom(self.size)
        self.began = time.monotonic()
        self.cpu = time.process_time()
        self.sent = 0
        self.failed = 0
        self.latencies: list[float] = []
        self._acknowledged = None
        if path := order.get("acknowledged"):  # a file that outlives this process
            self._acknowledged = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    @property
    def wants_more(self) -> bool:
        in_time = time.monotonic() < self.deadline or self.sent < self.least
        return self.sent < self.count and in_time

    @property
    def in_flight(self) -> int:
        return self.sent - self.failed - len(self.latencies)

    def committed(self, name: str, began: float) -> None:
        now = time.monotonic()
        self.latencies.append(now - began)
        if self._acknowledged is not None:
            os.write(self._acknowledged, f"{self.space}{name} {now}\n".encode())

    def dropped(self) -> None:
        """A proposal that was refused, or whose fate nobody knows."""
        self.failed += 1

    def result(self) -> dict[str, Any]:
        took = time.monotonic() - self.began
        each = {"latencies": self.latencies} if self.each else {}
        latencies = self.latencies or [math.nan]  # when it was stopped before anything committed
        return {
            **each,
            "payloads": len(self.latencies),
            "seconds": took,
            "p50": percentile(latencies, 0.5),
            "p99": percentile(latencies, 0.99),
            "max": max(latencies),
            "engine_cpu": time.process_time() - self.cpu,
        }


class LoadNode:
    """Obeys orders and tells events; a subclass proposes, and says what committed."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._load: Load | None = None
        self._name = ""
        self._events: socket.socket | None = None
        self._live = 0  # records committed since this node caught up

    def _introduce(self, name: str, directory: Path) -> None:
        self._name = name
        self._events = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._events.connect(str(directory / "events"))
        path = directory / f"{name}.orders"
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(path))
        listener.listen()
        self._selector.register(listener, selectors.EVENT_READ, self._accept)

    def _tell(self, event: str, **detail: Any) -> None:
        assert self._events is not None
        line = {"event": event, "t": time.monotonic(), "name": self._name, **detail}
        self._events.send(json.dumps(line).encode())

    def _accept(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        self._obey(json.loads(connection.makefile("rb").readline()), connection)
        self._flush()

    def _obey(self, order: dict[str, Any], connection: socket.socket) -> None:
        match order["op"]:
            case "load":
                self._load = Load(order, connection)
                self._fill()
            case "stop":
                if self._load is not None:
                    self._load.count = self._load.sent
                    self._fill()
                connection.close()
            case "mark":
                mark = order["mark"]
                self._put(MARK, mark, b"", functools.partial(self._tell_mark, mark))
                connection.close()
            case "has":
                self._answer(connection, order["key"] in self._kept())
            case "applied":
                self._answer(connection, dict(self._kept()))

    def _answer(self, connection: socket.socket, value: Any) -> None:
        with connection:
            connection.sendall(json.dumps(value).encode() + b"\n")

    def _tell_mark(self, mark: str) -> None:
        self._tell("mark", mark=mark, live=self._live)

    def _fill(self) -> None:
        load = self._load
        assert load is not None
        while load.wants_more and load.in_flight < load.outstanding:
            load.sent += 1
            name = f"value-{load.sent % load.names}"
            on_commit = functools.partial(load.committed, name, time.monotonic())
            self._put(load.space, name, load.payload, on_commit)
        if not load.in_flight and not load.wants_more:
            self._load = None
            self._answer(load.answer, load.result())

    # -- of the subclass

    def _put(self, space: str, name: str, value: bytes, on_commit: OnCommit) -> None:
        raise NotImplementedError

    def _kept(self) -> dict[str, int]:
        """How often this node was told of each kept payload, by space and name."""
        raise NotImplementedError

    def _flush(self) -> None:
        """Send what was proposed."""
