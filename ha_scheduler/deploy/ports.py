"""Free TCP ports, chosen before the start because each peer must know all of them.

They lie below the kernel's range for outgoing connections: a killed peer's port in that range could
become the source port of any connection before its restart.
"""

from __future__ import annotations

import contextlib
import random
import socket

PORT_MIN = 10_000
PORT_MAX = 32_000  # Linux: net.ipv4.ip_local_port_range starts at 32768
ATTEMPTS_MAX = 10_000


def free_ports(host: str, count: int) -> list[int]:
    """``count`` different ports of ``host`` on which nothing listens at this moment."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.ExitStack() as held:
        ports: list[int] = []
        for _ in range(ATTEMPTS_MAX):
            if len(ports) == count:
                return ports
            # Not the module's generator: tests seed it.
            port = random.SystemRandom().randrange(PORT_MIN, PORT_MAX)
            probe = held.enter_context(socket.socket(family))
            try:
                probe.bind((host, port))
            except OSError:
                continue
            ports.append(port)
    raise OSError(f"no {count} free ports between {PORT_MIN} and {PORT_MAX} on {host}")
