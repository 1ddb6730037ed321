"""The operator's side of a control connection.

Each request is a blocking connection to the peer port with one deadline: TLS, an introduction that
names the cell, one message out, one back. Threads ask several peers at once.
"""

from __future__ import annotations

import itertools
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

from ha_scheduler.cell.address import join_address
from ha_scheduler.cell.peers import Cell
from ha_scheduler.cell.tls_files import TlsFiles
from ha_scheduler.errors import CertificateRefused, ControlError
from ha_scheduler.ledger.dump import END, SnapshotDamagedError, check_chunk
from ha_scheduler.protocol import frames
from ha_scheduler.protocol.codec import Message, ProtocolError
from ha_scheduler.protocol.control import (
    ANSWERS,
    OF_A_COPY,
    Answer,
    Declined,
    History,
    HistoryRequest,
    Request,
    SnapshotBegins,
    SnapshotRequest,
    Status,
    StatusRequest,
)
from ha_scheduler.protocol.introduction import Introduction, Kind, RefusedError, accepted, introduce
from ha_scheduler.protocol.peer import Failover, PeerAddress, SnapshotChunk
from ha_scheduler.security.contexts import client_context
from ha_scheduler.security.tls import Role, name_of, role_of

TIMEOUT_S = 5.0  # for one request; a transfer is over in less than three
_T = TypeVar("_T")


class ControlClient:
    """Asks the peers of one cell. Every method raises ``ControlError``."""

    def __init__(
        self,
        cell: Cell,
        tls: TlsFiles | None,
        timeout_s: float = TIMEOUT_S,
        token: bytes | None = None,
    ) -> None:
        """``token``: an admin's, for who has no certificate of a peer."""
        self.cell = cell
        self._token = token
        self.identity = cell.identity
        self._context = client_context(tls) if tls is not None else None
        self._timeout_s = timeout_s

    def status(self, name: str, *, linearizable: bool = False) -> Status:
        """The status of the peer ``name``; see ``StatusRequest``."""
        return self.request(name, StatusRequest(linearizable), Status)

    def history(self, name: str) -> Sequence[Failover]:
        """The failovers that the peer ``name`` knows, oldest first."""
        return self.request(name, HistoryRequest(), History).entries

    def of_all(
        self, ask: Callable[[str], _T], names: Sequence[str] | None = None
    ) -> dict[str, _T | ControlError]:
        """``ask`` for each of ``names`` (None: all peers) at once: ``of_all(self.status)``."""
        asked = self.cell.names if names is None else names

        def answer(name: str) -> _T | ControlError:
            try:
                return ask(name)
            except ControlError as error:
                return error

        with ThreadPoolExecutor(len(self.cell.names)) as pool:
            return dict(zip(asked, pool.map(answer, asked), strict=True))

    def copy(self, name: str, write: Callable[[bytes], object]) -> SnapshotBegins:
        """``write`` the frames of a copy of the ledger of the peer ``name``, as they come.

        Each has the time of one request. What was written is whole if this returns.
        """
        with self._errors_of(name) as link:
            return link.copy(self._context, self.identity, self._token, write, self._timeout_s)

    def request(self, name: str, request: Request, wanted: type[_T]) -> _T:
        """The answer of type ``wanted`` of the peer ``name``."""
        with self._errors_of(name) as link:
            answer = link.ask(self._context, self.identity, request, self._token)
            if isinstance(answer, Declined):
                raise RefusedError(answer.reason)
            if not isinstance(answer, wanted):
                raise link.error(f"answered with {type(answer).__name__}, not {wanted.__name__}")
            return answer

    @contextmanager
    def _errors_of(self, name: str) -> Iterator[_Link]:
        """A connection to the peer ``name``, whose errors become ``ControlError``."""
        peer = self.cell.peer(name)
        link = _Link(peer, time.monotonic() + self._timeout_s)
        try:
            yield link
        except ControlError:  # which is an OSError, too
            raise
        except TimeoutError as error:
            raise link.error(f"did not answer within {self._timeout_s:g} s") from error
        except CertificateRefused as error:
            raise link.error(f"was not asked: {error}") from error
        except ssl.SSLError as error:
            raise link.error(f"refused the TLS connection ({error.reason})") from error
        except EOFError as error:
            raise link.error("closed the connection without an answer") from error
        except OSError as error:
            raise link.error(f"cannot be reached: {error.strerror or error}") from error
        except RefusedError as error:
            raise link.error(f"refused: {str(error).rstrip('.')}") from error
        except (ProtocolError, SnapshotDamagedError) as error:
            raise link.error(f"sent what is no answer ({error})") from error


