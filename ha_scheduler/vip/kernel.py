"""The addresses of this host, through netlink.

Guarantee: the address is in the kernel with a lifetime of ``LIFETIME_S`` and never without one;
what could not be done before its deadline is undone at once.

The calls block for half a millisecond each, in a thread of their own and in the order they were
made: ``pyroute2`` runs a loop of its own, and the daemon's stays free when the kernel's lock is
held.
"""

from __future__ import annotations

import errno
import ipaddress
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from ha_scheduler.errors import OperatorError
from ha_scheduler.vip.address import HostAddress, VirtualAddress
from ha_scheduler.vip.ownership import LIFETIME_S

#: No detection of duplicates by the kernel: it would hold an IPv6 address back for a second, and
#: the network was asked before.
_IFA_F_NODAD = 0x02
_FOREVER = 2**32 - 1
_GONE = (errno.EADDRNOTAVAIL, errno.ENODEV)


class Late(Exception):
    """Local: the address was not given to this host, as the moment for it had passed."""


def host_addresses() -> list[HostAddress]:
    """All addresses of this host. Raises ``OperatorError``."""
    found: list[HostAddress] = _in_a_thread(_list)
    return found


def refuse_unpermitted(vip: VirtualAddress) -> None:
    """Raises ``OperatorError`` if this process may not give the host this address."""
    try:
        _in_a_thread(lambda route: _remove(route, vip, _index(route, vip.device)))
    except NetlinkError as error:
        if error.code not in (errno.EPERM, errno.EACCES):
            raise
        raise OperatorError(
            f"--vip {vip.interface} needs CAP_NET_ADMIN: start the daemon as root, or add "
            f"AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW to its systemd unit."
        ) from None


class Kernel:
    """One virtual address in the kernel."""

    def __init__(self, vip: VirtualAddress, clock: Callable[[], float]) -> None:
        """``clock``: of the deadlines."""
        self._vip, self._clock = vip, clock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="vip")
        self._route: Any = None

    def hold(self, by: float) -> Future[None]:
        """Add or refresh it. The future raises ``Late``, ``OperatorError`` or netlink's error."""
        return self._thread.submit(self._hold, by)

    def give_up(self) -> Future[None]:
        """Remove the address, after what was asked before. The future raises as ``hold``."""
        return self._thread.submit(self._give_up)

    def close(self) -> None:
        """Ends the thread after what was asked of it."""
        self._thread.submit(self._close)
        self._thread.shutdown(wait=False)

    def _hold(self, by: float) -> None:
        if self._clock() >= by:
            raise Late("the leader's contact with its followers is too old")
        route = self._netlink()
        index = _index(route, self._vip.device)
        route.addr(
            "replace",
            index=index,
            address=str(self._vip.ip),
            prefixlen=self._vip.interface.network.prefixlen,
            valid_lft=LIFETIME_S,
            # Deprecated, so that no connection of this host begins at it; IPv4 knows no such thing.
            preferred_lft=0 if self._vip.ip.version == 6 else LIFETIME_S,
            flags=_IFA_F_NODAD if self._vip.ip.version == 6 else 0,
        )
        if self._clock() >= by:  # frozen in the middle: another peer may have it by now
            _remove(route, self._vip, index)
            raise Late("it took too long to give the address to this host")

    def _give_up(self) -> None:
        route = self._netlink()
        try:
            index = _index(route, self._vip.device)
        except OperatorError:
            return  # it went with its interface
        _remove(route, self._vip, index)

    def _netlink(self) -> Any:
        if self._route is None:
            self._route = IPRoute()
        return self._route

    def _close(self) -> None:
        if self._route is not None:
            self._route.close()


def _in_a_thread(act: Callable[[Any], Any]) -> Any:
    def run() -> Any:
        with IPRoute() as route:
            return act(route)

    with ThreadPoolExecutor(1) as thread:  # a loop may run in this one
        return thread.submit(run).result()


def _list(route: Any) -> list[HostAddress]:
    names = {link["index"]: link.get("ifname") for link in route.get_links()}
    return [
        HostAddress(
            names.get(found["index"]) or "?",
            ipaddress.ip_interface(f"{_own(found)}/{found['prefixlen']}"),
            found.get("cacheinfo", {}).get("ifa_valid", _FOREVER) != _FOREVER,
        )
        for found in route.get_addr()
    ]


def _own(found: Any) -> str:
    """The address of this end; of a point-to-point link ``address`` is the other one's."""
    return str(found.get("local") or found.get("address"))


def _index(route: Any, device: str) -> int:
    """Raises ``OperatorError``."""
    found = route.link_lookup(ifname=device)
    if not found:
        raise OperatorError(
            f"--vip-interface {device} is no interface of this host; `ip link` lists them."
        )
    return int(found[0])


def _remove(route: Any, vip: VirtualAddress, index: int) -> None:
    try:
        route.addr(
            "delete",
            index=index,
            address=str(vip.ip),
            prefixlen=vip.interface.network.prefixlen,
        )
    except NetlinkError as error:
        if error.code not in _GONE:
            raise
