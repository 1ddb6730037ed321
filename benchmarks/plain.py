"""A plain ``dask scheduler`` with workers, for comparison: real processes, TLS, loopback."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from distributed import Client
from distributed.security import Security

from ha_scheduler.cell.peers import Cell
from ha_scheduler.deploy.ports import free_ports
from ha_scheduler.protocol.peer import PeerAddress
from ha_scheduler.security.authority import client_files, ensure_certificates

HOST = "127.0.0.1"


class PlainCluster:
    """Upstream's scheduler and workers, ended with the ``with`` block."""

    def __init__(self, n_workers: int, *, tls: bool = True) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="plain-dask-")
        self._tls, self.security = self._with_tls() if tls else ([], Security())
        scheme = "tls" if tls else "tcp"
        self.address = f"{scheme}://{HOST}:{free_ports(HOST, 1)[0]}"
        scheduler = self._start("scheduler", f"--host={self.address}", "--dashboard-address=:0")
        self.scheduler_pid = scheduler.pid
        self._processes = [scheduler]
        for _ in range(n_workers):
            self._processes.append(
                self._start(
                    "worker", self.address, "--nthreads=1", "--host=127.0.0.1", "--no-nanny",
                    "--dashboard-address=:0",
                )
            )  # fmt: skip
        self._n_workers = n_workers

    def _with_tls(self) -> tuple[list[str], Security]:
        root = Path(self._directory.name)
        ensure_certificates(root, Cell((PeerAddress("a", HOST, 8785, 8786),)))
        files = client_files(root)
        words = [
            f"--tls-ca-file={files.ca_file}",
            f"--tls-cert={files.cert_file}",
            f"--tls-key={files.key_file}",
        ]
        return words, Security(
            require_encryption=True,
            tls_ca_file=str(files.ca_file),
            tls_client_cert=str(files.cert_file),
            tls_client_key=str(files.key_file),
        )

    def _start(self, command: str, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "dask", command, *arguments, *self._tls],
            cwd=self._directory.name,
            env={**os.environ, "PYTHONHASHSEED": "0"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def get_client(self) -> Any:
        """Upstream's client, once all workers are there."""
        client = Client(self.address, security=self.security, set_as_default=False)
        client.wait_for_workers(self._n_workers, timeout=60)
        return client

    def __enter__(self) -> PlainCluster:
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._processes):
            process.kill()
        for process in self._processes:
            process.wait()
        self._directory.cleanup()
