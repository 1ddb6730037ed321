"""The virtual address as operators write it, and the interface that it belongs to."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from ha_scheduler.errors import OperatorError

Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface


@dataclass(frozen=True, slots=True)
class HostAddress:
    """An address of this host. ``expires``: it has a lifetime, as a virtual one has."""

    device: str
    interface: Interface
    expires: bool


@dataclass(frozen=True, slots=True)
class VirtualAddress:
    """``interface``: with the length of its network. ``device``: the interface's name."""

    interface: Interface
    device: str

    @property
    def ip(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
        return self.interface.ip

    def __str__(self) -> str:
        return f"{self.interface} on {self.device}"


def parse(text: str) -> Interface:
    """``10.0.0.100/24`` or ``fd00::100/64``. Raises ``OperatorError``."""
    try:
        interface = ipaddress.ip_interface(text)
    except ValueError:
        raise OperatorError(
            f"--vip {text!r} is no address; write it with the length of its network, as in "
            f"--vip 10.0.0.100/24."
        ) from None
    if "/" not in text:
        raise OperatorError(
            f"--vip {text} says no network; add its length, as in --vip {text}/"
            f"{24 if interface.version == 4 else 64}."
        )
    ip = interface.ip
    if ip.is_loopback or ip.is_multicast or ip.is_unspecified or ip.is_link_local:
        raise OperatorError(
            f"--vip {text} is no address that a host can have for others to find; choose a free "
            f"one of the peers' network."
        )
    length_max = ip.max_prefixlen
    if interface.network.prefixlen < length_max - 1 and ip in (
        interface.network.network_address,
        interface.network[-1] if interface.version == 4 else None,
    ):
        raise OperatorError(
            f"--vip {text} is the address of the network {interface.network} itself, or of all in "
            f"it; choose a free one."
        )
    return interface


def locate(vip: Interface, device: str | None, host: Iterable[HostAddress]) -> VirtualAddress:
    """On ``device``, or on the interface of this host that is in its network.

    Raises ``OperatorError``, also if the address is a lasting one of this host.
    """
    host = list(host)
    for address in host:
        if address.interface.ip == vip.ip and not address.expires:
            raise OperatorError(
                f"--vip {vip} is a lasting address of {address.device}; a virtual address belongs "
                f"to no host. Remove it with `ip address delete {vip} dev {address.device}`, and "
                f"from the network's configuration, or choose another."
            )
    devices = sorted({a.device for a in host if vip.ip in a.interface.network})
    if device is not None:
        return VirtualAddress(vip, device)
    if len(devices) != 1:
        found = f"{', '.join(devices)} have" if devices else "no interface of this host has"
        raise OperatorError(
            f"--vip {vip} needs --vip-interface: {found} an address in {vip.network}."
        )
    return VirtualAddress(vip, devices[0])
