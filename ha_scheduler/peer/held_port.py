"""The Dask port of a peer, held while its daemon lives.

Guarantee: no connection of this host gets the port as its own end, which the kernel may otherwise
choose for any that goes out; an engine that is to lead would then fail with "address already in
use". Holding answers nobody: callers of a follower are refused, as they expect.

Order: bound before an engine is started, and never listening. The engine that leads binds the same
port beside it and listens; Linux lets it, as both allow reuse and only one listens.
"""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Iterator
from contextlib import ExitStack

logger = logging.getLogger(__name__)

_Place = tuple[int, tuple[str, int]]  # family, address


def hold(host: str, port: int) -> ExitStack:
    """Hold ``port`` at ``host`` (empty: at all addresses of this host) until closed.

    Another process may have it just now, and be gone when an engine is to lead: that is told in the
    log, and is no error. Raises ``OSError`` for a host that is not here.
    """
    with ExitStack() as held:
        for family, address in _places(host, port):
            sock = held.enter_context(socket.socket(family, socket.SOCK_STREAM))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            _bind(sock, address)
        return held.pop_all()


def _bind(sock: socket.socket, address: tuple[str, int]) -> None:
    try:
        sock.bind(address)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        logger.warning(
            "the Dask port %d is in use by another process, so no engine of this peer can lead; "
            "free it",
            address[1],
            extra={"action": "dask_port_in_use"},
        )


def _places(host: str, port: int) -> Iterator[_Place]:
    for family, _, _, _, address in socket.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    ):
        yield family, (str(address[0]), port)
