"""An engine for tests of the daemon: speaks the channel, keeps a diary, does as it is told.

Run as the real one is: ``--channel-fd N --lease-fd M``. Its diary is a file of JSON lines in the
directory of option ``toy_dir``; it takes orders from a datagram socket there.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import socket
import time
from pathlib import Path
from typing import Any

from ha_scheduler.ledger import encoding, records
from ha_scheduler.protocol import engine, frames
from ha_scheduler.protocol.introduction import accept, introduced
from ha_scheduler.shared_lease import SharedLease


class ToyEngine:
    def __init__(self, channel: socket.socket, lease: SharedLease) -> None:
        self.channel = channel
        self.lease = lease
        self.decoder = frames.Decoder(frames.ENGINE_BYTES_MAX)
        self.out = bytearray()
        self.proposal = 0
        self.proposed: dict[int, str] = {}
        self.term = 0
        self.name = self.address = ""
        self.options: dict[str, Any] = {}
        self.orders: socket.socket | None = None

    def write_diary(self, event: str, **detail: Any) -> None:
        line = json.dumps({"t": time.monotonic(), "event": event, "pid": os.getpid(), **detail})
        os.write(self.diary, line.encode() + b"\n")

    def send(self, message: engine.ToDaemon) -> None:
        self.out += frames.pack(message)

    def run(self) -> None:
        introduced(frames.receive(self.channel.recv, frames.INTRODUCTION_BYTES_MAX))
        self.channel.sendall(frames.pack(accept()))
        self.channel.setblocking(False)
        while True:
            readers: list[Any] = [self.channel] + ([self.orders] if self.orders else [])
            ready, writable, _ = select.select(readers, [self.channel] if self.out else [], [])
            if writable:
                self.flush()
            if self.channel in ready and not self.read():
                return
            if self.orders in ready and self.orders is not None:
                self.obey(json.loads(self.orders.recv(65536)))

    def flush(self) -> None:
        try:
            sent = self.channel.send(memoryview(self.out)[: 1 << 20])
        except BlockingIOError:
            return
        del self.out[:sent]

    def read(self) -> bool:
        data = self.channel.recv(1 << 20)
        for value in self.decoder.feed(data):
            self.handle(engine.TO_ENGINE.decode(value))
        return bool(data)

    def handle(self, message: engine.ToEngine) -> None:
        match message:
            case engine.EngineSettings(_, name, peers, options):
                (own,) = (peer for peer in peers if peer.name == name)
                protocol = "tls" if options["tls"] else "tcp"
                self.address = f"{protocol}://{own.host}:{own.dask_port}"
                self.welcome(name, options)
            case engine.RecordCommitted(index, proposal, data):
                text = describe(data) if data else self.proposed.pop(proposal)
                self.write_diary("record", index=index, proposal=proposal, text=text)
            case engine.CaughtUp(index):
                self.write_diary("caught_up", index=index)
                if not (Path(self.options["toy_dir"]) / f"{self.name}.never-ready").exists():
                    self.send(engine.EngineReady(""))
            case engine.Activate(term):
                self.term = term
                self.write_diary("activate", term=term, lease=self.lease.valid())
                self.send(engine.Serving(term, self.address))
                self.send(engine.Mark(term, engine.Phase.FIRST_TASK, time.monotonic(), {"n": 1}))
            case engine.Ping(number):
                self.send(engine.Pong(number))

    def welcome(self, name: str, options: dict[str, Any]) -> None:
        self.name, self.options = name, options
        directory = Path(options["toy_dir"])
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self.diary = os.open(directory / f"{name}.diary", flags)
        path = directory / f"{name}.orders"
        path.unlink(missing_ok=True)
        self.orders = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.orders.bind(str(path))
        self.write_diary("welcome", seed=os.environ.get("PYTHONHASHSEED"))

    def obey(self, order: dict[str, Any]) -> None:
        match order["op"]:
            case "propose":
                for number in range(order["count"]):
                    text = f"{order['tag']}-{number}".encode()
                    self.proposal += 1
                    self.proposed[self.proposal] = text.decode()
                    value = os.urandom(order["size"])
                    record = records.ValueSet("toy", text, value, 0, 0, 0)
                    self.send(engine.Propose(self.proposal, encoding.encode(record)))
                self.write_diary("proposed", last=self.proposal)
            case "raw":
                for data in map(bytes.fromhex, order["records"]):
                    self.proposal += 1
                    self.proposed[self.proposal] = "raw"
                    self.send(engine.Propose(self.proposal, data))
            case "sleep":
                time.sleep(order["seconds"])
            case "lease":
                self.write_diary("lease", valid=self.lease.valid())
            case "say":  # whatever it is
                said = {k: self.term if v == "own term" else v for k, v in order["message"].items()}
                if "data" in said:
                    said["data"] = bytes.fromhex(said["data"])
                self.out += frames.pack(said)
            case "exit":
                os._exit(3)


def describe(data: bytes) -> str:
    record = encoding.decode(data)
    if isinstance(record, records.ValueSet):
        return record.name.decode()
    return type(record).__name__


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--channel-fd", type=int)
    parser.add_argument("--lease-fd", type=int)
    parser.add_argument("--exposures-fd", type=int)
    parser.add_argument("--dask-fd", type=int, action="append")
    arguments = parser.parse_args()
    channel = socket.socket(fileno=arguments.channel_fd)
    ToyEngine(channel, SharedLease(arguments.lease_fd)).run()


if __name__ == "__main__":
    main()
