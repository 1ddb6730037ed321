"""The TLS of distributed's own clients, workers and schedulers, made where all of ours is made.

Guarantee: after ``install``, what distributed's ``Security`` makes of a certificate with a role is
a context of ``security/contexts.py``: TLS 1.3, no session tickets, and renewed files are in force
for the next connection. A certificate without a role is none of a cell, and is upstream's affair.

A process may have made its context before it came to know this package, as the first connection to
``ha://`` loads it. What becomes of such a client or worker calls ``renew`` for that.
"""

from __future__ import annotations

import functools
import ssl
from pathlib import Path
from typing import Any

from distributed.security import Security

from ha_scheduler.cell.tls_files import TlsFiles
from ha_scheduler.security.checks import role_in_file
from ha_scheduler.security.contexts import (
    Reloading,
    check_version,
    client_context,
    server_context,
)

_upstream = Security._get_tls_context


@functools.wraps(_upstream)
def _made_by_us(self: Any, tls: dict[str, Any], purpose: Any) -> ssl.SSLContext | None:
    files = _files(tls)
    if files is None or role_in_file(files.cert_file) is None:
        made: ssl.SSLContext | None = _upstream(self, tls, purpose)
        return made
    if self.tls_max_version is not None:
        check_version(self.tls_max_version)
    make = server_context if purpose is ssl.Purpose.CLIENT_AUTH else client_context
    return make(files)


def install() -> None:
    """From now on, in this process. Idempotent."""
    security_class: Any = Security
    security_class._get_tls_context = _made_by_us


def renew(connection_args: dict[str, Any], security: Security, role: str) -> None:
    """Replace a context in ``connection_args`` that was made before ``install``."""
    context = connection_args.get("ssl_context")
    if context is not None and not isinstance(context, Reloading):
        connection_args["ssl_context"] = security.get_connection_args(role)["ssl_context"]


def _files(tls: dict[str, Any]) -> TlsFiles | None:
    """None for what is in memory, or nowhere."""
    ca, cert, key = tls.get("ca_file"), tls.get("cert"), tls.get("key") or tls.get("cert")
    if not (ca and cert and key) or any("\n" in str(text) for text in (ca, cert, key)):
        return None
    return TlsFiles(Path(ca), Path(cert), Path(key))
