"""A process of no good: it calls every port of a cell and says what is wrong, over and over."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
import time
from random import Random

from chaos.faults.lies import of_ours, one_wrong, packs
from ha_scheduler.cell.tls_files import TlsFiles
from ha_scheduler.protocol import frames
from ha_scheduler.protocol.introduction import Kind, introduce

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
