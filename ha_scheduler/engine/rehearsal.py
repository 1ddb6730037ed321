"""What a takeover would do for the first time in its process, done while the engine follows.

Guarantee: an engine that is ready has loaded what the first connections and registrations need of
the machine: certificates of its authorities, versions of its packages. A takeover waits for none of
it; they take some 40 ms of CPU, a third of a takeover.
"""

from __future__ import annotations

import socket
import ssl

from distributed.versions import get_versions
from tornado.iostream import SSLIOStream


def rehearse() -> None:
    """Needs a running event loop. Raises nothing that a takeover would not."""
    get_versions()  # compared with those of each worker and client that registers
    _make_stream()


def _make_stream() -> None:
    """tornado's first stream of TLS loads the authorities of the system, whatever it is for."""
    ours, theirs = socket.socketpair()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with theirs:
        ours.setblocking(False)
        wrapped = context.wrap_socket(ours, server_side=True, do_handshake_on_connect=False)
        SSLIOStream(wrapped).close()
