"""The servers that distributed makes, behind gates (``gate/servers.py``).

distributed makes them by the names ``tcp.TCPServer`` and ``node.HTTPServer``, which ``install``
replaces in this process.
"""

from __future__ import annotations

import functools

from distributed import node
from distributed.comm import tcp

from ha_scheduler.gate.servers import GatedHTTPServer, GatedTCPServer


@functools.cache
def install() -> None:
    """Have the servers that distributed makes from now on behind gates."""
    tcp.TCPServer = GatedTCPServer  # type: ignore[misc]
    node.HTTPServer = GatedHTTPServer  # type: ignore[misc]
