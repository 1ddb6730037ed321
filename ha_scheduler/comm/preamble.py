"""The preamble: the introduction on a Dask connection, before distributed reads any of it.

Guarantee: under TLS the certificate of the server is looked at before the caller says a word
(``CHECK_SERVER``). Two processes of ours know and accept each other's version of the protocol
before distributed's handshake, which unpickles. A caller that does not introduce itself within
``TIMEOUT_S`` of the TLS handshake, or in more than ``INTRODUCTION_BYTES_MAX``, is hung up on; a
refused one hears why, as the error of its connection. At a server of a cell a certificate without
a known role opens nothing, and that of a client nothing without a token (``callers.py``). A peer
that does not lead says who does, and the caller goes there at once. A token
leaves its holder after the other side has shown a certificate of the cell; on ``ha://``, that of an
engine or a peer.

Order: the TLS handshake negotiates ``ALPN``; the caller writes its ``Introduction``; the other side
answers ``Accepted``, or ``Refused`` and hangs up; distributed's handshake follows. It takes no
extra round trip, as the introduction travels with the end of the TLS handshake. A process without
this package negotiates no ALPN: a server of a cell lets distributed's handshake run and answers the
first request by an error, or serves it as what its certificate says, as the daemons are set.

Without TLS there is nothing to negotiate by, and everything is on one machine: the versions are a
field of distributed's handshake, which an unmodified process ignores.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Sequence
from typing import Any

import msgspec
from distributed.comm import tcp
from distributed.comm.core import Comm, CommClosedError, FatalCommClosedError
from distributed.comm.registry import backends
from distributed.core import error_message
from msgspec.structs import replace
from tornado.iostream import IOStream, StreamClosedError

from ha_scheduler.comm import decoding, http, security, servers
from ha_scheduler.comm.address import Endpoint, parse_endpoint
from ha_scheduler.comm.callers import IDENTITY, Callers, NotJoined
from ha_scheduler.comm.permitted import denials
from ha_scheduler.comm.tokens import token_of
from ha_scheduler.errors import CertificateRefused, OperatorError
from ha_scheduler.gate.servers import PLACE
from ha_scheduler.protocol import frames
from ha_scheduler.protocol.codec import MalformedMessage, ProtocolError, shown
from ha_scheduler.protocol.introduction import (
    ALPN,
    TIMEOUT_S,
    Accepted,
    Introduction,
    Kind,
    Refused,
    RefusedError,
    accept,
    accepted,
    introduce,
    introduced,
    of_either,
)
from ha_scheduler.security.contexts import harden
from ha_scheduler.security.tls import Role, role_in
from ha_scheduler.security.token import TokenExpired, TokenRefused

logger = logging.getLogger("distributed.ha.comm")

HANDSHAKE_S = 30.0  # of TLS: a thousand who call at once, after a takeover, take us many seconds

#: In connection arguments: called with a new comm under TLS, before a word is said to its other
#: side; raises for a certificate that is not to be there.
CHECK_SERVER = "check_server"

#: In connection arguments: the caller's introduction; default: of a client.
#: In ``Comm.extra_info``: the other side's. In distributed's handshake: the versions.
INTRODUCTION = "introduction"
REFUSAL = (
    "refusal"  # of a stream: why its caller is turned away once distributed's handshake is over
)


#: In connection arguments: a peer that does not lead is told of by ``NotLeading``.
RACING = "racing"


class IntroductionRefused(FatalCommClosedError):
    """Remote: one side refuses the other for good."""


class NotLeading(CommClosedError):
    """Remote: a peer that does not lead; ``leader`` does, as far as it knows."""

    def __init__(self, reason: str, leader: Endpoint) -> None:
        super().__init__(reason)
        self.leader = leader


def is_final(error: BaseException) -> bool:
    """Whether a retry is useless: an invalid certificate, or a refused version."""
    cause = error.__cause__
    return isinstance(error, IntroductionRefused) or isinstance(cause, ssl.SSLCertVerificationError)


def peer_introduction(comm: Comm) -> Introduction | Accepted | None:
    """Version and features of the other side; None for a process without this package."""
    said: Introduction | Accepted | None = comm.extra_info.get(INTRODUCTION)
    return said


class _Reading:
    """Of a comm: distributed's handshake is read as what it is, and nothing else."""

    async def read(self: Any, deserializers: Any = None) -> Any:
        if self.remote_info:
            return await super().read(deserializers)  # type: ignore[misc]
        try:
            return await decoding.read_handshake(self)
        except (StreamClosedError, ssl.SSLError) as error:
            self.abort()
            tcp.convert_stream_closed_error(self, error)  # raises
        except BaseException:
            self.abort()
            raise


