"""The peer port: who calls, may they, and where do they go.

Guarantee: nothing a caller sends reaches the core, the ledger or the engine before its certificate
allows it: role ``peer`` needs the certificate of exactly the peer it says it is, and every role
must name our cell. Before that at most ``HELLO_BYTES_MAX`` of its bytes are held, for seconds.
A refusal says why, in words for the operator of the other side.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

from ha_scheduler.peer import wire
from ha_scheduler.peer.links import STREAM_LIMIT_BYTES, Security, tune
from ha_scheduler.raft.errors import PeerError

CONNECTIONS_MAX = 8192  # workers and clients watch one peer each; above it they try another
BACKLOG = 512  # a whole cluster reconnects at once after a failover

Serve = Callable[[dict[str, Any], asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Authorize = Callable[[dict[str, Any], ssl.SSLObject | None], dict[str, Any] | None]

logger = logging.getLogger(__name__)


class Listener:
    """Accepts connections, reads their hello, and hands them to the service of their role."""

    def __init__(
        self,
        cell: str,
        is_ours: Callable[[str], bool],
        security: Security,
        authorize: Authorize,
        services: dict[str, Serve],
    ) -> None:
        """``is_ours``: whether a list of peers stands for our cell, as operators name it."""
        self._cell = cell
        self._is_ours = is_ours
        self._security = security
        self._authorize = authorize  # returns a refusal, or None
        self._services = services
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self, sock: socket.socket) -> None:
        """Serve on a bound socket."""
        self._server = await asyncio.start_server(
            self._connected,
            sock=sock,
            ssl=self._security.server,
            ssl_handshake_timeout=wire.HELLO_TIMEOUT_S if self._security.server else None,
            limit=STREAM_LIMIT_BYTES,
            backlog=BACKLOG,
        )

    async def stop(self) -> None:
        """Accept nothing more and end what is open."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tune(writer)
        try:
            async with asyncio.timeout(wire.HELLO_TIMEOUT_S):
                hello = await wire.read_dict(reader, wire.HELLO_BYTES_MAX)
            refusal = self._refusal(hello, writer)
            if refusal is not None:
                await self._refuse(writer, refusal, hello)
                return
            writer.write(wire.pack({"ok": True, "version": wire.VERSION}))
            await self._services[hello["role"]](hello, reader, writer)
        except (OSError, EOFError, TimeoutError, ssl.SSLError) as error:
            logger.debug("a connection to the peer port ended: %r", error)
        except (wire.WireError, PeerError) as error:
            logger.warning(
                "closed a connection of the peer port: %s",
                error,
                extra={"action": "connection_dropped"},
            )
        except Exception:
            logger.exception("a defect ended a connection", extra={"action": "connection_defect"})
        finally:
            writer.transport.abort()

    def _refusal(
        self, hello: dict[str, Any], writer: asyncio.StreamWriter
    ) -> dict[str, Any] | None:
        role, cell = hello.get("role"), hello.get("cell")
        if hello.get("version", wire.VERSION) != wire.VERSION:
            return wire.refusal(
                f"this peer speaks version {wire.VERSION} of the peer protocol; upgrade together"
            )
        # Who has just come knows addresses, and learns the cell's identity here.
        newcomer = role in ("watch", "control") and not cell
        known = cell == self._cell or (role == "control" and self._is_ours(str(cell)))
        if role == "peer" and not known and self._is_ours(str(cell)):
            return wire.refusal(
                f"this disk began as that of a founder of {cell}, and these are the peers of cell "
                f"{self._cell} today; delete the data and start with --replace",
                gone=True,
            )
        if not (known or newcomer):
            return wire.refusal(
                f"this peer belongs to cell {self._cell}, not to {cell}; "
                "compare the --peers of both"
            )
        if role not in self._services:
            return wire.refusal(f"there is no role {role!r} on the peer port")
        if len(self._tasks) > CONNECTIONS_MAX and role != "peer":
            return wire.refusal(
                f"this peer serves {CONNECTIONS_MAX} connections already; try another peer"
            )
        return self._authorize(hello, writer.get_extra_info("ssl_object"))

    async def _refuse(
        self, writer: asyncio.StreamWriter, refusal: dict[str, Any], hello: dict[str, Any]
    ) -> None:
        address = writer.get_extra_info("peername")
        logger.warning(
            "refused role %s from %s: %s",
            hello.get("role"),
            address,
            refusal["reason"],
            extra={"action": "connection_refused", "address": address},
        )
        writer.write(wire.pack(refusal))
        await writer.drain()
        writer.close()
        async with asyncio.timeout(wire.HELLO_TIMEOUT_S):
            await writer.wait_closed()
