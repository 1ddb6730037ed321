"""The engine's settings, from the daemon's ``Welcome`` to upstream's Scheduler.

The keys are ``ENGINE_OPTIONS`` of ``ha_scheduler/peer/settings.py``: the options of ``dask
scheduler`` under their own names.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

from dask.utils import parse_timedelta
from distributed.comm.addressing import unparse_host_port
from distributed.security import Security

from ha_scheduler.engine.clients.absence import SESSION_TTL_SECONDS
from ha_scheduler.protocol.peer import PeerAddress


def scheduler_arguments(options: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments of ``distributed.Scheduler``."""
    protocol = options.get("protocol") or "tls"
    return {
        "host": unparse_host_port(options.get("host") or "") or None,
        "port": options.get("port") or 0,
        "protocol": f"{protocol}://",
        "security": security(options),
        "dashboard": options.get("dashboard"),
        "dashboard_address": options.get("dashboard_address"),
        "http_prefix": options.get("dashboard_prefix") or "/",
        "preload": options.get("preload") or None,
        "preload_argv": options.get("preload_argv") or (),
        "idle_timeout": options.get("idle_timeout"),
        "session_ttl": float(parse_timedelta(options.get("session_ttl") or SESSION_TTL_SECONDS)),
    }


def contact_address(protocol: str, own: PeerAddress) -> str | None:
    """The address of this engine: the one that the cell has for its peer.

    Upstream announces that of the route to the internet, on a host with several networks perhaps
    another one, and without such a route 127.0.0.1. An IP address, because followers compare it
    with their connections. None, and so upstream's choice, for a host name that its own host
    resolves otherwise than others.
    """
    try:
        found = socket.getaddrinfo(own.host, own.dask_port, type=socket.SOCK_STREAM)
    except OSError:
        return None
    addresses = [str(entry[4][0]) for entry in found]
    for address in addresses:
        if address == own.host or not ipaddress.ip_address(address).is_loopback:
            return f"{protocol}://{unparse_host_port(address, own.dask_port)}"
    return None


def security(options: dict[str, Any]) -> Security:
    """TLS of everything that the engine listens to and connects to."""
    if not options.get("tls_ca_file"):
        return Security(require_encryption=False)
    return Security(
        require_encryption=True,
        tls_ca_file=options["tls_ca_file"],
        tls_scheduler_cert=options["tls_cert"],
        tls_scheduler_key=options["tls_key"],
    )
