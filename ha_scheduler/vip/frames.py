"""What the virtual address says on the wire: ARP (RFC 5227) and neighbour discovery (RFC 4861).

Guarantee: whatever a neighbour sends, the parsers return a claim or None, and raise nothing.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass

BROADCAST = b"\xff" * 6
ETHERTYPE_ARP = 0x0806
FRAME_BYTES_MAX = 1514
HOP_LIMIT = 255  # a packet with less came from beyond the link (RFC 4861, 7.1)

_ETHERNET = struct.Struct("!6s6sH")
_ARP = struct.Struct("!HHBBH6s4s6s4s")
_REQUEST, _REPLY = 1, 2
_NOBODY = b"\0" * 4
_NOWHERE = b"\0" * 6

_NEIGHBOUR = struct.Struct("!BBHI16s")  # solicitation and advertisement: type, code, sum, flags
_SOLICITATION, ADVERTISEMENT = 135, 136
_OVERRIDE = 0x2000_0000
_SOURCE_LINK_ADDRESS, _TARGET_LINK_ADDRESS = 1, 2


@dataclass(frozen=True, slots=True)
class Claim:
    """A neighbour with the link address ``hardware`` says that it has ``ip``."""

    ip: ipaddress.IPv4Address | ipaddress.IPv6Address
    hardware: str


def arp_probe(ip: ipaddress.IPv4Address, hardware: bytes) -> bytes:
    """Who has ``ip``? Nobody asks, so that no cache changes (RFC 5227, 2.1.1)."""
    return _arp(_REQUEST, hardware, _NOBODY, _NOWHERE, ip.packed)


def arp_announcements(ip: ipaddress.IPv4Address, hardware: bytes) -> tuple[bytes, bytes]:
    """``ip`` is at ``hardware``: as a request and as a reply, since devices differ in what they
    believe (RFC 5227, 3)."""
    return (
        _arp(_REQUEST, hardware, ip.packed, _NOWHERE, ip.packed),
        _arp(_REPLY, hardware, ip.packed, hardware, ip.packed),
    )


def _arp(operation: int, hardware: bytes, sender: bytes, to: bytes, target: bytes) -> bytes:
    body = _ARP.pack(1, 0x0800, 6, 4, operation, hardware, sender, to, target)
    return _ETHERNET.pack(BROADCAST, hardware, ETHERTYPE_ARP) + body


def arp_claim(frame: bytes) -> Claim | None:
    """What a received Ethernet frame claims, if it is ARP and claims anything."""
    if len(frame) < _ETHERNET.size + _ARP.size:
        return None
    if _ETHERNET.unpack_from(frame)[2] != ETHERTYPE_ARP:
        return None
    kind, protocol, *lengths, _, hardware, sender, _, _ = _ARP.unpack_from(frame, _ETHERNET.size)
    if (kind, protocol, *lengths) != (1, 0x0800, 6, 4) or sender == _NOBODY:
        return None
    return Claim(ipaddress.IPv4Address(sender), hardware.hex(":"))


def solicitation(ip: ipaddress.IPv6Address, hardware: bytes) -> bytes:
    """Who has ``ip``? Answer to ``hardware``, without asking where that is first.

    The kernel fills in the checksum.
    """
    option = bytes((_SOURCE_LINK_ADDRESS, 1)) + hardware
    return _NEIGHBOUR.pack(_SOLICITATION, 0, 0, 0, ip.packed) + option


def advertisement(ip: ipaddress.IPv6Address, hardware: bytes) -> bytes:
    """``ip`` is at ``hardware``, unasked (RFC 4861, 7.2.6)."""
    option = bytes((_TARGET_LINK_ADDRESS, 1)) + hardware
    return _NEIGHBOUR.pack(ADVERTISEMENT, 0, 0, _OVERRIDE, ip.packed) + option


def solicited_node(ip: ipaddress.IPv6Address) -> str:
    """The multicast address at which the holder of ``ip`` listens (RFC 4291, 2.7.1)."""
    return str(ipaddress.IPv6Address(b"\xff\x02" + b"\0" * 9 + b"\x01\xff" + ip.packed[-3:]))


def neighbour_claim(packet: bytes) -> Claim | None:
    """What a received ICMPv6 packet claims, if it is an advertisement with a link address."""
    if len(packet) < _NEIGHBOUR.size:
        return None
    kind, _, _, _, target = _NEIGHBOUR.unpack_from(packet)
    if kind != ADVERTISEMENT:
        return None
    hardware = _link_address(packet[_NEIGHBOUR.size :])
    return Claim(ipaddress.IPv6Address(target), hardware.hex(":")) if hardware else None


def _link_address(options: bytes) -> bytes | None:
    while len(options) >= 8:
        kind, eights = options[0], options[1]
        if eights == 0:
            return None  # RFC 4861, 4.6: to be discarded
        if kind == _TARGET_LINK_ADDRESS:
            return options[2:8]
        options = options[8 * eights :]
    return None
