"""Unmodified processes of Dask with ours, over TLS: nothing is negotiated and all goes on as ever.

Every process is one of its own: ``dask scheduler``, ``dask worker``, a script with a plain Client.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed import Security

from client_replay import Client
from ha_scheduler.deploy.ports import free_ports
from ha_scheduler.security.authority import client_files, engine_files
from tests.certificates import issue
from tests.deadlines import SCALE

pytestmark = pytest.mark.system

DEADLINE_S = 60 * SCALE
SCRIPT = """
import sys
from distributed import Client, Security

address, ca, cert, key = sys.argv[1:]
security = Security(tls_ca_file=ca, tls_client_cert=cert, tls_client_key=key)
with Client(address, security=security, timeout=60) as client:
    client.wait_for_workers(1, timeout=60)
    print(client.submit(sum, [1, 2, 3]).result(timeout=60))
assert not [name for name in sys.modules if name.startswith(("ha_scheduler", "client_replay"))]
"""

KIND = """
import sys
from distributed import Client, Security

address, ca, cert, key = sys.argv[1:]
assert not [name for name in sys.modules if name.startswith(("ha_scheduler", "client_replay"))]
security = Security(tls_ca_file=ca, tls_client_cert=cert, tls_client_key=key)
with Client(address, security=security, timeout=60) as client:
    client.submit(sum, [1, 2, 3])
    print(type(client).__module__, client._ha.journal.last)
"""

ROOT = str(Path(__file__).parents[2])


class Files:
    """Certificates on disk, and processes that use them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        made = issue(directory, "a")
        files = client_files(made)
        ca, cert, key = files.ca_file, files.cert_file, files.key_file
        self.paths = {"ca_file": ca, "client_cert": cert, "client_key": key}
        self.worker = (f"--tls-ca-file={ca}", f"--tls-cert={cert}", f"--tls-key={key}")
        files = engine_files(made, "a")
        ca, cert, key = files.ca_file, files.cert_file, files.key_file
        self.engine = (f"--tls-ca-file={ca}", f"--tls-cert={cert}", f"--tls-key={key}")
        self.processes: list[subprocess.Popen[bytes]] = []

    @property
    def security(self) -> Security:
        return Security(**{f"tls_{name}": str(path) for name, path in self.paths.items()})

    def start(self, *command: str) -> None:
        """Start ``python -m command``, a server that goes on until the test is over."""
        options = self.worker if "worker" in command else self.engine
        environment = {**os.environ, "DASK_CONFIG": str(self.directory), "PYTHONPATH": ROOT}
        with (self.directory / "log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *command, *options],
                cwd=self.directory,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.processes.append(process)


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Files]:
    made = Files(tmp_path)
    yield made
    for process in made.processes:
        process.kill()
        process.wait()


def test_an_unmodified_worker_and_client_work_with_our_engine(files: Files) -> None:
    (port,) = free_ports("127.0.0.1", 1)
    address = f"tls://127.0.0.1:{port}"
    files.start("tests.standalone", f"--port={port}")
    files.start("dask", "worker", address, "--no-nanny", "--no-dashboard", "--nthreads=1")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, address, *map(str, files.paths.values())],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.stdout.split() == ["6"], done.stderr + (files.directory / "log").read_text()
    assert "this client does not" in done.stderr  # outlive its leader, and what to do about it


def test_a_program_that_knows_nothing_of_ours_gets_our_client_for_the_address_of_a_cell(
    files: Files,
) -> None:
    (port,) = free_ports("127.0.0.1", 1)
    files.start("tests.standalone", f"--port={port}")
    done = subprocess.run(
        [sys.executable, "-c", KIND, f"ha://127.0.0.1:{port}", *map(str, files.paths.values())],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.stdout.split() == ["client_replay.client", "1"], done.stderr
    assert "does not" not in done.stderr


def test_our_worker_and_client_work_with_an_unmodified_scheduler(files: Files) -> None:
    (port,) = free_ports("127.0.0.1", 1)
    address = f"tls://127.0.0.1:{port}"
    ours = ("--preload", "ha_scheduler.worker.preload")
    files.start("dask", "scheduler", f"--host={address}", "--dashboard-address=:0")
    files.start("dask", "worker", address, "--no-nanny", "--no-dashboard", "--nthreads=1", *ours)
    with Client(address, security=files.security, timeout=DEADLINE_S) as client:
        client.wait_for_workers(1, timeout=DEADLINE_S)
        assert client.submit(sum, [1, 2, 3]).result(timeout=DEADLINE_S) == 6
        (kind,) = client.run(lambda dask_worker: type(dask_worker).__module__).values()
        assert re.match("ha_scheduler", kind)