class _Link:
    """One connection with one deadline."""

    def __init__(self, peer: PeerAddress, deadline: float) -> None:
        self._peer = peer
        self._deadline = deadline

    def error(self, reason: str) -> ControlError:
        where = join_address(self._peer.host, self._peer.peer_port)
        return ControlError(f"Peer {self._peer.name} ({where}) {reason}.")

    def ask(
        self,
        context: ssl.SSLContext | None,
        cell: str,
        request: Request,
        token: bytes | None = None,
    ) -> Answer:
        with self._connected(context) as link:
            self._introduce(link, introduce(Kind.CONTROL, cell, token=token))
            self._send(link, request)
            body = frames.receive(partial(self._read, link), frames.CONTROL_BYTES_MAX)
            return ANSWERS.decode(body)

    @contextmanager
    def _connected(self, context: ssl.SSLContext | None) -> Iterator[socket.socket]:
        address = (self._peer.host, self._peer.peer_port)
        with socket.create_connection(address, timeout=self._left()) as plain:
            if context is None:
                yield plain
                return
            plain.settimeout(self._left())
            with context.wrap_socket(plain) as link:
                self._check(link)
                yield link

    def copy(
        self,
        context: ssl.SSLContext | None,
        cell: str,
        token: bytes | None,
        write: Callable[[bytes], object],
        timeout_s: float,
    ) -> SnapshotBegins:
        with self._connected(context) as link:
            exactly = partial(self._read, link)
            self._introduce(link, introduce(Kind.CONTROL, cell, token=token))
            self._send(link, SnapshotRequest())
            begins = ANSWERS.decode(frames.receive(exactly, frames.CONTROL_BYTES_MAX))
            if isinstance(begins, Declined):
                raise RefusedError(begins.reason)
            if not isinstance(begins, SnapshotBegins):
                raise ProtocolError(f"{type(begins).__name__} is no copy")
            write(frames.pack(begins))
            for number in itertools.count():
                self._deadline = time.monotonic() + timeout_s
                body = frames.receive(exactly, frames.CONTROL_BYTES_MAX)
                chunk = OF_A_COPY.decode(body)
                if not isinstance(chunk, SnapshotChunk):
                    raise ProtocolError("a copy has one head")
                write(frames.pack(chunk))
                if check_chunk(chunk.data, number)[0] == END:
                    break
            return begins

    def _check(self, link: ssl.SSLSocket) -> None:
        if (role_of(link), name_of(link)) != (Role.PEER, self._peer.name):
            raise CertificateRefused(
                f"the certificate there is for {role_of(link)} {name_of(link)}, so --peers has "
                f"the wrong address for it"
            )

    def _introduce(self, link: socket.socket, introduction: Introduction) -> None:
        self._send(link, introduction)
        accepted(frames.receive(partial(self._read, link), frames.INTRODUCTION_BYTES_MAX))

    def _send(self, link: socket.socket, message: Message) -> None:
        link.settimeout(self._left())
        link.sendall(frames.pack(message))

    def _read(self, link: socket.socket, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            link.settimeout(self._left())
            part = link.recv(size - len(data))
            if not part:
                raise EOFError
            data += part
        return bytes(data)

    def _left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left
