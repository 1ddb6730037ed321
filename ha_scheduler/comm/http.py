"""HTTP of the engines and workers of a cell: it is as their Dask port is.

Guarantee: what serves a cell over TLS serves HTTP over TLS 1.3, with its own certificate or with
that of ``distributed.scheduler.dashboard.tls``, behind the guard (``web/guard.py``). In plaintext,
which is for cells on loopback, and where no ring of keys will verify a token (an engine that
stands alone), it asks nobody who they are and listens on loopback alone, whatever address it is
given.

distributed starts its servers by ``ServerNode.start_http_server``, which ``install`` replaces in
this process; those that are of no cell are left as they are. Nannies have no HTTP server.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
from distributed.node import ServerNode

from ha_scheduler.cell.address import is_loopback
from ha_scheduler.cell.tls_files import TlsFiles
from ha_scheduler.comm import address as addresses
from ha_scheduler.security.contexts import web_context
from ha_scheduler.security.key_ring import KeyRing
from ha_scheduler.web import guard

logger = logging.getLogger("distributed.ha.http")

LOOPBACK = "127.0.0.1"
PRELOAD = "ha_scheduler.worker.preload"  # makes a plain worker one of a cell
_TLS = "distributed.scheduler.dashboard.tls"

_start = ServerNode.start_http_server


def serve(server: Any, routes: Any, address: Any, default_port: int = 0) -> None:
    """Start the HTTP server of ``server``, of a cell. It is open until ``close_to_strangers``."""
    files = files_of(server)
    listened = places(address, default_port)
    if ring_of(server) is None:
        listened = [(on_loopback(host), port) for host, port in listened]
    context = web_context(files) if files is not None else None
    with dask.config.set({f"{_TLS}.cert": None}):  # else upstream makes a context of its own
        _start(server, routes, listened, default_port, context)


def close_to_strangers(server: Any, prefix: str) -> None:
    """Let nobody in whom the guard does not; ``prefix``: of all routes."""
    http = server.http_server
    http.guard = guard.install(
        server.http_application,
        ring_of(server),
        http.port,
        secure=http.ssl_options is not None,
        prefix=prefix,
    )


def ring_of(server: Any) -> Callable[[], KeyRing | None] | None:
    """Where to look for the keys of the cell; None: there will be none."""
    if files_of(server) is None or _stands_alone(server):
        return None

    def ring() -> KeyRing | None:  # of a worker that is made ours when it has begun to listen
        callers = getattr(server, "callers", None)
        return callers.ring if callers is not None else None

    return ring


def files_of(server: Any) -> TlsFiles | None:
    """What it serves HTTP with; None: plaintext."""
    security = server.security
    role = "worker" if _is_worker(server) else "scheduler"
    if not security.get_listen_args(role).get("ssl_context"):
        return None
    certificate, key = dask.config.get(f"{_TLS}.cert"), dask.config.get(f"{_TLS}.key")
    if not certificate:
        certificate = getattr(security, f"tls_{role}_cert")
        key = getattr(security, f"tls_{role}_key")
    if "\n" in certificate:
        return None  # a pair in memory, as that of ``Security.temporary``
    return TlsFiles(Path(security.tls_ca_file), Path(certificate), Path(key or certificate))


def places(address: Any, default_port: int = 0) -> list[tuple[str, int]]:
    """Hosts and ports of a ``--dashboard-address``; an empty host: all addresses.

    Upstream reads no address of IPv6. Raises ``ValueError``.
    """
    found = []
    for text in address if isinstance(address, list) else str(address or default_port).split(","):
        host, _, port = str(text).rpartition(":")
        found.append((host.strip("[]"), int(port or 0)))
    return found


def on_loopback(host: str) -> str:
    """``host``, or in its place an address of loopback."""
    if is_loopback(host):
        return host
    if host:
        logger.warning(
            "HTTP at %s would be open to everybody: it listens at %s alone.",
            host,
            LOOPBACK,
            extra={"action": "http_on_loopback"},
        )
    return LOOPBACK


def _stands_alone(server: Any) -> bool:
    """Whether it is an engine without a cell."""
    return not _is_worker(server) and not server.cell.addresses


def _is_worker(server: Any) -> bool:
    return hasattr(server, "scheduler")


def _is_of_a_cell(server: Any) -> bool:
    """Also of a plain worker that is about to be made ours."""
    if getattr(server, "serves_a_cell", False):
        return True
    scheduler = getattr(server, "scheduler", None)
    preloads = getattr(server, "preloads", None) or ()
    return addresses.is_ha(getattr(scheduler, "address", "")) or PRELOAD in {
        preload.name for preload in preloads
    }


@functools.wraps(_start)
def _start_as_ours(
    self: Any, routes: Any, dashboard_address: Any, default_port: int = 0, ssl_options: Any = None
) -> None:
    if not _is_of_a_cell(self):
        _start(self, routes, dashboard_address, default_port, ssl_options)
        return
    serve(self, routes, dashboard_address, default_port)
    close_to_strangers(self, getattr(self, "_http_prefix", None) or "")


@functools.cache
def install() -> None:
    """Look after the HTTP servers of this process."""
    ServerNode.start_http_server = _start_as_ours  # type: ignore[method-assign]
