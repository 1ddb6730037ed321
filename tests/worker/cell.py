"""A cell of real processes for the tests: workers, and engines to kill, freeze and replace."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ha_scheduler.cell.tls_files import TlsFiles
from ha_scheduler.deploy import ports
from ha_scheduler.security.authority import client_files, engine_files
from tests.deadlines import SCALE

ROOT = Path(__file__).parents[2]
ENGINE = Path(__file__).with_name("filelog_engine.py")


def free_ports(count: int) -> list[int]:
    """Ports that no connection will take for its own end before they are used."""
    return ports.free_ports("127.0.0.1", count)


def eventually(condition: Callable[[], Any], within_s: float, what: str) -> Any:
    """The first true value of ``condition``."""
    deadline = time.monotonic() + within_s * SCALE
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {within_s} s: {what}")


class Cell:
    """``engine(i, term)`` leads on address ``i``; the others refuse, as followers do."""

    def __init__(self, directory: Path, peers: int = 2) -> None:
        self.directory = directory
        self.ports = free_ports(peers)
        self.address = "ha://" + ",".join(f"127.0.0.1:{port}" for port in self.ports)
        self.watch: list[list[Any]] = []
        self.protocol = "tcp"
        self.tls: Path | None = None  # the directory of certificates
        self._processes: list[subprocess.Popen[bytes]] = []

    def _start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": str(ROOT)}
        with (self.directory / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *command],
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
            )
        self._processes.append(process)
        return process

    def engine(self, index: int, term: int) -> subprocess.Popen[bytes]:
        options = {
            "port": str(self.ports[index]),
            "term": str(term),
            "name": f"peer{index}",
            "log": str(self.directory / "records"),
            "watch": json.dumps(self.watch),
            "addresses": json.dumps([f"{self.protocol}://127.0.0.1:{p}" for p in self.ports]),
            "protocol": self.protocol,
        }
        arguments = [f"--{name}={value}" for name, value in options.items()]
        arguments += self._files(engine_files, f"peer{index}")
        return self._start(f"engine{index}", str(ENGINE), *arguments)

    def worker(
        self, name: str, *options: str, address: str | None = None
    ) -> subprocess.Popen[bytes]:
        """``dask worker`` as a user calls it."""
        tls = self._files(client_files)
        return self._start(
            f"worker-{name}",
            *("-m", "distributed.cli.dask_worker", address or self.address),
            *("--name", name, "--nthreads", "2", "--no-dashboard", *tls, *options),
        )

    def _files(self, kind: Callable[..., TlsFiles], *name: str) -> list[str]:
        if self.tls is None:
            return []
        files = kind(self.tls, *name)
        return [
            f"--tls-ca-file={files.ca_file}",
            f"--tls-cert={files.cert_file}",
            f"--tls-key={files.key_file}",
        ]

    def log(self, name: str) -> str:
        return (self.directory / f"{name}.log").read_text()

    def stop(self) -> None:
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
                process.terminate()
        deadline = time.monotonic() + 5
        for process in self._processes:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def cell(directory: Path, peers: int = 2) -> Iterator[Cell]:
    made = Cell(directory, peers)
    try:
        yield made
    finally:
        made.stop()


def kill(process: subprocess.Popen[bytes]) -> None:
    """As a power cut does."""
    process.kill()
    process.wait()
