"""A cell of real daemons with toy engines on loopback, for tests."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ha_scheduler.cell.peers import Cell, parse_peers
from ha_scheduler.deploy.ports import free_ports
from ha_scheduler.protocol import FEATURES, RELEASE, VERSION, frames
from ha_scheduler.protocol.introduction import Introduction
from ha_scheduler.security.authority import client_files, ensure_certificates, peer_files
from ha_scheduler.security.contexts import client_context
from tests.deadlines import SCALE

HERE = Path(__file__).parent
ROOT = HERE.parent.parent

T = TypeVar("T")


def within(seconds: float, probe: Callable[[], T | None], every: float = 0.005) -> T:
    """The first true answer of ``probe``, or an error when time is up."""
    deadline = time.monotonic() + seconds * SCALE
    while True:
        answer = probe()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds * SCALE} s: {probe}")
        time.sleep(every)


def report(text: str) -> None:
    """A measured figure, shown by ``pytest -s``."""
    sys.stdout.write(f"[{text}] ")


class Connection:
    """A blocking connection to a peer port."""

    def __init__(self, port: int, context: ssl.SSLContext | None, *first: Any) -> None:
        """Sends ``first``; ``answer`` is that to the last of it, or the refusal of an earlier."""
        sock = socket.create_connection(("127.0.0.1", port), timeout=5 * SCALE)
        try:
            self.sock = context.wrap_socket(sock) if context else sock
            for message in first:
                self.send(message)
                self.answer = self.receive()
                if not self.answer["ok"]:
                    break
        except BaseException:
            sock.close()
            if hasattr(self, "sock"):
                self.sock.close()
            raise

    def send(self, value: Any) -> None:
        self.sock.sendall(frames.pack(value))

    def receive(self) -> dict[str, Any]:
        """The fields of the next message, and whether it is no refusal as ``ok``."""
        fields = msgspec.msgpack.decode(frames.receive(self._exactly, 1 << 20))
        return {"ok": fields["op"] not in ("refused", "declined"), **fields}

    def close(self) -> None:
        self.sock.close()

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self.sock.recv(count - len(data))
            if not more:
                raise EOFError("the peer closed the connection")
            data += more
        return data


class ToyCell:
    """Peers a, b, c."""

    def __init__(self, base: Path, *, names: str = "abc", tls: bool = True, **given: Any) -> None:
        self.base, self.tls, self.given = base, tls, given
        #: Diaries and orders. Beside the data and not above it: a kernel without namespaces lets an
        #: engine make nothing there.
        self.toys = base / "toys"
        self.toys.mkdir(exist_ok=True)
        self.names = tuple(names)
        ports = free_ports("127.0.0.1", 2 * len(names))
        self.ports = dict(zip(self.names, ports, strict=False))
        dask = ports[len(names) :]
        self.peers = ",".join(
            f"{n}=127.0.0.1:{ports[i]}/{dask[i]}" for i, n in enumerate(self.names)
        )
        self.cell: Cell = parse_peers(self.peers)
        (base / "certs").mkdir(exist_ok=True)
        ensure_certificates(base / "certs", self.cell)
        for name in self.names:
            (base / "data" / name).mkdir(parents=True)
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        self.connections: list[Connection] = []

    def __enter__(self) -> ToyCell:
        for name in self.names:
            self.start(name)
        return self

    def __exit__(self, *exc: object) -> None:
        for connection in self.connections:
            connection.close()
        for name in list(self.daemons):
            self.kill(name)
        if exc[0] is not None:
            for name in self.names:
                sys.stderr.write(f"--- {name}\n{self.log(name)[-6000:]}\n")

    def start(self, name: str, **more: Any) -> None:
        given = {"name": name, "dir": str(self.base), "peers": self.peers, "tls": self.tls}
        arguments = json.dumps({**given, **self.given, **more})
        with (self.base / f"{name}.log").open("ab") as log:
            self.daemons[name] = subprocess.Popen(
                [sys.executable, str(HERE / "toy_daemon.py"), arguments],
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": f"{HERE}{os.pathsep}{ROOT}"},
                cwd=self.base,
            )

    def prepare(self, name: str) -> str:
        """Port, certificate and directory of a peer that is to join; the list with it."""
        port, dask = free_ports("127.0.0.1", 2)
        self.names, self.ports[name] = (*self.names, name), port
        listed = f"{self.peers},{name}=127.0.0.1:{port}/{dask}"
        ensure_certificates(self.base / "certs", parse_peers(listed, any_count=True))
        self.data(name).mkdir(parents=True)
        return listed

    def data(self, name: str) -> Path:
        return self.base / "data" / name

    def lose_disk(self, name: str) -> Path:
        """Kill the peer and give it an empty directory; where its old one is kept."""
        self.kill(name)
        kept = self.base / f"lost-{name}-{len(list(self.base.glob('lost-*')))}"
        self.data(name).rename(kept)
        self.data(name).mkdir()
        return kept

    def member(self, asked: str, name: str) -> dict[str, Any] | None:
        """What ``asked`` says of the newest disk of ``name`` in the membership."""
        status = self.status(asked)
        found = [m for m in status["members"] if m["name"] == name] if status else []
        return found[-1] if found else None

    def votes(self, name: str, peer_id: int | None = None) -> bool:
        """Whether every daemon that runs counts one disk of ``name`` (that one) as a voter."""
        for asked in self.daemons:
            status = self.status(asked)
            if status is None:
                return False
            disks = [m for m in status["members"] if m["name"] == name]
            if [m["role"] for m in disks] not in (["voter"], ["witness"]):
                return False
            if peer_id is not None and disks[0]["id"] != peer_id:
                return False
        return True

    def kill(self, name: str, number: int = signal.SIGKILL) -> int:
        daemon = self.daemons.pop(name)
        daemon.send_signal(number)
        return daemon.wait(timeout=10 * SCALE)

    def log(self, name: str) -> str:
        return (self.base / f"{name}.log").read_text()

    def connect(
        self, name: str, kind: str, *then: Any, cell: str | None = None, as_peer: str | None = None
    ) -> Connection:
        """Introduce a client, or peer ``as_peer``, and send what is to follow."""
        context = client_context(client_files(self.base / "certs")) if self.tls else None
        if as_peer and self.tls:
            context = client_context(peer_files(self.base / "certs", as_peer))
        cell = self.cell.identity if cell is None else cell
        introduction = Introduction(VERSION, RELEASE, FEATURES, kind, cell)
        connection = Connection(self.ports[name], context, introduction, *then)
        self.connections.append(connection)
        return connection

    def ask(self, name: str, /, as_peer: str | None = None, **request: Any) -> dict[str, Any]:
        connection = self.connect(name, "control", as_peer=as_peer)
        try:
            connection.send(request)
            return connection.receive()
        finally:
            connection.close()

    def status(self, name: str) -> dict[str, Any] | None:
        try:
            return self.ask(name, op="status")
        except (OSError, EOFError):
            return None

    def leader(self, *, but: str = "") -> str | None:
        """The peer whose engine serves, as far as it itself says."""
        for name in self.daemons:
            status = self.status(name)
            if status and status["leader"] == name != but and status["serving"]:
                return name
        return None

    def settled(self, seconds: float = 20) -> str:
        """Wait until one leads, all engines are ready, and the leader knows it."""

        def probe() -> str | None:
            leader = self.leader()
            states = [self.status(name) for name in self.daemons]
            fit = ("ready", "active")
            good = all(s and (s["witness"] or s["engine"]["state"] in fit) for s in states)
            return leader if good and leader and self._knows_heirs(leader) else None

        return within(seconds, probe, every=0.05)

    def _knows_heirs(self, leader: str) -> bool:
        """Whether the leader has heard from every other peer that it could take over."""
        members = (self.status(leader) or {"members": []})["members"]
        return bool(members) and all(
            m["engine_ready"] or m["role"] == "witness" or m["name"] == leader for m in members
        )

    def order(self, name: str, **order: Any) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(json.dumps(order).encode(), str(self.toys / f"{name}.orders"))

    def diary(self, name: str, event: str = "") -> list[dict[str, Any]]:
        path = self.toys / f"{name}.diary"
        if not path.exists():
            return []
        lines = path.read_bytes().rpartition(b"\n")[0].splitlines()
        entries = [json.loads(line) for line in lines]
        return [entry for entry in entries if not event or entry["event"] == event]

    def diary_length(self, name: str, event: str, least: int) -> bool:
        return len(self.diary(name, event)) >= least

    def engine_pid(self, name: str) -> int:
        status = self.status(name)
        return int(status["engine"]["pid"]) if status else 0

    def propose(self, name: str, tag: str, count: int, size: int = 100) -> None:
        self.order(name, op="propose", count=count, size=size, tag=tag)

    def fed(self, name: str, tag: str, count: int, seconds: float = 10) -> None:
        """Wait until the engine of ``name`` has been told of all values of ``tag``."""
        within(
            seconds,
            lambda: sum(v.startswith(tag + "-") for v in self.values(name)) >= count,
            every=0.02,
        )

    def values(self, name: str, pid: int | None = None) -> list[str]:
        """The toy values that the newest engine of ``name`` was told of, in order."""
        entries = self.diary(name)
        pid = pid or (entries[-1]["pid"] if entries else 0)
        return [
            e["text"] for e in self.diary(name, "record") if e["pid"] == pid and "-" in e["text"]
        ]
