"""Hosts that can be cut off: a network namespace each, and a bridge in one more that connects them.

Guarantee: a cut drops frames on the bridge's side, in the directions asked for, so that neither a
FIN nor an RST nor anything else tells anybody of it; the host that is cut off does not change. A
counter says how many frames were dropped: a cut that dropped nothing proved nothing.

Nothing outside these namespaces is touched, and they are removed at the end. What a run that was
killed left behind is removed by the next one.

Needs root (CAP_SYS_ADMIN and CAP_NET_ADMIN), iproute2 and nftables.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

SUBNET = "10.77.0"
PREFIX = "dask-ha-"
SWITCH = "switch"
_NAMES = Path("/run/netns")
_CLONE_NEWNET = 0x40000000  # linux/sched.h

_TABLE = """
table bridge cut {
    set sources { type ifname; }
    set targets { type ifname; }
    counter dropped { }
    chain forward {
        type filter hook forward priority 0;
        iifname @sources counter name dropped drop
        oifname @targets counter name dropped drop
    }
}
"""


class NoNamespaces(Exception):
    """Operator: this machine or user cannot make network namespaces; the text says why."""


def check_permitted() -> None:
    """Raises ``NoNamespaces``."""
    for tool, package in (("ip", "iproute2"), ("nft", "nftables")):
        if shutil.which(tool) is None:
            raise NoNamespaces(f"`{tool}` is missing: install the package {package}")
    probe = f"{PREFIX}{os.getpid()}-probe"
    try:
        _run("ip", "netns", "add", probe)
        _run("ip", "netns", "exec", probe, "nft", "add", "table", "bridge", "probe")
    except subprocess.CalledProcessError as error:
        raise NoNamespaces(f"`{' '.join(error.cmd[:3])}` failed: {error.stderr.strip()}") from error
    finally:
        _remove(probe)


class Network:
    """``hosts`` on one switch; each has an address of ``SUBNET`` in the order given."""

    def __init__(self, hosts: Sequence[str]) -> None:
        self.addresses = {host: f"{SUBNET}.{n}" for n, host in enumerate(hosts, start=1)}
        self._prefix = f"{PREFIX}{os.getpid()}-"

    def __enter__(self) -> Network:
        check_permitted()
        _remove_abandoned()
        try:
            self._make()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove every namespace. Idempotent; the processes in them must have ended."""
        for host in (*self.addresses, SWITCH):
            _remove(self._name(host))

    # -- cutting

    def cut(self, host: str, *, sends: bool = False, receives: bool = False) -> None:
        """Let nothing pass from ``host`` unless it ``sends``, and to it unless it ``receives``."""
        commands = ["reset counter bridge cut dropped"]
        if not sends:
            commands.append(f"add element bridge cut sources {{ {_port(host)} }}")
        if not receives:
            commands.append(f"add element bridge cut targets {{ {_port(host)} }}")
        self._nft("\n".join(commands))

    def heal(self) -> int:
        """Let everything pass again. Returns how many frames the cut has dropped."""
        dropped = self.dropped()
        self._nft("flush set bridge cut sources\nflush set bridge cut targets")
        return dropped

    def unplug(self, host: str) -> None:
        """Take the switch's port down: the host loses its carrier, nobody else sees anything."""
        self._in_switch("ip", "link", "set", _port(host), "down")

    def plug_in(self, host: str) -> None:
        self._in_switch("ip", "link", "set", _port(host), "up")

    def dropped(self) -> int:
        """Frames dropped since the last cut began."""
        listed = json.loads(
            self._in_switch("nft", "-j", "list", "counters", "table", "bridge", "cut")
        )
        return sum(item["counter"]["packets"] for item in listed["nftables"] if "counter" in item)

    # -- entering

    @contextlib.contextmanager
    def inside(self, host: str) -> Iterator[None]:
        """In here this thread is on ``host``: the sockets, threads and processes it makes are.

        They stay there. Whoever has no thread to spare may use the main one.
        """
        own = os.open(f"/proc/self/task/{threading.get_native_id()}/ns/net", os.O_RDONLY)
        try:
            _enter_file(_NAMES / self._name(host))
            try:
                yield
            finally:
                _setns(own)
        finally:
            os.close(own)

    # -- making

    def _make(self) -> None:
        for host in (*self.addresses, SWITCH):
            _run("ip", "netns", "add", self._name(host))
        self._in_switch("ip", "link", "add", "bridge", "type", "bridge", "forward_delay", "0")
        self._in_switch("ip", "link", "set", "bridge", "up")
        self._nft(_TABLE)
        for host, address in self.addresses.items():
            self._connect(host, address)

    def _connect(self, host: str, address: str) -> None:
        name, port = self._name(host), _port(host)
        _run(
            "ip", "link", "add", "eth0", "netns", name,
            "type", "veth", "peer", "name", port, "netns", self._name(SWITCH),
        )  # fmt: skip
        self._in_switch("ip", "link", "set", port, "master", "bridge", "up")
        _run("ip", "-n", name, "link", "set", "lo", "up")
        _run("ip", "-n", name, "address", "add", f"{address}/24", "dev", "eth0")
        _run("ip", "-n", name, "link", "set", "eth0", "up")

    def _name(self, host: str) -> str:
        return self._prefix + host

    def _in_switch(self, *command: str) -> str:
        return _run("ip", "netns", "exec", self._name(SWITCH), *command)

    def _nft(self, commands: str) -> None:
        """All or nothing, in one transaction of the kernel."""
        _run("ip", "netns", "exec", self._name(SWITCH), "nft", "-f", "-", text=commands)


def _port(host: str) -> str:
    return f"to-{host}"  # an interface's name has at most 15 characters


def _run(*command: str, text: str | None = None) -> str:
    return subprocess.run(command, input=text, check=True, capture_output=True, text=True).stdout


def _remove(name: str) -> None:
    if (_NAMES / name).exists():
        _run("ip", "netns", "delete", name)


def _remove_abandoned() -> None:
    """The namespaces of runs that are over; their processes ended with them."""
    for path in _NAMES.glob(f"{PREFIX}*-*"):
        pid = path.name.removeprefix(PREFIX).partition("-")[0]
        if pid.isdigit() and not Path("/proc", pid).exists():
            with contextlib.suppress(subprocess.CalledProcessError):  # two runs sweep at once
                _remove(path.name)


def _enter_file(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        _setns(fd)
    finally:
        os.close(fd)


def _setns(fd: int) -> None:
    """Of this thread alone. ``os.setns`` is of Python 3.12."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns failed")
