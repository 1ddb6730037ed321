"""Processes with each kind of certificate lie to every port of a cell, and an honest user goes on.

Slow: ``make test PYTEST_ARGS="-m slow tests/adversary/test_cell.py"``; ``DASK_HA_TEST_LIES`` is for
how many seconds, a minute by default.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import struct
import threading
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest

from ha_scheduler import LocalHACluster
from ha_scheduler.cell.tls_files import TlsFiles
from ha_scheduler.protocol import frames
from ha_scheduler.protocol.introduction import Kind, introduce
from ha_scheduler.security.authority import client_files, engine_files
from tests.adversary.lies import of_ours, one_wrong, packs
from tests.certificates import certificate_of, issue
from tests.deadlines import SCALE

pytestmark = [pytest.mark.system, pytest.mark.slow]

LIES_S = float(os.environ.get("DASK_HA_TEST_LIES", "60"))
LATE_S_MAX = 5.0 * SCALE
CALLER_S = 0.3  # each connection goes on for about as long


def context(files: TlsFiles | None, alpn: bool) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    if files is not None:
        made.load_cert_chain(files.cert_file, files.key_file)
    if alpn:
        made.set_alpn_protocols(["dask-ha/1"])
    return made


class Liar(threading.Thread):
    """Calls all ports with one certificate, over and over."""

    def __init__(
        self,
        name: str,
        files: TlsFiles | None,
        ports: list[tuple[str, int]],
        cell: str,
        over: threading.Event,
    ) -> None:
        super().__init__(name=name)
        self.rng = Random(name)
        self.contexts = [context(files, alpn) for alpn in (True, False)]
        self.ports, self.cell, self.over = ports, cell, over
        self.calls = 0

    def run(self) -> None:
        while not self.over.is_set():
            with contextlib.suppress(OSError):
                self._call(self.rng.choice(self.ports))
            self.calls += 1

    def _call(self, port: tuple[str, int]) -> None:
        rng = self.rng
        with socket.create_connection(port, 2) as plain:
            plain.settimeout(CALLER_S)
            if rng.random() < 0.1:
                plain.sendall(rng.randbytes(rng.choice([1, 5, 300])))
                return
            with rng.choice(self.contexts).wrap_socket(plain) as caller:
                said = [self._begin(), *(self._word() for _ in range(rng.randrange(6)))]
                for word in said * rng.choice([1, 1, 2]):
                    caller.sendall(word)
                if rng.random() < 0.3:
                    time.sleep(CALLER_S)  # late
                    caller.sendall(self._word())
                with contextlib.suppress(OSError):
                    while caller.recv(65536):
                        pass

    def _begin(self) -> bytes:
        kind = self.rng.choice(list(Kind))
        cell = self.rng.choice(["", self.cell, "another"])
        return frames.pack(introduce(kind, cell, self.rng.choice("abcx")))

    def _word(self) -> bytes:
        rng = self.rng
        message = of_ours(rng)
        if rng.random() < 0.7:
            message = one_wrong(message, rng)
        if not packs(message):
            return rng.randbytes(64)
        packed = frames.pack(message)
        if rng.random() < 0.3:  # as a message of Dask
            body = struct.pack("QQ", 1, len(packed) - 4) + packed[4:]
            return struct.pack("Q", len(body)) + body
        return packed if rng.random() < 0.9 else packed[: len(packed) // 2]


def test_an_honest_user_of_a_cell_notices_nothing_of_what_others_say(tmp_path: Path) -> None:
    with (
        LocalHACluster(n_peers=3, n_workers=1, nanny=False) as cluster,
        cluster.get_client() as client,
    ):
        held = client.submit(int, 7, pure=False)
        assert held.result(20 * SCALE) == 7
        assert cluster.cell is not None
        status = cluster.cell.control.status(cluster.leader.name)
        pids = [peer.pid for peer in cluster.peers]
        engines = [peer.engine_pid for peer in cluster.peers]
        ports = [(p.host, n) for p in cluster.cell.cell.peers for n in (p.peer_port, p.dask_port)]
        for address in client.scheduler_info()["workers"]:
            host, _, number = address.removeprefix("tls://").rpartition(":")
            ports.append((host, int(number)))
        own = cluster.directory / "certificates"
        other = issue(tmp_path / "other", "a", "b", "c")
        holders: dict[str, Any] = {
            "none": None,
            "guest": certificate_of(own, "guest"),
            "client": client_files(own),
            "engine": engine_files(own, "a"),
            "another cell's client": client_files(other),
            "another cell's engine": engine_files(other, "a"),
        }
        over = threading.Event()
        liars = [Liar(name, files, ports, status.cell, over) for name, files in holders.items()]
        for liar in liars:
            liar.start()
        worst, until, number = 0.0, time.monotonic() + LIES_S, 0
        try:
            while time.monotonic() < until:
                began = time.monotonic()
                assert client.submit(abs, -number, pure=False).result(60 * SCALE) == number
                worst = max(worst, time.monotonic() - began)
                number += 1
        finally:
            over.set()
            for liar in liars:
                liar.join()
        assert worst < LATE_S_MAX, worst
        assert held.result(10 * SCALE) == 7
        assert [peer.pid for peer in cluster.peers] == pids
        assert [peer.engine_pid for peer in cluster.peers] == engines
        assert cluster.cell.control.status(cluster.leader.name).term == status.term
        assert min(liar.calls for liar in liars) > 10