class TLS(_Reading, tcp.TLS):
    """As upstream's, with the introduction."""

    def _read_extra(self) -> None:
        super()._read_extra()
        self._extra[INTRODUCTION] = getattr(self.stream, INTRODUCTION, None)
        if (identity := getattr(self.stream, IDENTITY, None)) is not None:
            self._extra[IDENTITY] = identity


class _Listening:
    """Of a listener: a connection has its place at the gate until it is introduced.

    A server that has ``inherited`` sockets which listen already takes connections from those.
    """

    async def start(self: Any) -> None:
        server = getattr(self.comm_handler, "__self__", None)
        sockets = getattr(server, "inherited", ())
        if not sockets:
            await super().start()  # type: ignore[misc]
            return
        _take_over(self, sockets)

    def _handle_stream(self: Any, stream: IOStream, address: Any) -> Any:
        """As upstream's; the stream is closed also if its task ends before its first step."""
        over = self.tcp_server.take_place(address)  # while the server is there, which may stop
        setattr(stream, PLACE, over)

        def ended(task: asyncio.Task[None]) -> None:
            over()
            if task.cancelled():
                stream.close()

        task = asyncio.ensure_future(super()._handle_stream(stream, address))  # type: ignore[misc]
        task.add_done_callback(ended)
        return task

    async def on_connection(self: Any, comm: Any, handshake_overrides: Any = None) -> None:
        over = getattr(comm.stream, PLACE)
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                await super().on_connection(comm, handshake_overrides)  # type: ignore[misc]
        except TimeoutError as error:
            comm.abort()
            raise CommClosedError(f"{comm.peer_address} began with nothing") from error
        except BaseException:
            comm.abort()  # this process ends: nobody else has the connection yet
            raise
        finally:
            over()
        if reason := getattr(comm.stream, REFUSAL, ""):
            await turn_away(comm, reason)
            raise CommClosedError(reason)


def _take_over(listener: Any, sockets: Sequence[socket.socket]) -> None:
    """As ``TCPListener.start`` of upstream's."""
    arguments: Any = {"max_buffer_size": tcp.MAX_BUFFER_SIZE, **listener.server_args}
    listener.tcp_server = tcp.TCPServer(**arguments)
    listener.tcp_server.handle_stream = listener._handle_stream
    listener.tcp_server.add_sockets(sockets)
    listener.get_host_port()  # it notes where it is bound


class TLSListener(_Listening, tcp.TLSListener):
    """As upstream's; reads an introduction."""

    comm_class = TLS

    def _get_server_args(self, **connection_args: Any) -> dict[str, Any]:
        return _offering(super()._get_server_args(**connection_args))

    async def _prepare_stream(self, stream: IOStream, address: str) -> IOStream | None:
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                prepared: IOStream | None = await super()._prepare_stream(stream, address)
            if prepared is None:
                return None
            callers = _callers(self.comm_handler)
            if _negotiated(prepared):
                async with asyncio.timeout(TIMEOUT_S):
                    await _hear(prepared, callers)
                if prepared.closed():
                    raise StreamClosedError
            elif callers is not None and not prepared.closed():
                _recognise(prepared, callers, address)
            return prepared
        except StreamClosedError:
            logger.info("Connection from %s closed while it said who it is", address)
        except (
            TimeoutError,
            ProtocolError,
            RefusedError,
            CertificateRefused,
            TokenRefused,
        ) as error:
            _tell_refusal(address, str(error) or "it did not say in time who it is")
        except BaseException:
            stream.close()
            raise
        stream.close()
        return None


