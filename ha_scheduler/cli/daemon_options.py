"""The options of the daemon for its engine, with cheap checks.

Without them a bad value would end one engine after another.
"""

from __future__ import annotations

import os
import re
from typing import Any

from ha_scheduler.cell.address import is_loopback, join_address
from ha_scheduler.cell.peers import PORT_MAX
from ha_scheduler.cli.host import interface_address
from ha_scheduler.errors import OperatorError
from ha_scheduler.peer.settings import ENGINE_OPTIONS, PeerSettings
from ha_scheduler.vip.address import VirtualAddress, locate, parse

SESSION_TTL = "2 hours"  # of a client that fell silent

_URI = re.compile(
    r"(?:(?P<protocol>[a-z]+)://)?(?P<host>\[[^\]]*\]|[^:/\[\]]*|[0-9a-fA-F:]+)(?::(?P<port>\d+))?/?"
)


def listen_host(
    host: str | None, interface: str | None, protocol: str, dask_port: int
) -> str | None:
    """The address of ``--host`` or ``--interface``, if any. Raises ``OperatorError``.

    ``--host`` may be a URI, as for ``dask scheduler``; its protocol and port must agree.
    """
    if interface:
        if host:
            raise OperatorError("--host and --interface both say where to listen; leave out one.")
        return interface_address(interface)
    if not host:
        return None
    match = _URI.fullmatch(host)
    if match is None:
        raise OperatorError(f"--host {host!r} is no address or host name; correct it.")
    if match["protocol"] not in (None, protocol):
        raise OperatorError(
            f"--host {host} says {match['protocol']}, and the protocol is {protocol}; "
            f"leave it out of --host."
        )
    if match["port"] is not None and int(match["port"]) != dask_port:
        raise OperatorError(
            f"--host {host} says port {match['port']}, and the Dask port of this peer is "
            f"{dask_port}; leave it out of --host."
        )
    return match["host"].strip("[]") or None


def virtual_address(vip: str | None, interface: str | None) -> VirtualAddress | None:
    """The address of ``--vip``, on an interface of this host. Raises ``OperatorError``."""
    if vip is None:
        if interface is not None:
            raise OperatorError("--vip-interface is given, and no --vip to have there; add it.")
        return None
    address = parse(vip)
    from ha_scheduler.vip.kernel import host_addresses  # pyroute2 takes a third of a second

    return locate(address, interface, host_addresses())


def engine_options(
    settings: PeerSettings, protocol: str, log_level: str, values: dict[str, Any]
) -> dict[str, Any]:
    """``PeerSettings.engine_options``, from checked settings and further options."""
    address = _dashboard_address(settings, values["dashboard_address"])
    _check_span("--idle-timeout", values["idle_timeout"])
    _check_span("--session-ttl", values["session_ttl"])
    for module in values["preload"]:
        if module.endswith(".py") and "://" not in module and not os.path.isfile(module):
            raise OperatorError(f"--preload {module} does not exist; correct its path.")
    if values["preload_argv"] and not values["preload"]:
        raise OperatorError("--preload-argv is given, and no --preload to take it; add one.")
    tls = settings.engine_tls  # never the peer's own: the engine runs the code of users
    options = {
        "host": settings.listen_host,
        "port": settings.address.dask_port,
        "protocol": protocol,
        "dashboard": values["dashboard"],
        "dashboard_address": address,
        "dashboard_prefix": values["dashboard_prefix"],
        "preload": list(values["preload"]),
        "preload_argv": list(values["preload_argv"]),
        "idle_timeout": values["idle_timeout"],
        "session_ttl": values["session_ttl"],
        "tls_ca_file": str(tls.ca_file) if tls is not None else None,
        "tls_cert": str(tls.cert_file) if tls is not None else None,
        "tls_key": str(tls.key_file) if tls is not None else None,
        "log_level": log_level,
    }
    assert tuple(options) == ENGINE_OPTIONS
    return options


def _dashboard_address(settings: PeerSettings, text: str) -> str:
    """Where the engine serves HTTP: of a peer on loopback, there, unless a host is named.

    Raises ``OperatorError``, also for plaintext at more than loopback.
    """
    host, port = host_and_port("--dashboard-address", text)
    host = host or (settings.listen_host if is_loopback(settings.listen_host) else "")
    if settings.tls is None and not is_loopback(host):
        raise OperatorError(
            f"--dashboard-address {text} would show tasks and their code to the network, in "
            f"plaintext and to anybody; name an address of loopback, or leave out --protocol tcp."
        )
    return join_address(host, port)


def http_address(text: str | None, own_host: str) -> tuple[str, int] | None:
    """Where the daemon serves HTTP: of a peer on loopback, there, unless a host is named.

    Raises ``OperatorError``.
    """
    if text is None:
        return None
    host, port = host_and_port("--http-address", text)
    return host or (own_host if is_loopback(own_host) else ""), port


def host_and_port(option: str, text: str) -> tuple[str, int]:
    """An address of HTTP; an empty host: all addresses. Raises ``OperatorError``."""
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdigit() and int(port) <= PORT_MAX):
        raise OperatorError(f"{option} {text!r} ends in no port; use HOST:PORT or :PORT.")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _check_span(option: str, text: str | None) -> None:
    if text in (None, SESSION_TTL):
        return
    from dask.utils import parse_timedelta  # a slow import, and rare options

    try:
        seconds = parse_timedelta(text, default="seconds")
    except (KeyError, ValueError):
        seconds = 0.0
    if not seconds > 0:
        raise OperatorError(f"{option} {text!r} is no span of time; use one like '1 hour'.")
