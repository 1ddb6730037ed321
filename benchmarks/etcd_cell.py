"""Three members of Debian's ``etcd-server`` on loopback, with TLS, for comparison.

Members use the certificates of a cell of ours, so both sides pay for the same ciphers. The client
is one process with gRPC's C core and keeps so many ``Put`` outstanding as it is told; it talks to
the leading member, as our engine talks to the leading daemon. Its CPU time is reported too: the
members and the client share the cores.

Limits are raised as far as etcd has options for them: a request of ``REQUEST_BYTES_MAX``, a store
of 8 GiB.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from threading import Condition
from typing import Any

import grpc
import psutil

from benchmarks.figures import percentile
from ha_scheduler.cell.peers import Cell
from ha_scheduler.deploy.ports import free_ports
from ha_scheduler.protocol.peer import PeerAddress
from ha_scheduler.security.authority import client_files, ensure_certificates, peer_files

HOST = "127.0.0.1"
NAMES = ("a", "b", "c")
START_TIMEOUT_S = 60.0
PUT_TIMEOUT_S = 60.0
REQUEST_BYTES_MAX = 256 * 1024 * 1024  # --max-request-bytes; 1.5 MiB by default
STORE_BYTES_MAX = 8 * 1024 * 1024 * 1024  # --quota-backend-bytes
PROGRAMS = ("etcd", "etcdctl")
_PUT = "/etcdserverpb.KV/Put"


class RefusedError(Exception):
    """etcd does not take this payload; its words."""


def installed() -> bool:
    return all(shutil.which(program) for program in PROGRAMS)


class EtcdCell:
    """Members under ``directory``; ended, and their data gone, with the ``with`` block."""

    def __init__(self, under: Path | None) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="etcd-cell-", dir=under)
        self.directory = Path(self._temporary.name)
        ports = iter(free_ports(HOST, 2 * len(NAMES)))
        self._cell = Cell(tuple(PeerAddress(n, HOST, next(ports), next(ports)) for n in NAMES))
        ensure_certificates(self.directory / "certificates", self._cell)
        self._members: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> EtcdCell:
        try:
            for peer in self._cell.peers:
                self._start(peer)
            self.leader = self._await_leader()
            self._channel = self._connect(self._cell.peer(self.leader))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if hasattr(self, "_channel"):
            self._channel.close()
        for member in self._members.values():
            member.kill()
            member.wait()
        self._temporary.cleanup()

    def _start(self, peer: PeerAddress) -> None:
        files = peer_files(self.directory / "certificates", peer.name)
        cluster = ",".join(f"{p.name}=https://{HOST}:{p.peer_port}" for p in self._cell.peers)
        client, to_peers = f"https://{HOST}:{peer.dask_port}", f"https://{HOST}:{peer.peer_port}"
        tls = [
            f"--{prefix}{option}={path}"
            for prefix in ("", "peer-")
            for option, path in (
                ("trusted-ca-file", files.ca_file),
                ("cert-file", files.cert_file),
                ("key-file", files.key_file),
            )
        ]
        with (self.directory / f"{peer.name}.log").open("ab") as log:
            self._members[peer.name] = subprocess.Popen(
                [
                    "etcd",
                    f"--name={peer.name}",
                    f"--data-dir={self.directory / peer.name}",
                    f"--initial-cluster={cluster}",
                    f"--initial-advertise-peer-urls={to_peers}",
                    f"--listen-peer-urls={to_peers}",
                    f"--listen-client-urls={client}",
                    f"--advertise-client-urls={client}",
                    "--client-cert-auth",
                    "--peer-client-cert-auth",
                    f"--max-request-bytes={REQUEST_BYTES_MAX}",
                    f"--quota-backend-bytes={STORE_BYTES_MAX}",
                    "--logger=zap",
                    "--log-level=error",
                    *tls,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _await_leader(self) -> str:
        files = client_files(self.directory / "certificates")
        endpoints = ",".join(f"https://{HOST}:{p.dask_port}" for p in self._cell.peers)
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            done = subprocess.run(
                [
                    *("etcdctl", f"--endpoints={endpoints}", f"--cacert={files.ca_file}"),
                    *(f"--cert={files.cert_file}", f"--key={files.key_file}"),
                    *("endpoint", "status", "--write-out=json"),
                ],
                capture_output=True,
                env={"ETCDCTL_API": "3", "PATH": "/usr/bin:/bin:/usr/local/bin"},
                check=False,
            )
            if done.returncode == 0:
                for place, member in zip(self._cell.peers, json.loads(done.stdout), strict=True):
                    if member["Status"]["leader"] == member["Status"]["header"]["member_id"]:
                        return place.name
        logs = "".join((self.directory / f"{n}.log").read_text()[-2000:] for n in NAMES)
        raise TimeoutError(f"etcd has no leader after {START_TIMEOUT_S:g} s: {logs}")

    def _connect(self, peer: PeerAddress) -> Any:
        files = client_files(self.directory / "certificates")
        credentials = grpc.ssl_channel_credentials(
            files.ca_file.read_bytes(), files.key_file.read_bytes(), files.cert_file.read_bytes()
        )
        unlimited = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        return grpc.secure_channel(f"{HOST}:{peer.dask_port}", credentials, options=unlimited)

    # -- load

    def load(
        self, *, size: int, outstanding: int, seconds: float, least: int, names: int
    ) -> dict[str, Any]:
        """As ``LoadCell.load``. Raises ``RefusedError``."""
        cpu, own = self._cpu(), time.process_time()
        result = _Puts(self._channel, size, outstanding, names).run(seconds, least)
        spent = {name: now - cpu[name] for name, now in self._cpu().items()}
        result["engine_cpu"] = time.process_time() - own
        result["leader_cpu"] = spent.pop(self.leader)
        result["follower_cpu"] = max(spent.values())
        return result

    def _cpu(self) -> dict[str, float]:
        times = {n: psutil.Process(m.pid).cpu_times() for n, m in self._members.items()}
        return {name: t.user + t.system for name, t in times.items()}


class _Puts:
    """One run of the client."""

    def __init__(self, channel: Any, size: int, outstanding: int, names: int) -> None:
        self._put: Callable[..., Any] = channel.unary_unary(_PUT)
        self._value = _field(2, bytes(_random(size)))
        self._outstanding = outstanding
        self._names = names
        self._changed = Condition()
        self._open = 0
        self._failure: Exception | None = None
        self._latencies: list[float] = []

    def run(self, seconds: float, least: int) -> dict[str, Any]:
        began, sent = time.monotonic(), 0
        while time.monotonic() < began + seconds or sent < least:
            self._wait(self._outstanding - 1)
            sent += 1
            self._send(f"value-{sent % self._names}".encode())
        self._wait(0)
        return {
            "payloads": len(self._latencies),
            "seconds": time.monotonic() - began,
            "p50": percentile(self._latencies, 0.5),
            "p99": percentile(self._latencies, 0.99),
            "max": max(self._latencies),
        }

    def _send(self, name: bytes) -> None:
        with self._changed:
            self._open += 1
        began = time.monotonic()
        call = self._put.future(_field(1, name) + self._value, timeout=PUT_TIMEOUT_S)
        call.add_done_callback(lambda done: self._done(done, time.monotonic() - began))

    def _done(self, call: Any, took_s: float) -> None:
        with self._changed:
            self._open -= 1
            if call.code() is grpc.StatusCode.OK:
                self._latencies.append(took_s)
            else:
                self._failure = RefusedError(f"{call.code().name}: {call.details()}")
            self._changed.notify()

    def _wait(self, most: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._open <= most or self._failure)
            if self._failure is not None:
                raise self._failure


def _random(size: int) -> bytes:
    with open("/dev/urandom", "rb") as source:
        return source.read(size)


def _field(number: int, value: bytes) -> bytes:
    """A field of bytes in a protobuf message: ``PutRequest`` has key = 1 and value = 2."""
    length, rest = bytearray(), len(value)
    while rest > 0x7F:
        length.append(rest & 0x7F | 0x80)
        rest >>= 7
    length.append(rest)
    return bytes((number << 3 | 2,)) + bytes(length) + value
