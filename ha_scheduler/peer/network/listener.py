"""The peer port: who calls, and which service it gets.

Guarantee: nothing of a caller reaches the core, the ledger or the engine before it has introduced
itself as one of our cell, and nothing of a peer before it has shown that peer's certificate. A
certificate without a known role opens nothing, and neither does an engine's, which has its daemon's
channel. A token that is shown is verified, and decides who calls; without one the certificate does.
 Until then at most ``INTRODUCTION_BYTES_MAX`` are held, for seconds. A refusal gives its
reason in words for the operator of the other side.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from asyncio import sslproto
from collections.abc import Awaitable, Callable, Mapping

from ha_scheduler.audit.chain import Event
from ha_scheduler.audit.log import AuditLog
from ha_scheduler.errors import CertificateRefused
from ha_scheduler.gate.gate import First
from ha_scheduler.gate.heap import Heap
from ha_scheduler.peer.network.conversations import Caller, Conversations
from ha_scheduler.peer.network.links import STREAM_LIMIT_BYTES, Security, tune
from ha_scheduler.protocol import frames
from ha_scheduler.protocol.codec import ProtocolError, shown
from ha_scheduler.protocol.introduction import (
    TIMEOUT_S,
    Introduction,
    Kind,
    Refused,
    RefusedError,
    accept,
    introduced,
)
from ha_scheduler.raft.errors import PeerError
from ha_scheduler.security.authentication import (
    Holder,
    authenticate,
    by_certificate,
    holder_of,
)
from ha_scheduler.security.identity import ANYBODY_LOCAL, Identity
from ha_scheduler.security.key_ring import KeyRing
from ha_scheduler.security.tls import Role
from ha_scheduler.security.token import TokenRefused

CONNECTIONS_MAX = 8192  # workers and clients watch one peer each; above it they try another
#: asyncio has a buffer for each connection, of 256 KiB: a gigabyte for 4,000 that say nothing.
TLS_BUFFER_BYTES = 4 * 1024  # of watchers and operators, who say a few words
PEER_BUFFER_BYTES = 256 * 1024  # of a peer: appends and snapshots
BACKLOG = 512  # a whole cluster reconnects at once after a failover

#: Gets who calls. Raises ``RefusedError`` for a caller that only the service refuses.
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter, Identity], Awaitable[None]]

logger = logging.getLogger(__name__)


class Listener:
    """Accepts connections and hands them to the service of their kind."""

    def __init__(
        self,
        cell: str,
        is_ours: Callable[[str], bool],
        is_operators: Callable[[str], bool],
        security: Security,
        services: Mapping[str, Serve],
        ring: Callable[[], KeyRing | None],
        audit: AuditLog,
    ) -> None:
        """``is_ours``: whether a list of peers is our cell; ``is_operators``: or is meant to be,
        of who can tell where we are.
        """
        self._ring = ring
        self._audit = audit
        self._cell = cell
        self._is_ours = is_ours
        self._is_operators = is_operators
        self._security = security
        self._services = services
        self._conversations: Conversations | None = None

    async def start(self, sock: socket.socket) -> None:
        """Serve on a bound socket."""
        sslproto.SSLProtocol.max_size = TLS_BUFFER_BYTES
        heap = Heap(asyncio.get_running_loop().call_later)
        self._conversations = Conversations("peer", self._converse, heap.held)
        first = First.TLS if self._security.server is not None else First.BYTES
        self._conversations.start(sock, first, BACKLOG)

    async def stop(self) -> None:
        """Accept nothing more and end all connections."""
        if self._conversations is not None:
            await self._conversations.stop()

    async def _converse(self, caller: Caller) -> None:
        streams = await caller.streams(self._security.server, STREAM_LIMIT_BYTES, TIMEOUT_S)
        await self._serve(*streams, caller.over)

    async def _serve(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        over: Callable[[], None],
    ) -> None:
        tune(writer)
        try:
            try:
                holder = _holder(writer.get_extra_info("ssl_object"))
                async with asyncio.timeout(TIMEOUT_S):
                    said = await frames.read(reader.readexactly, frames.INTRODUCTION_BYTES_MAX)
                introduction = introduced(said)
                self._check(introduction)
                caller = self._caller(holder, introduction)
                over()
                if introduction.kind == Kind.PEER:
                    _enlarge_buffer(writer)
                writer.write(frames.pack(accept()))
                await self._services[introduction.kind](reader, writer, caller)
            except RefusedError as error:
                self._note(writer, error)
                await _refuse(writer, error)
        except (OSError, EOFError, TimeoutError, ssl.SSLError) as error:
            logger.debug("a connection to the peer port ended: %r", error)
        except (ProtocolError, PeerError) as error:
            logger.warning(
                "closed a connection of the peer port: %s",
                error,
                extra={"action": "connection_dropped"},
            )
        except Exception:  # one connection is no reason to end the peer
            logger.exception("a defect ended a connection", extra={"action": "connection_defect"})
        finally:
            writer.transport.abort()

    def _note(self, writer: asyncio.StreamWriter, error: RefusedError) -> None:
        """Of each host one line a minute for each reason."""
        host = str((writer.get_extra_info("peername") or ("",))[0])
        self._audit.record(Event.REFUSED, what=f"{host}: {error}", address=host)

    def _caller(self, holder: Holder | None, introduction: Introduction) -> Identity:
        """Who calls: by the token, if one is shown. Raises ``RefusedError``."""
        if holder is None:
            return ANYBODY_LOCAL
        ring = self._ring()
        if introduction.token is None or ring is None:
            return by_certificate(holder)
        try:
            return authenticate(holder, introduction.token, ring, time.time())
        except TokenRefused as error:
            raise RefusedError(str(error)) from error

    def _check(self, caller: Introduction) -> None:
        """Raises ``RefusedError``."""
        kind, cell = caller.kind, caller.cell
        if kind not in self._services:
            raise RefusedError(f"there is no kind of connection {shown(kind)} on the peer port")
        # A newcomer knows addresses, and learns the cell's identity here.
        newcomer = kind in (Kind.WATCH, Kind.CONTROL) and not cell
        known = cell == self._cell or (kind == Kind.CONTROL and self._is_operators(cell))
        if kind == Kind.PEER and not known and self._is_ours(cell):
            raise RefusedError(
                f"this disk began as that of a founder of {cell}, and these are the peers of cell "
                f"{self._cell} today; delete the data and start with --replace",
                gone=True,
            )
        if not (known or newcomer):
            raise RefusedError(
                f"this peer belongs to cell {self._cell}, not to {cell}; "
                "compare the --peers of both"
            )
        if len(self._conversations or ()) > CONNECTIONS_MAX and kind != Kind.PEER:
            raise RefusedError(
                f"this peer serves {CONNECTIONS_MAX} connections already; try another peer"
            )


def _holder(shown: ssl.SSLObject | None) -> Holder | None:
    """Whose certificate it is; None: plaintext on loopback. Raises ``RefusedError``."""
    if shown is None:
        return None
    try:
        holder = holder_of(shown)
    except CertificateRefused as error:
        raise RefusedError(str(error)) from error
    if holder.role is Role.ENGINE:
        raise RefusedError(f"the certificate of an {holder.role} opens nothing on the peer port")
    return holder


def _enlarge_buffer(writer: asyncio.StreamWriter) -> None:
    protocol = getattr(writer.transport, "_ssl_protocol", None)
    if protocol is not None:
        protocol.max_size = PEER_BUFFER_BYTES  # asyncio makes the buffer as large when it reads


async def _refuse(writer: asyncio.StreamWriter, refusal: RefusedError) -> None:
    logger.warning(
        "refused a caller at %s: %s",
        writer.get_extra_info("peername"),
        refusal,
        extra={"action": "connection_refused"},
    )
    writer.write(frames.pack(Refused(str(refusal), refusal.gone)))
    await writer.drain()
    writer.close()
    async with asyncio.timeout(TIMEOUT_S):
        await writer.wait_closed()
