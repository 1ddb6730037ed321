"""HAProxy, nginx, keepalived's check and a probe as Kubernetes makes it, before a real cell.

The configurations are those of ``docs/operations/load-balancers.md``, with other ports.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ha_scheduler.comm.preamble import RACING, NotLeading, TLSConnector
from ha_scheduler.deploy.ports import free_ports
from ha_scheduler.security.authority import client_files
from tests.certificates import security_of
from tests.deadlines import SCALE
from tests.peer.test_web_port import Doors
from tests.peer.toy_cell import ToyCell, report, within

pytestmark = [pytest.mark.slow, pytest.mark.system]

PAGE = Path(__file__).parents[2] / "docs" / "operations" / "load-balancers.md"


def configuration(kind: str, replaced: dict[str, str]) -> str:
    """A block of the page, with other texts in some places."""
    (block,) = re.findall(rf"```{kind}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    for old, new in replaced.items():
        assert old in block, old
        block = block.replace(old, new)
    return str(block)


@contextmanager
def running(*command: str) -> Iterator[None]:
    if shutil.which(command[0]) is None:
        pytest.skip(f"there is no {command[0]}")
    process = subprocess.Popen(command)
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
def cell(tmp_path: Path) -> Iterator[tuple[ToyCell, Doors]]:
    ports = dict(zip("abc", free_ports("127.0.0.1", 3), strict=True))
    with ToyCell(tmp_path, http=ports) as cell:
        cell.settled()
        yield cell, Doors(cell, ports)


def addresses(cell: ToyCell, doors: Doors) -> dict[str, str]:
    """The ports of the page's peers, and those of ours."""
    found = {}
    for number, name in enumerate(cell.names, 1):
        dask = cell.cell.peer(name).dask_port
        found[f"10.0.0.{number}:8786 check port 8788"] = (
            f"127.0.0.1:{dask} check port {doors.ports[name]}"
        )
    return found


def listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def is_up(control: Path) -> Callable[[], str | None]:
    """Which server HAProxy sends callers to, if it is one."""

    def ask() -> str | None:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(control))
            sock.sendall(b"show stat\n")
            rows = [row.split(",") for row in sock.makefile().read().splitlines()]
        up = [row[1] for row in rows if len(row) > 17 and row[1] in "abc" and row[17] == "UP"]
        return up[0] if len(up) == 1 else None

    return ask


def test_haproxy_sends_callers_to_the_leader(cell: tuple[ToyCell, Doors], tmp_path: Path) -> None:
    toys, doors = cell
    (front,) = free_ports("127.0.0.1", 1)
    control, file = tmp_path / "haproxy.sock", tmp_path / "haproxy.cfg"
    block = configuration(
        "haproxy",
        {
            **addresses(toys, doors),
            "bind :8786": f"bind 127.0.0.1:{front}",
            "/etc/haproxy/dask-ca.pem": str(tmp_path / "certs" / "ca.pem"),
        },
    )
    file.write_text(f"global\n  stats socket {control}\n{block}")
    with running("haproxy", "-f", str(file)):
        within(10, control.exists, every=0.05)
        leader = within(10, is_up(control), every=0.05)
        assert leader == toys.leader()
        toys.kill(leader)
        began = time.monotonic()
        within(20, lambda: is_up(control)() not in (None, leader), every=0.02)
        report(f"HAProxy: the next leader after {time.monotonic() - began:.1f} s")


async def test_our_callers_are_told_of_the_leader_by_whomever_nginx_chooses(
    cell: tuple[ToyCell, Doors], tmp_path: Path
) -> None:
    toys, _ = cell
    (front,) = free_ports("127.0.0.1", 1)
    block = configuration(
        "nginx",
        {
            **{
                f"10.0.0.{n}:8786": f"127.0.0.1:{toys.cell.peer(name).dask_port}"
                for n, name in enumerate(toys.names, 1)
            },
            "listen 8786": f"listen 127.0.0.1:{front}",
        },
    )
    module = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
    if not module.exists():
        pytest.skip("nginx has no stream module")
    file = tmp_path / "nginx.conf"
    begin = f"load_module {module};\npid {tmp_path}/nginx.pid;\nerror_log {tmp_path}/nginx.log;\n"
    file.write_text(f"{begin}daemon off;\nmaster_process off;\nevents {{}}\n{block}")
    leader = toys.leader()
    assert leader is not None
    security = security_of(client_files(tmp_path / "certs"))
    client = {**security.get_connection_args("client"), RACING: True}
    with running("nginx", "-c", str(file)):
        within(10, lambda: listens(front), every=0.05)
        told = set()
        for _ in range(12):  # round robin: every peer is asked; the toy that leads is silent
            try:
                async with asyncio.timeout(2 * SCALE):
                    await TLSConnector().connect(f"127.0.0.1:{front}", **client)
            except NotLeading as follower:
                told.add(follower.leader.port)
            except (OSError, TimeoutError):
                pass
        assert told == {toys.cell.peer(leader).dask_port}


def test_the_check_of_keepalived_is_true_on_the_leader_alone(
    cell: tuple[ToyCell, Doors], tmp_path: Path
) -> None:
    toys, doors = cell
    if shutil.which("curl") is None:
        pytest.skip("there is no curl")
    block = configuration("keepalived", {})
    (script,) = re.findall(r'script "(.*)"', block)
    leader = toys.leader()
    for name, port in doors.ports.items():
        command = script.replace("8788", str(port)).replace(
            "/etc/keepalived/dask-ca.pem", str(tmp_path / "certs" / "ca.pem")
        )
        status = subprocess.run(command.split(), capture_output=True, check=False).returncode
        assert (status == 0) == (name == leader), (name, status)
    if shutil.which("keepalived") is not None:
        file = tmp_path / "keepalived.conf"
        file.write_text(block)
        checked = subprocess.run(
            ["keepalived", "--config-test", "-f", str(file)], capture_output=True, check=False
        )
        assert b"Unknown keyword" not in checked.stderr, checked.stderr


def test_the_probes_of_kubernetes_count_all_peers_of_a_sound_cell(
    cell: tuple[ToyCell, Doors],
) -> None:
    """The kubelet shows no certificate and no token, and verifies none."""
    toys, doors = cell
    blind = ssl.create_default_context()
    blind.check_hostname, blind.verify_mode = False, ssl.CERT_NONE

    def code(name: str, path: str) -> int:
        url = f"https://127.0.0.1:{doors.ports[name]}{path}"
        try:
            with urllib.request.urlopen(url, timeout=5 * SCALE, context=blind) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    within(10, lambda: all(code(name, "/ready") == 200 for name in toys.names), every=0.05)
    assert all(code(name, "/health") == 200 for name in toys.names)
    leading = [name for name in toys.names if code(name, "/leader") == 200]
    assert leading == [toys.leader()]
