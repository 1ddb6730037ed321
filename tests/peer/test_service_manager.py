"""What a daemon tells the service manager that has started it, at a real datagram socket."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ha_scheduler.peer.operators.service_manager import ServiceManager
from tests.deadlines import SCALE
from tests.peer.toy_cell import ToyCell


@contextlib.contextmanager
def listening(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(address.replace("@", "\0", 1))
        sock.settimeout(10 * SCALE)
        yield sock


def heard_within(seconds: float, sock: socket.socket) -> bool:
    return bool(select.select([sock], [], [], seconds)[0])


def waiting(sock: socket.socket) -> list[bytes]:
    """What has come."""
    found = []
    while heard_within(0, sock):
        found.append(sock.recv(100))
    return found


@pytest.fixture(params=["path", "abstract"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"@{tmp_path}" if request.param == "abstract" else str(tmp_path / "notify")


def test_signs_of_life_come_twice_in_the_time_that_was_asked_for(address: str) -> None:
    given = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}
    with listening(address) as sock:
        manager = ServiceManager.of(given)
        manager.ready()
        for tenths in range(61):
            manager.tick(1000 + tenths / 10)
        manager.stopping()
        assert waiting(sock) == [b"READY=1", *[b"WATCHDOG=1"] * 5, b"STOPPING=1"]
        manager.close()


def test_nobody_that_is_started_later_knows_where_to_speak() -> None:
    given = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "PATH": "/bin"}
    ServiceManager.of(given)
    assert given == {"PATH": "/bin"}


@pytest.mark.parametrize(
    "watchdog",
    [
        {},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"},  # a daemon that has started this one
    ],
)
def test_who_asked_for_no_sign_of_life_gets_none(watchdog: dict[str, str], tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with listening(address) as sock:
        manager = ServiceManager.of({"NOTIFY_SOCKET": address, **watchdog})
        manager.ready()
        manager.tick(1000)
        assert waiting(sock) == [b"READY=1"]
        manager.close()


@pytest.mark.parametrize("named", ["", "vsock:2:1234", "relative"])
def test_without_a_manager_nothing_is_said_and_nothing_fails(named: str) -> None:
    manager = ServiceManager.of({"NOTIFY_SOCKET": named, "WATCHDOG_USEC": "1"})
    manager.ready()
    manager.tick(1000)
    manager.stopping()
    manager.close()


def test_a_manager_that_was_busy_is_told_as_soon_as_it_has_room(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    given = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "3000000"}
    with listening(address) as sock, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as crowd:
        crowd.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                crowd.sendto(b"OTHER=1", address)
        manager = ServiceManager.of(given)
        began = time.monotonic()
        manager.ready()
        manager.tick(1000)
        assert time.monotonic() - began < 1 * SCALE
        assert set(waiting(sock)) == {b"OTHER=1"}
        manager.tick(1000.1)
        assert waiting(sock) == [b"READY=1", b"WATCHDOG=1"]
        manager.close()


@pytest.mark.system
def test_a_daemon_is_ready_lives_while_its_loop_does_and_says_that_it_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    monkeypatch.setenv("WATCHDOG_USEC", "400000")
    with listening(address) as sock, ToyCell(tmp_path, names="a") as cell:
        assert sock.recv(100) == b"READY=1"
        assert cell.status("a") is not None
        assert [sock.recv(100) for _ in range(3)] == [b"WATCHDOG=1"] * 3

        cell.settled()
        with contextlib.suppress(PermissionError):  # the engine is closed to others of its user
            inherited = Path(f"/proc/{cell.engine_pid('a')}/environ").read_bytes()
            assert b"NOTIFY_SOCKET" not in inherited
            assert b"WATCHDOG_USEC" not in inherited

        cell.daemons["a"].send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, cell.daemons["a"].pid, os.WSTOPPED)
        waiting(sock)
        assert not heard_within(0.6, sock)
        cell.daemons["a"].send_signal(signal.SIGCONT)
        assert sock.recv(100) == b"WATCHDOG=1"

        waiting(sock)  # its queue is short
        assert cell.kill("a", signal.SIGTERM) == 0
        said = waiting(sock)
        assert said.count(b"STOPPING=1") == 1
        assert set(said) <= {b"STOPPING=1", b"WATCHDOG=1"}
