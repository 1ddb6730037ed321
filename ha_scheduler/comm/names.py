"""The addresses that a name stands for, asked when they are needed.

Guarantee: a name is asked anew at each connection, for ``RESOLVE_S_MAX``, and costs nobody who was
given addresses. One name may have the addresses of all peers, of both families; the records of a
service (``SRV``, RFC 2782) name hosts with their ports; and so does a scheduler file, which daemons
keep up to date.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
from collections.abc import Iterable
from typing import Any

from ha_scheduler.cell.address import is_loopback
from ha_scheduler.comm.address import ADDRESSES_MAX, Endpoint, parse

RESOLVE_S_MAX = 3.0
FILE_BYTES_MAX = 64 * 1024 * 1024  # one that a client wrote has the scheduler's state in it


class NameNotResolved(OSError):
    """Operator, or Remote: DNS says nothing of this name, or there is no such file."""


def is_name(endpoint: Endpoint) -> bool:
    """Whether DNS is asked what ``endpoint`` stands for."""
    try:
        ipaddress.ip_address(endpoint.host.partition("%")[0])
    except ValueError:
        return endpoint.is_indirect or not is_loopback(endpoint.host)
    return False


async def spread(endpoint: Endpoint) -> tuple[Endpoint, ...]:
    """Every address of a name; itself, if it has one only. Raises ``NameNotResolved``."""
    try:
        async with asyncio.timeout(RESOLVE_S_MAX):
            if not endpoint.is_indirect:
                return await _of_host(endpoint)
            if endpoint.file:
                hosts = await asyncio.to_thread(_of_file, endpoint.file)
            else:
                hosts = await _of_service(endpoint.host)
            spreading = (_of_host(host) if is_name(host) else _itself(host) for host in hosts)
            found = await asyncio.gather(*spreading, return_exceptions=True)
    except TimeoutError as error:
        raise NameNotResolved(f"nothing answers for {endpoint.host}") from error
    known = [each for each in found if not isinstance(each, BaseException)]
    if not known:
        raise NameNotResolved(f"none of the hosts of {endpoint.host} has an address")
    return tuple(dict.fromkeys(address for each in known for address in each))[:ADDRESSES_MAX]


def a_host_of(endpoint: Endpoint) -> Endpoint:
    """A host of a service or file, where nothing can be awaited. Raises ``NameNotResolved``."""
    if endpoint.file:
        return _of_file(endpoint.file)[0]
    import dns.exception
    import dns.resolver

    try:
        said = dns.resolver.resolve(endpoint.host, "SRV", lifetime=RESOLVE_S_MAX)
    except dns.exception.DNSException as error:
        raise NameNotResolved(f"DNS has no service {endpoint.host}: {error}") from error
    return _hosts(said)[0]


async def _itself(endpoint: Endpoint) -> tuple[Endpoint, ...]:
    return (endpoint,)


async def _of_host(endpoint: Endpoint) -> tuple[Endpoint, ...]:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise NameNotResolved(f"{endpoint.host} is not known: {error.strerror}") from error
    addresses = dict.fromkeys(Endpoint(str(place[0]), endpoint.port) for *_, place in found)
    return tuple(addresses)[:ADDRESSES_MAX] if len(addresses) > 1 else (endpoint,)


async def _of_service(name: str) -> list[Endpoint]:
    import dns.asyncresolver  # few have a service, and it takes 40 ms
    import dns.exception

    try:
        said = await dns.asyncresolver.resolve(name, "SRV", lifetime=RESOLVE_S_MAX)
    except dns.exception.DNSException as error:
        raise NameNotResolved(f"DNS has no service {name}: {error}") from error
    return _hosts(said)


def _of_file(path: str) -> list[Endpoint]:
    """The addresses in a scheduler file, as Dask's own."""
    try:
        with open(path, "rb") as file:
            said = json.loads(file.read(FILE_BYTES_MAX))
        return [each for each in parse(said["address"]) if not each.is_indirect][:ADDRESSES_MAX]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise NameNotResolved(f"the scheduler file {path} cannot be used: {error!r}") from error


def _hosts(records: Iterable[Any]) -> list[Endpoint]:
    """The likeliest first. All are tried at once, so their weights do not matter."""
    ordered = sorted(records, key=lambda record: int(record.priority))
    return [
        Endpoint(record.target.to_text(omit_final_dot=True), int(record.port)) for record in ordered
    ][:ADDRESSES_MAX]