class TLSConnector(tcp.TLSConnector):
    """As upstream's; sends an introduction."""

    comm_class = TLS

    def _get_connect_args(self, **connection_args: Any) -> dict[str, Any]:
        return _offering(super()._get_connect_args(**connection_args))

    async def connect(self, address: str, deserialize: bool = True, **connection_args: Any) -> TLS:
        try:
            return await self._introduced(address, deserialize, **connection_args)
        except NotLeading as follower:
            if connection_args.get(RACING):
                raise
            return await self._introduced(str(follower.leader), deserialize, **connection_args)

    async def _introduced(self, address: str, deserialize: bool, **connection_args: Any) -> TLS:
        comm: TLS = await super().connect(address, deserialize, **connection_args)
        try:
            if check := connection_args.get(CHECK_SERVER):
                check(comm)
            if _negotiated(comm.stream):
                introduction = connection_args.get(INTRODUCTION) or introduce(Kind.CLIENT)
                if _is_of_a_cell(comm):
                    token = token_of(introduction, connection_args["ssl_context"])
                    introduction = replace(introduction, token=token)
                comm.extra_info[INTRODUCTION] = await _call(comm.stream, introduction)
        except (RefusedError, ProtocolError, OperatorError) as error:
            comm.abort()
            if isinstance(error, RefusedError) and error.leader and _is_of_a_daemon(comm):
                leader = parse_endpoint(error.leader)
                raise NotLeading(f"{comm.peer_address}: {error}", leader) from error
            if isinstance(error, RefusedError) and error.passing:
                raise CommClosedError(f"{comm.peer_address}: {error}") from error
            raise IntroductionRefused(f"{comm.peer_address}: {error}") from error
        except StreamClosedError as error:
            comm.abort()
            tcp.convert_stream_closed_error(comm, error)  # raises; final if our CA is unknown there
        except BaseException:
            comm.abort()
            raise
        return comm


class TLSBackend(tcp.TLSBackend):
    _connector_class = TLSConnector
    _listener_class = TLSListener


class TCP(_Reading, tcp.TCP):
    """As upstream's, with the introduction as a field of distributed's handshake."""

    introduction: Introduction | None = None  # a caller's, where it is not just any client's

    def handshake_info(self) -> dict[str, Any]:
        said = msgspec.msgpack.encode(self.introduction or accept())
        return {**super().handshake_info(), INTRODUCTION: said}

    def handshake_configuration(  # type: ignore[override]  # static there, called on the comm
        self, local: dict[str, Any], remote: dict[str, Any]
    ) -> dict[str, Any]:
        """Called by both sides when both have spoken (comm/core.py:274 and 384)."""
        said = remote.get(INTRODUCTION)
        if said is not None:
            try:
                if not isinstance(said, bytes):
                    raise MalformedMessage(f"not an introduction: {shown(said)}")
                self._extra[INTRODUCTION] = of_either(said)
            except (RefusedError, ProtocolError) as error:
                self.abort()
                raise IntroductionRefused(f"{self.peer_address}: {error}") from error
        configuration: dict[str, Any] = super().handshake_configuration(local, remote)
        return configuration


class TCPListener(_Listening, tcp.TCPListener):
    comm_class = TCP


class TCPConnector(tcp.TCPConnector):
    comm_class = TCP

    async def connect(self, address: str, deserialize: bool = True, **connection_args: Any) -> TCP:
        comm: TCP = await super().connect(address, deserialize, **connection_args)
        comm.introduction = connection_args.get(INTRODUCTION)
        return comm


class TCPBackend(tcp.TCPBackend):
    _connector_class = TCPConnector
    _listener_class = TCPListener


