"""Hosts that can be cut off: a network namespace each, and a bridge in one more that connects them.

Guarantee: a cut drops frames on the bridge's side, from one host to another, so that neither a FIN
nor an RST nor anything else tells anybody of it; the host that is cut off does not change. Each cut
counts what it dropped: one that dropped nothing proved nothing. Other rules count likewise: what
takes ARP away, or what tells of the end of a connection.

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
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

SUBNET = "10.77.0"
PREFIX = "dask-ha-"
SWITCH = "switch"
PORT_PREFIX, FAR_PREFIX = "to-", "far-"  # of a host's port, and of its wire's, if it has one
SETS = ("links", "without_arp", "without_ends")
_NAMES = Path("/run/netns")
_CLONE_NEWNET = 0x40000000  # linux/sched.h

_TABLE = """
table bridge cut {
    set links { type ifname . ifname; counter; }
    set without_arp { type ifname; counter; }
    set without_ends { type ifname; counter; }
    chain forward {
        type filter hook forward priority 0;
        iifname . oifname @links drop
        ether type arp iifname @without_arp drop
        ip protocol tcp tcp flags & (fin | rst) != 0 iifname @without_ends drop
    }
}
"""

#: Answers what a host sends and gets of the cell's connections with a reset to its own processes
#: and to the others.
_RESETS = """
table inet resets {
    counter answered { }
    chain output {
        type filter hook output priority 0;
        tcp flags & rst == 0 oifname "eth0" counter name answered reject with tcp reset
    }
    chain input {
        type filter hook input priority 0;
        tcp flags & rst == 0 iifname "eth0" counter name answered reject with tcp reset
    }
}
"""

#: What can be taken from what a host sends: ARP, or the packets that end a connection of TCP.
Taken = Literal["without_arp", "without_ends"]

#: From one host to another, by their names.
Link = tuple[str, str]


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
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        """Make the hosts and connect them. Raises ``NoNamespaces``."""
        check_permitted()
        _remove_abandoned()
        try:
            self._make()
        except BaseException:
            self.close()
            raise

    @property
    def will(self) -> list[list[str]]:
        """The commands that remove them all, for when this process cannot."""
        return [["ip", "netns", "delete", self._name(host)] for host in (*self.addresses, SWITCH)]

    def close(self) -> None:
        """Remove every namespace. Idempotent; the processes in them must have ended."""
        for host in (*self.addresses, SWITCH):
            _remove(self._name(host))

    # -- cutting

    def cut(self, host: str, *, sends: bool = False, receives: bool = False) -> None:
        """Let nothing pass from ``host`` unless it ``sends``, and to it unless it ``receives``."""
        self.cut_links(self.links_of([host], sends=not sends, receives=not receives))

    def links_of(
        self, hosts: Iterable[str], *, sends: bool = True, receives: bool = True
    ) -> list[Link]:
        """Between these hosts and all others: those that they send by, and receive by."""
        inside = set(hosts)
        outside = [host for host in self.addresses if host not in inside]
        pairs = [(a, b) for a in inside for b in outside]
        return [*(pairs if sends else ()), *((b, a) for a, b in pairs if receives)]

    def cut_links(self, links: Iterable[Link]) -> None:
        """Let nothing pass from the first to the second of each."""
        self._add("links", _ports(links))

    def heal_links(self, links: Iterable[Link]) -> None:
        """Let it pass again. Links that were not cut are no error."""
        self._remove("links", _ports(links))

    def heal(self) -> int:
        """Let everything pass again. Returns how many frames the cuts have dropped."""
        dropped = sum(self.dropped().values())
        self._nft("\n".join(f"flush set bridge cut {name}" for name in SETS))
        return dropped

    def unplug(self, host: str) -> None:
        """Take the switch's port down: the host loses its carrier, nobody else sees anything."""
        self.in_switch("ip", "link", "set", port_of(host), "down")

    def plug_in(self, host: str) -> None:
        self.in_switch("ip", "link", "set", port_of(host), "up")

    def has_carrier(self, host: str) -> bool:
        shown = json.loads(_run("ip", "-json", "-n", self._name(host), "link", "show", "eth0"))
        return "NO-CARRIER" not in shown[0]["flags"]

    def take_away(self, what: Taken, hosts: Iterable[str]) -> None:
        """Drop what these hosts send of a kind."""
        self._add(what, (f'"{port_of(host)}"' for host in hosts))

    def give_back(self, what: Taken, hosts: Iterable[str]) -> None:
        self._remove(what, (f'"{port_of(host)}"' for host in hosts))

    def reset(self, host: str) -> None:
        """Reset the connections of a host, and each new one, until told to stop."""
        _run(*self.enter(host), "nft", "-f", "-", text=_RESETS)

    def stop_resets(self, host: str) -> None:
        for command in self.stop_resets_will(host):
            _run(*command)

    def stop_resets_will(self, host: str) -> list[list[str]]:
        """The same as commands."""
        return [[*self.enter(host), "nft", "delete", "table", "inet", "resets"]]

    def resets(self, host: str) -> int:
        """Packets that were answered so."""
        command = ("nft", "-j", "list", "counter", "inet", "resets", "answered")
        listed = json.loads(_run(*self.enter(host), *command))["nftables"]
        return sum(int(item["counter"]["packets"]) for item in listed if "counter" in item)

    def heal_will(self, links: Iterable[Link]) -> list[list[str]]:
        """What ``heal_links`` does, as commands for when this process cannot."""
        return self._will("links", _ports(links))

    def give_back_will(self, what: Taken, hosts: Iterable[str]) -> list[list[str]]:
        return self._will(what, (f'"{port_of(host)}"' for host in hosts))

    def _will(self, name: str, elements: Iterable[str]) -> list[list[str]]:
        return [
            [*self.enter(SWITCH), "nft", f"delete element bridge cut {name} {{ {item} }}"]
            for item in elements
        ]

    def dropped(self, of: str = "links") -> dict[str, int]:
        """Frames that each cut in force has dropped, by ``from→to`` (or by host)."""
        listed = json.loads(self.in_switch("nft", "-j", "list", "set", "bridge", "cut", of))
        found = next(item["set"] for item in listed["nftables"] if "set" in item)
        counts: Counter[str] = Counter()
        for item in found.get("elem", ()):
            value = item["elem"]["val"]
            ports = value["concat"] if isinstance(value, dict) else [value]
            counts["→".join(map(_host, ports))] += int(item["elem"]["counter"]["packets"])
        return dict(counts)

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
        self.in_switch("ip", "link", "add", "bridge", "type", "bridge", "forward_delay", "0")
        self.in_switch("ip", "link", "set", "bridge", "up")
        self._nft(_TABLE)
        for host, address in self.addresses.items():
            self._connect(host, address)

    def _connect(self, host: str, address: str) -> None:
        name, port = self._name(host), port_of(host)
        _run(
            "ip", "link", "add", "eth0", "netns", name,
            "type", "veth", "peer", "name", port, "netns", self._name(SWITCH),
        )  # fmt: skip
        self.in_switch("ip", "link", "set", port, "master", "bridge", "up")
        _run("ip", "-n", name, "link", "set", "lo", "up")
        _run("ip", "-n", name, "address", "add", f"{address}/24", "dev", "eth0")
        _run("ip", "-n", name, "link", "set", "eth0", "up")

    def _name(self, host: str) -> str:
        return self._prefix + host

    def in_switch(self, *command: str) -> str:
        """What the command prints there. Raises ``CalledProcessError``."""
        return _run(*self.enter(SWITCH), *command)

    def run(self, command: Sequence[str]) -> str:
        """What a command prints. Raises ``CalledProcessError``."""
        return _run(*command)

    def enter(self, host: str) -> list[str]:
        """The words before a command that is to run there."""
        return ["ip", "netns", "exec", self._name(host)]

    def _add(self, name: str, elements: Iterable[str]) -> None:
        self._nft("\n".join(f"add element bridge cut {name} {{ {item} }}" for item in elements))

    def _remove(self, name: str, elements: Iterable[str]) -> None:
        """Those that are not there are added first: nft before 1.0.7 has no ``destroy``."""
        both = [
            f"{verb} element bridge cut {name} {{ {item} }}"
            for item in elements
            for verb in ("add", "delete")
        ]
        self._nft("\n".join(both))

    def _nft(self, commands: str) -> None:
        """All or nothing, in one transaction of the kernel."""
        _run(*self.enter(SWITCH), "nft", "-f", "-", text=commands)


def port_of(host: str) -> str:
    return f"{PORT_PREFIX}{host}"  # an interface's name has at most 15 characters


def _ports(links: Iterable[Link]) -> list[str]:
    """By whichever way each host is connected."""
    prefixes = (PORT_PREFIX, FAR_PREFIX)
    return [f'"{p}{a}" . "{q}{b}"' for a, b in links for p in prefixes for q in prefixes]


def _host(port: str) -> str:
    return port.removeprefix(PORT_PREFIX).removeprefix(FAR_PREFIX)


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
