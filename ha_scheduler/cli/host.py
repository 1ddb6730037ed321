"""The names and addresses of this host."""

from __future__ import annotations

import ipaddress
import socket

import psutil

from ha_scheduler.cell.address import is_loopback
from ha_scheduler.cell.peers import Cell
from ha_scheduler.errors import OperatorError

_INET = (socket.AF_INET, socket.AF_INET6)


def local_addresses() -> set[str]:
    """All IP addresses of this host, without zones."""
    return {
        address.address.partition("%")[0]
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family in _INET
    }


def local_names(cell: Cell) -> set[str]:
    """The names of this host, with the hosts of ``cell`` that resolve to it.

    The resolver may take seconds; only for a start without ``--name``.
    """
    names = {socket.gethostname().lower(), socket.getfqdn().lower()}
    addresses = local_addresses()
    hosts = {peer.host for peer in cell.peers} - names
    return names | {host for host in hosts if _resolves_to(host, addresses)}


def interface_address(interface: str) -> str:
    """The first address of a network interface, IPv4 before IPv6. Raises ``OperatorError``."""
    interfaces = psutil.net_if_addrs()
    if interface not in interfaces:
        raise OperatorError(
            f"--interface {interface} is no network interface of this host; "
            f"use one of {', '.join(sorted(interfaces))}."
        )
    by_family = {
        address.family: address.address
        for address in reversed(interfaces[interface])
        if address.family in _INET
    }
    for family in _INET:
        if family in by_family:
            return by_family[family].partition("%")[0]
    raise OperatorError(
        f"The network interface {interface} has no IP address; give it one, or use --host."
    )


def _resolves_to(host: str, addresses: set[str]) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        pass
    else:
        return False  # an address is compared as it is
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    resolved = {str(entry[4][0]).partition("%")[0] for entry in found}
    return any(address in addresses or is_loopback(address) for address in resolved)