def register() -> None:
    """Replace the transports of this process."""
    backends.update(tcp=TCPBackend(), tls=TLSBackend())
    tcp.from_frames = decoding.from_frames
    servers.install()
    http.install()
    security.install()


def serves_a_cell(handler: Any) -> bool:
    """Whether a server takes callers of a cell, whose certificates have roles.

    A process with this package may have others: a scheduler of Dask's own beside a client of ours.
    """
    return bool(getattr(getattr(handler, "__self__", None), "serves_a_cell", False))


def _callers(handler: Any) -> Callers | None:
    """Who judges the callers of a server of a cell; None for another server."""
    if not serves_a_cell(handler):
        return None
    callers: Callers = handler.__self__.callers
    return callers


def _offering(arguments: dict[str, Any]) -> dict[str, Any]:
    harden(arguments["ssl_options"])
    arguments["ssl_options"].set_alpn_protocols([ALPN])
    return arguments


def _negotiated(stream: Any) -> bool:
    return not stream.closed() and stream.socket.selected_alpn_protocol() == ALPN


async def _hear(stream: Any, callers: Callers | None) -> None:
    """Accept the caller, or refuse it and raise as ``introduced`` and ``Callers.identify``."""
    said = await frames.read(stream.read_bytes, frames.INTRODUCTION_BYTES_MAX)
    try:
        introduction = introduced(said)
        setattr(stream, INTRODUCTION, replace(introduction, token=None))  # it is kept nowhere
        if callers is not None:
            identity = await callers.identify(stream.socket, introduction.token)
            setattr(stream, IDENTITY, identity)
    except (RefusedError, CertificateRefused, TokenRefused) as error:
        passing = isinstance(error, TokenExpired | NotJoined)
        await stream.write(frames.pack(Refused(str(error), passing=passing)))
        raise
    stream.write(frames.pack(accept()))


def _recognise(stream: Any, callers: Callers, address: str) -> None:
    """A caller without this package. Raises ``CertificateRefused``."""
    try:
        setattr(stream, IDENTITY, callers.identify_without_token(stream.socket))
    except TokenRefused as error:
        _tell_refusal(address, str(error))
        setattr(stream, REFUSAL, str(error))


def _tell_refusal(address: str, reason: str) -> None:
    logger.warning(
        "Refused a connection from %s: %s", address, reason, extra={"action": "connection_refused"}
    )
    denials.note_caller(address, reason)


async def turn_away(comm: Any, reason: str) -> None:
    """Answer the first request of an unmodified process by an error that it shows, and hang up.

    Nothing of the request is unpickled.
    """
    comm.deserialize = False
    try:
        async with asyncio.timeout(TIMEOUT_S):
            asked = await comm.read()
            op = asked.get("op") if isinstance(asked, dict) else None
            if op == "register-client":  # client.py:1589
                await comm.write([{"op": "stream-start", "error": reason}])
            elif op == "register-worker":  # worker.py:1133
                await comm.write({"status": "error", "message": reason, "time": 0})
            else:
                await comm.write(error_message(PermissionError(reason), status="uncaught-error"))
    except (OSError, TimeoutError):
        pass  # it has gone by itself
    finally:
        await comm.close()


def _is_of_a_cell(comm: Any) -> bool:
    """Whether the other side is one to show a token to, by its certificate.

    Which role it is to have, ``CHECK_SERVER`` has looked at.
    """
    try:
        role_in(comm.extra_info.get("peercert"))
    except CertificateRefused:
        return False
    return True


def _is_of_a_daemon(comm: Any) -> bool:
    """Whose word on who leads counts."""
    return role_in(comm.extra_info.get("peercert")) is Role.PEER


async def _call(stream: Any, introduction: Introduction) -> Accepted:
    stream.write(frames.pack(introduction))
    return accepted(await frames.read(stream.read_bytes, frames.INTRODUCTION_BYTES_MAX))
