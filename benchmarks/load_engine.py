"""An engine that is nothing but load: it proposes payloads and measures when they commit.

The daemon starts it in place of the real one (``--channel-fd N --lease-fd M``). A payload is
written as the real engine writes one: as one record, or, when it is large, in parts ahead of the
record that names them (``Recorder.inline``). Its latency is the time from the first of its
proposals to the moment at which this process is told that the last has committed.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import selectors
import socket
import sys
from collections import Counter
from pathlib import Path

from benchmarks.load_node import KEPT, MARK, PASSING, LoadNode, OnCommit
from ha_scheduler.engine.stream.recorder import CommitTracker, Recorder
from ha_scheduler.ledger import encoding, records
from ha_scheduler.protocol import engine, frames
from ha_scheduler.protocol.introduction import accept, introduced
from ha_scheduler.shared_lease import SharedLease

SPACE_WITHIN = 16  # bytes of an encoded record that hold its space
READ_BYTES = 1024 * 1024


class LoadEngine(LoadNode):
    """One engine of one peer; a ``Log`` for its recorder."""

    def __init__(self, channel: socket.socket) -> None:
        super().__init__()
        self._channel = channel
        self._decoder = frames.Decoder(frames.ENGINE_BYTES_MAX)
        self._out = bytearray()
        self._selector.register(channel, selectors.EVENT_READ, self._read)
        self._tracker = CommitTracker()
        self._recorder: Recorder | None = None
        self._ended = False
        self._caught_up = False
        self._applied: Counter[str] = Counter()

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
            case engine.EngineSettings(_, name, peers, options):
                (own,) = (peer for peer in peers if peer.name == name)
                self._address = f"tls://{own.host}:{own.dask_port}"
                self._introduce(name, Path(options["directory"]))
            case engine.CaughtUp(index):
                self._caught_up = True
                self._send(engine.EngineReady(""))
                self._tell("caught_up", index=index, values=len(self._applied))
            case engine.Activate(term):
                self._activate(term)

    def _committed(self, index: int, proposal: int, data: bytes) -> None:
        self._live += index > 0
        head = data[:SPACE_WITHIN]
        if proposal:  # our own, which comes back without its bytes
            self._tracker.committed(proposal)
        elif not index or MARK.encode() in head or KEPT.encode() in head:
            record = encoding.decode(data)
            if isinstance(record, records.ValueSet):
                self._told(index, record.space, record.name.decode())

    def _told(self, index: int, space: str, name: str) -> None:
        if space not in (MARK, PASSING):
            self._applied[space + name] += 1
        elif index and space == MARK:
            self._tell_mark(name)

    def _activate(self, term: int) -> None:
        self._recorder = Recorder(self, term, itertools.count((term << 32) + 1))
        self._tell("activated", term=term)
        self._send(engine.Serving(term, self._address))
        self._put(MARK, f"term-{term}", b"", lambda: self._tell("first_commit", term=term))

    # -- the load

    def confirm(self, on_confirmed: OnCommit) -> None:
        raise NotImplementedError

    def propose(self, data: bytes, on_commit: OnCommit | None) -> None:
        """For the recorder."""
        self._send(engine.Propose(self._tracker.number(on_commit), data))

    def _put(self, space: str, name: str, value: bytes, on_commit: OnCommit) -> None:
        assert self._recorder is not None
        inlined = self._recorder.inline(value)
        record = records.ValueSet(space, name.encode(), *inlined, self._recorder.term)
        self._recorder.append(record, functools.partial(self._own, space, name, on_commit))

    def _own(self, space: str, name: str, on_commit: OnCommit) -> None:
        if space.startswith(KEPT):
            self._applied[space + name] += 1
        on_commit()

    def _kept(self) -> dict[str, int]:
        return self._applied if self._caught_up else {}  # until then in the ledger's order


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--channel-fd", type=int)
    parser.add_argument("--lease-fd", type=int)
    parser.add_argument("--exposures-fd", type=int)
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
