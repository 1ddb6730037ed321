"""An engine that is nothing but load: it proposes payloads and measures when they commit.

The daemon starts it in place of the real one (``--channel-fd N --lease-fd M``). A payload is
written as the real engine writes one: as one record, or, when it is large, in parts ahead of the
record that names them (``Recorder.inline``). Its latency is the time from the first of its
proposals to the moment at which this process is told that the last has committed.

It does as it is told over a Unix socket (one JSON line in, one out) and tells what happens to it in
datagrams to another, so that whoever measures waits for events and never polls.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import selectors
import socket
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.figures import percentile
from ha_scheduler.engine.stream.recorder import CommitTracker, OnCommit, Recorder
from ha_scheduler.ledger import records
from ha_scheduler.protocol import engine, frames
from ha_scheduler.protocol.introduction import accept, introduced
from ha_scheduler.shared_lease import SharedLease

INLINE_BYTES_MAX = (
    256 * 1024
)  # as engine/stream/graphs.py has it: a larger payload travels in parts
MARK = "mark"  # the space of the records by which all engines say how far they are
PASSING = "load"  # the space of payloads that nobody will look for
MARK_WITHIN = 16  # bytes of an encoded record that hold its space
READ_BYTES = 1024 * 1024


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
        self.latencies: list[float] = []

    @property
    def wants_more(self) -> bool:
        in_time = time.monotonic() < self.deadline or self.sent < self.least
        return self.sent < self.count and in_time

    def result(self) -> dict[str, Any]:
        took = time.monotonic() - self.began
        each = {"latencies": self.latencies} if self.each else {}
        return {
            **each,
            "payloads": len(self.latencies),
            "seconds": took,
            "p50": percentile(self.latencies, 0.5),
            "p99": percentile(self.latencies, 0.99),
            "max": max(self.latencies),
            "engine_cpu": time.process_time() - self.cpu,
        }


class LoadEngine:
    """One engine of one peer; a ``Log`` for its recorder."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._decoder = frames.Decoder(frames.ENGINE_BYTES_MAX)
        self._out = bytearray()
        self._selector = selectors.DefaultSelector()
        self._selector.register(channel, selectors.EVENT_READ, self._read)
        self._tracker = CommitTracker()
        self._recorder: Recorder | None = None
        self._load: Load | None = None
        self._marks: dict[int, str] = {}  # our own marks, which come back without their bytes
        self._ended = False
        self._name = ""
        self._events: socket.socket | None = None
        self._live = 0  # records committed since this engine caught up
        self._values = 0  # in the ledger when this engine began, marks and passing ones left out

    # -- the channel

    def run(self) -> None:
        while not self._ended:
            for key, mask in self._selector.select():
                if mask & selectors.EVENT_WRITE:
                    self._flush()
                if mask & selectors.EVENT_READ:
                    key.data(key.fileobj)

    def _send(self, message: engine.ToDaemon) -> None:
        self._out += frames.pack(message)

    def _flush(self) -> None:
        while self._out:
            try:
                sent = self._channel.send(memoryview(self._out)[:READ_BYTES])
            except BlockingIOError:
                break
            del self._out[:sent]
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._out else 0)
        self._selector.modify(self._channel, wanted, self._read)

    def _read(self, _: object) -> None:
        data = self._channel.recv(READ_BYTES)
        self._ended = not data
        for value in self._decoder.feed(data):
            self._handle(engine.TO_ENGINE.decode(value))
        if self._load is not None:
            self._fill()
        self._flush()

    def _handle(self, message: engine.ToEngine) -> None:
        match message:
            case engine.RecordCommitted(index, proposal, data):
                self._committed(index, proposal, data)
            case engine.Ping(number):
                self._send(engine.Pong(number))
            case engine.EngineSettings(_, name, _, options):
                self._welcome(name, Path(options["directory"]))
            case engine.CaughtUp(index):
                self._send(engine.EngineReady(""))
                self._tell("caught_up", index=index, values=self._values)
            case engine.Activate(term):
                self._activate(term)

    def _committed(self, index: int, proposal: int, data: bytes) -> None:
        self._live += index > 0
        if proposal:
            self._tracker.committed(proposal)
            mark = self._marks.pop(proposal, "")
            if mark:
                self._tell("mark", mark=mark, live=self._live)
        elif index and MARK.encode() in data[:MARK_WITHIN]:
            record = records.decode(data)
            if isinstance(record, records.ValueSet) and record.space == MARK:
                self._tell("mark", mark=record.name.decode(), live=self._live)
        elif not index:
            record = records.decode(data)
            kept = isinstance(record, records.ValueSet) and record.space not in (MARK, PASSING)
            self._values += kept

    def _welcome(self, name: str, directory: Path) -> None:
        self._name = name
        self._events = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._events.connect(str(directory / "events"))
        path = directory / f"{name}.orders"
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(path))
        listener.listen()
        self._selector.register(listener, selectors.EVENT_READ, self._accept)

    def _activate(self, term: int) -> None:
        self._recorder = Recorder(self, term, itertools.count((term << 32) + 1))
        self._tell("activated", term=term)
        self._send(engine.Serving(term, f"load://{self._name}:{term}"))
        self._put(MARK, f"term-{term}", b"", lambda: self._tell("first_commit", term=term))

    # -- what it is told, and what it tells

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
                assert self._load is not None
                self._load.count = self._load.sent
                self._fill()
                connection.close()
            case "mark":
                assert self._recorder is not None
                self._mark(order["mark"])
                connection.close()

    def _mark(self, mark: str) -> None:
        assert self._recorder is not None
        record = records.ValueSet(MARK, mark.encode(), b"", 0, 0, 0)
        self._recorder.append(record, lambda: None)
        self._marks[self._last] = mark

    # -- the load

    def propose(self, data: bytes, on_commit: OnCommit | None) -> None:
        """For the recorder."""
        self._last = self._tracker.number(on_commit)
        self._send(engine.Propose(self._last, data))

    def _put(self, space: str, name: str, value: bytes, on_commit: OnCommit) -> None:
        assert self._recorder is not None
        inlined = self._recorder.inline(value)
        record = records.ValueSet(space, name.encode(), *inlined, self._recorder.term)
        self._recorder.append(record, on_commit)

    def _fill(self) -> None:
        load = self._load
        assert load is not None
        while load.wants_more and load.sent - len(load.latencies) < load.outstanding:
            load.sent += 1
            began = time.monotonic()
            self._put(
                load.space,
                f"value-{load.sent % load.names}",
                load.payload,
                lambda began=began: load.latencies.append(time.monotonic() - began),  # type: ignore[misc]
            )
        if len(load.latencies) == load.sent and not load.wants_more:
            self._load = None
            with load.answer:
                load.answer.sendall(json.dumps(load.result()).encode() + b"\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--channel-fd", type=int)
    parser.add_argument("--lease-fd", type=int)
    arguments = parser.parse_args()
    channel = socket.socket(fileno=arguments.channel_fd)
    introduced(frames.receive(channel.recv, frames.INTRODUCTION_BYTES_MAX))
    channel.sendall(frames.pack(accept()))
    channel.setblocking(False)
    SharedLease(arguments.lease_fd)  # this engine serves nobody, so it has nothing to hold back
    try:
        LoadEngine(channel).run()
    except (ConnectionError, FileNotFoundError):
        sys.exit(1)  # whoever measured is gone


if __name__ == "__main__":
    main()
