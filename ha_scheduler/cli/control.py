"""The operator's side of a control connection: ask peers for their status, history, a transfer.

Each request is a connection of its own to the peer port: TLS, a hello that names the cell, one
frame out, one frame back. It blocks, with one deadline for all of it; several peers are asked at
once by threads.
"""

from __future__ import annotations

import socket
import ssl
import struct
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import msgpack

from ha_scheduler.cell.address import join_address
from ha_scheduler.cell.peers import Cell
from ha_scheduler.cell.tls_files import TlsFiles
from ha_scheduler.errors import CertificateRefused, ControlError
from ha_scheduler.peer import wire
from ha_scheduler.protocol.peer import PeerAddress
from ha_scheduler.security.tls import Role, client_context, name_of, role_of

TIMEOUT_S = 5.0  # for one request; a transfer is over in less than three
FRAME_BYTES_MAX = 32 * 1024 * 1024  # as peers have it; a history is some kilobytes
_LENGTH = struct.Struct(">I")
_T = TypeVar("_T")


class ControlClient:
    """Asks the peers of one cell. Every method raises ``ControlError``."""

    def __init__(self, cell: Cell, tls: TlsFiles | None, timeout_s: float = TIMEOUT_S) -> None:
        self.cell = cell
        self.identity = cell.identity  # what peers know the cell by
        self._context = client_context(tls) if tls is not None else None
        self._timeout_s = timeout_s

    def status(self, name: str) -> dict[str, Any]:
        """The status of the peer ``name``."""
        return _part(self.request(name, "status"), "status", dict)

    def history(self, name: str) -> list[dict[str, Any]]:
        """The changes of leader that the peer ``name`` knows of, oldest first."""
        return [dict(entry) for entry in _part(self.request(name, "history"), "history", list)]

    def of_all(
        self, ask: Callable[[str], _T], names: Sequence[str] | None = None
    ) -> dict[str, _T | ControlError]:
        """``ask`` applied to each name, all at once, as in ``of_all(self.status)``.

        ``names``: those of some peers; None: of all.
        """
        asked = self.cell.names if names is None else names

        def answer(name: str) -> _T | ControlError:
            try:
                return ask(name)
            except ControlError as error:
                return error

        with ThreadPoolExecutor(len(self.cell.names)) as pool:
            return dict(zip(asked, pool.map(answer, asked), strict=True))

    def request(self, name: str, op: str, **fields: Any) -> dict[str, Any]:
        """The answer of the peer ``name`` to one request."""
        peer = self.cell.peer(name)
        link = _Link(peer, time.monotonic() + self._timeout_s)
        try:
            return link.ask(self._context, self.identity, {"op": op, **fields})
        except ControlError:
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
        except (ValueError, TypeError, msgpack.UnpackException) as error:
            raise link.error(f"sent what is no answer ({error!r})") from error


class _Link:
    """One connection, of which every step ends by the same deadline."""

    def __init__(self, peer: PeerAddress, deadline: float) -> None:
        self._peer = peer
        self._deadline = deadline

    def error(self, reason: str) -> ControlError:
        where = join_address(self._peer.host, self._peer.peer_port)
        return ControlError(f"Peer {self._peer.name} ({where}) {reason}.")

    def ask(
        self, context: ssl.SSLContext | None, cell: str, request: dict[str, Any]
    ) -> dict[str, Any]:
        address = (self._peer.host, self._peer.peer_port)
        with socket.create_connection(address, timeout=self._left()) as plain:
            if context is None:
                return self._talk(plain, cell, request)
            plain.settimeout(self._left())
            with context.wrap_socket(plain) as link:
                self._check(link)
                return self._talk(link, cell, request)

    def _check(self, link: ssl.SSLSocket) -> None:
        if (role_of(link), name_of(link)) != (Role.PEER, self._peer.name):
            raise CertificateRefused(
                f"the certificate there is for {role_of(link)} {name_of(link)}, so --peers has "
                f"the wrong address for it"
            )

    def _talk(self, link: socket.socket, cell: str, request: dict[str, Any]) -> dict[str, Any]:
        self._send(link, {"role": "control", "version": wire.VERSION, "cell": cell})
        self._receive(link)
        self._send(link, request)
        return self._receive(link)

    def _send(self, link: socket.socket, value: dict[str, Any]) -> None:
        body: bytes = msgpack.packb(value, use_bin_type=True)
        link.settimeout(self._left())
        link.sendall(_LENGTH.pack(len(body)) + body)

    def _receive(self, link: socket.socket) -> dict[str, Any]:
        (length,) = _LENGTH.unpack(self._read(link, _LENGTH.size))
        if length > FRAME_BYTES_MAX:
            raise ValueError(f"a frame of {length} bytes")
        answer = msgpack.unpackb(self._read(link, length), raw=False, strict_map_key=False)
        if not isinstance(answer, dict):
            raise TypeError(f"a {type(answer).__name__} for a map")
        if not answer.get("ok"):
            reason = str(answer.get("reason") or answer.get("error") or "no reason given")
            raise self.error(f"refused: {reason.rstrip('.')}")
        return answer

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


def _part(answer: dict[str, Any], key: str, kind: type[_T]) -> _T:
    value = answer.get(key)
    if not isinstance(value, kind):
        raise ControlError(f"A peer of another release answered without {key!r}; upgrade together.")
    return value
