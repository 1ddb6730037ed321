"""The ``ha://a:8786,b:8786,c`` address: one cell, named by the Dask ports of its peers.

Guarantee: all spellings of a list (spaces, default ports, repetitions) become one canonical text,
in the order given, before anything else sees it: distributed compares addresses as texts.

``ha+srv://cell.example.org`` names the DNS records of a service, ``_dask-ha._tcp.cell.example.org``
(RFC 2782), which have hosts and ports. Such a name may also stand in a list, without a port, and so
may ``@/path/of/a/scheduler/file``. What they stand for is asked at each connection (``names.py``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from ha_scheduler.cell.address import join_address

SCHEME = "ha"
SERVICE_SCHEME = "ha+srv"
SERVICE = "_dask-ha._tcp"
FILE_MARK = "@"
NO_PORT = 0  # of an ``Endpoint``: it names records, or a file, which have hosts and ports
#: What may lead to a cell. Others, as ``gateway://`` and ``inproc://``, are not ours to touch.
SCHEMES = (SCHEME, SERVICE_SCHEME, "tls", "tcp")
DASK_PORT_DEFAULT = 8786  # as ``dask scheduler``
ADDRESSES_MAX = 16  # a cell has three or five peers; a longer list is a mistake


_SERVICE_NAME = re.compile(r"_[a-z0-9-]+\._tcp\..+", re.IGNORECASE)


class HAAddressError(ValueError):
    """Operator: the text is no address of a cell."""


class Endpoint(NamedTuple):
    """Host and port of one Dask or peer port; the host without brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return self.host if self.is_indirect else join_address(self.host, self.port)

    @property
    def is_indirect(self) -> bool:
        """Whether it is the name of a service, or of a file, and no address."""
        return self.port == NO_PORT

    @property
    def file(self) -> str:
        """The path of a scheduler file, or empty."""
        return self.host.removeprefix(FILE_MARK) if self.host.startswith(FILE_MARK) else ""


def is_ha(address: object) -> bool:
    """Whether ``address`` is written with the ``ha://`` scheme, or ``ha+srv://``."""
    return isinstance(address, str) and address.startswith((f"{SCHEME}://", f"{SERVICE_SCHEME}://"))


def may_be_of_a_cell(address: object) -> bool:
    """Whether whoever leads a cell may answer at ``address``."""
    scheme, separator, _ = str(address).partition("://")
    return not separator or scheme in SCHEMES


def parse_endpoint(text: str) -> Endpoint:
    """``host``, ``host:port``, ``[v6]`` or ``[v6]:port``, with or without a scheme."""
    location = text.strip().rpartition("://")[2]
    if location.startswith(FILE_MARK):
        if not location.startswith(f"{FILE_MARK}/"):
            raise HAAddressError(f"{text!r} is not an address: a scheduler file is @/whole/path")
        return Endpoint(location, NO_PORT)
    if location.startswith("["):
        host, closed, tail = location[1:].partition("]")
        bad, port = not closed or (tail and not tail.startswith(":")), tail[1:]
    else:
        host, _, port = location.partition(":")
        bad = ":" in port
    if bad:
        raise HAAddressError(f"{text!r} is not an address: an IPv6 address is written [::1]:8786")
    if not host:
        raise HAAddressError(f"{text!r} is not an address: the host is missing")
    if _SERVICE_NAME.fullmatch(host):
        if port:
            raise HAAddressError(f"{text!r} is not an address: the records of a service have ports")
        return Endpoint(host, NO_PORT)
    return Endpoint(host, _port(text, port))


def _port(text: str, port: str) -> int:
    if not port:
        return DASK_PORT_DEFAULT
    if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise HAAddressError(f"{text!r} is not an address: {port!r} is not a port")
    return int(port)


def parse(address: str) -> tuple[Endpoint, ...]:
    """The endpoints of ``ha://a,b,c`` (scheme optional), without repetitions, in order."""
    scheme, separator, location = address.partition("://")
    if not separator:
        location = address
    parts = [part for part in location.split(",") if part.strip()]
    if scheme == SERVICE_SCHEME:
        parts = [_service(part.strip()) for part in parts]
    if not parts:
        raise HAAddressError(f"{address!r} names no peer; write ha://host-a,host-b,host-c")
    endpoints = tuple(dict.fromkeys(parse_endpoint(part) for part in parts))
    if len(endpoints) > ADDRESSES_MAX:
        raise HAAddressError(f"{address!r} names more than {ADDRESSES_MAX} peers")
    return endpoints


def _service(name: str) -> str:
    return name if name.startswith(("_", FILE_MARK)) else f"{SERVICE}.{name}"


def unparse(endpoints: Iterable[Endpoint]) -> str:
    """The canonical address of a cell."""
    return f"{SCHEME}://" + ",".join(map(str, endpoints))
