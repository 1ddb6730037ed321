"""The neighbours of the virtual address: asked who has it, told who has it, and heard.

One raw socket: of ARP frames on the interface for IPv4, of ICMPv6 for IPv6.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import ipaddress
import logging
import socket
import struct
from collections.abc import Callable

from ha_scheduler.errors import OperatorError
from ha_scheduler.vip import frames
from ha_scheduler.vip.address import VirtualAddress
from ha_scheduler.vip.frames import Claim

READ_MAX = 64  # packets at once; the loop has other work
_ALL_NODES = "ff02::1"
_ICMP6_FILTER = 1  # linux/icmpv6.h
_HARDWARE_BYTES = 6
_SIOCGIFHWADDR = 0x8927  # linux/sockios.h; in ``struct ifreq`` after the name and a family

logger = logging.getLogger(__name__)


class Neighbours:
    """Raises ``OperatorError`` if it may not open its socket."""

    def __init__(self, vip: VirtualAddress, heard: Callable[[str], None]) -> None:
        """``heard``: called with the link address of another host that has the address."""
        self._vip, self._heard = vip, heard
        try:
            self._socket = _arp_socket(vip) if vip.ip.version == 4 else _icmp_socket(vip)
        except PermissionError:
            raise OperatorError(
                f"--vip {vip.interface} needs CAP_NET_RAW, to announce the address: start the "
                f"daemon as root, or add AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW to its "
                f"systemd unit."
            ) from None
        except OSError as error:
            raise OperatorError(
                f"--vip {vip.interface} cannot be announced on {vip.device}: {error.strerror}; "
                f"name another interface with --vip-interface."
            ) from error
        self._socket.setblocking(False)

    def listen(self) -> None:
        """On the running loop."""
        asyncio.get_running_loop().add_reader(self._socket, self._read)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    def probe(self) -> None:
        """Ask who has the address."""
        ip = self._vip.ip
        if isinstance(ip, ipaddress.IPv4Address):
            self._send(frames.arp_probe(ip, self._hardware()))
        else:
            self._send(frames.solicitation(ip, self._hardware()), frames.solicited_node(ip))

    def announce(self) -> None:
        """Tell all that it is here."""
        ip = self._vip.ip
        if isinstance(ip, ipaddress.IPv4Address):
            for frame in frames.arp_announcements(ip, self._hardware()):
                self._send(frame)
        else:
            self._send(frames.advertisement(ip, self._hardware()), _ALL_NODES)

    def _send(self, packet: bytes, to: str | None = None) -> None:
        try:
            if to is None:
                self._socket.send(packet)
            else:
                self._socket.sendto(packet, (to, 0))  # it is bound to the interface
        except OSError as error:  # a full queue, an interface that is down: it is sent again
            logger.debug("a packet of the virtual address did not leave: %r", error)

    def _read(self) -> None:
        for _ in range(READ_MAX):
            try:
                packet = self._socket.recv(frames.FRAME_BYTES_MAX)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENETDOWN:
                    raise
                return
            claim = self._claim(packet)
            if claim is None or claim.ip != self._vip.ip:
                continue
            if claim.hardware != self._hardware().hex(":"):
                self._heard(claim.hardware)

    def _claim(self, packet: bytes) -> Claim | None:
        return (frames.arp_claim if self._vip.ip.version == 4 else frames.neighbour_claim)(packet)

    def _hardware(self) -> bytes:
        """The interface's link address of now: a bond changes its own."""
        request = struct.pack("16s24x", self._vip.device.encode())
        answer = fcntl.ioctl(self._socket, _SIOCGIFHWADDR, request)
        return answer[18 : 18 + _HARDWARE_BYTES]


def _arp_socket(vip: VirtualAddress) -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(frames.ETHERTYPE_ARP))
    sock.bind((vip.device, frames.ETHERTYPE_ARP))
    return sock


def _icmp_socket(vip: VirtualAddress) -> socket.socket:
    sock = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, vip.device.encode())
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, frames.HOP_LIMIT)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, frames.HOP_LIMIT)
    blocked = [0xFFFFFFFF] * 8  # a bit for each type; a set one is not delivered
    blocked[frames.ADVERTISEMENT // 32] &= ~(1 << (frames.ADVERTISEMENT % 32))
    sock.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, struct.pack("=8I", *blocked))
    return sock
