"""The socket of a port of a daemon, before anything is served on it.

Guarantee: it is bound or nothing is: on all addresses of both families where no host is named. It
does not listen, so nobody is kept waiting by a daemon that is still starting.
"""

from __future__ import annotations

import socket

from ha_scheduler.errors import OperatorError


def bind(host: str, port: int, what: str, remedy: str) -> socket.socket:
    """``host``: empty for all addresses. Raises ``OperatorError`` with ``what`` and ``remedy``."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    if not host and socket.has_dualstack_ipv6():
        family, host = socket.AF_INET6, "::"
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if host == "::":
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise OperatorError(
            f"Cannot listen at the {what} {port} of {host or 'this host'}: {error.strerror}; "
            f"free it, or {remedy}."
        ) from error
    return sock
