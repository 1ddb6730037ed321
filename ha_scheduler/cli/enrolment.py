"""A node's side of enrolment: a certificate for a token, from a peer that is not known yet.

Order: the authority is fetched from whoever answers and compared with the fingerprint; then a new
connection, to a peer of that authority, is given the token. So nobody else ever sees the token.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from ha_scheduler.cell.address import join_address
from ha_scheduler.errors import CertificateRefused, ControlError
from ha_scheduler.protocol import frames
from ha_scheduler.protocol.codec import ProtocolError
from ha_scheduler.protocol.control import Declined
from ha_scheduler.protocol.enrolment import (
    ANSWERS,
    PEM_BYTES_MAX,
    Authorities,
    AuthorityRequest,
    Enrolled,
    EnrolRequest,
    Request,
)
from ha_scheduler.security.authority import (
    CA_FILE,
    client_files,
    ec_key,
    locked,
    write_dask_config,
)
from ha_scheduler.security.certificate import key_pem, new_key
from ha_scheduler.security.contexts import harden
from ha_scheduler.security.dask_config import DASK_CONFIG_FILE
from ha_scheduler.security.enrolment import request, with_fingerprint
from ha_scheduler.security.files import MODE_PRIVATE, MODE_PUBLIC, write_file
from ha_scheduler.security.tls import Role, role_of

TIMEOUT_S = 15.0  # of one request; a peer gives up on it after ten

Address = tuple[str, int]
_T = TypeVar("_T")


def join(addresses: Sequence[Address], fingerprint: str, token: bytes, directory: Path) -> Path:
    """Have a certificate in ``directory``. Returns its ``dask.yaml``.

    Raises ``ControlError`` and ``OperatorError``.
    """
    said = _first(addresses, _strange(), AuthorityRequest(), Authorities)
    authority = with_fingerprint(said.authorities, fingerprint)
    return _enrol(addresses, authority.decode(), token, directory)


def renew(addresses: Sequence[Address], directory: Path) -> Path:
    """The same for the certificate that is there, before it ends."""
    return _enrol(addresses, (directory / CA_FILE).read_text(), None, directory)


def _enrol(
    addresses: Sequence[Address], authorities: str, token: bytes | None, directory: Path
) -> Path:
    files = client_files(directory)
    with locked(directory):
        if not files.key_file.exists():
            write_file(files.key_file, key_pem(new_key()), MODE_PRIVATE)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    harden(context)
    context.load_verify_locations(cadata=authorities)
    if token is None:
        context.load_cert_chain(files.cert_file, files.key_file)
    asked = EnrolRequest(request(ec_key(files.key_file)), token)
    given = _first(addresses, context, asked, Enrolled)
    with locked(directory):
        write_file(directory / CA_FILE, given.authorities, MODE_PUBLIC)
        write_file(files.cert_file, given.certificate, MODE_PUBLIC)
        write_dask_config(directory, given.address)
    return directory / DASK_CONFIG_FILE


def _strange() -> ssl.SSLContext:
    """For whoever answers; what it says is compared with the fingerprint."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    harden(context)
    return context


def _first(
    addresses: Sequence[Address], context: ssl.SSLContext, asked: Request, wanted: type[_T]
) -> _T:
    """The answer of the first peer that has one. Raises ``ControlError``."""
    reasons = []
    for address in addresses:
        where = join_address(*address)
        try:
            answer = _ask(address, context, asked)
        except (OSError, EOFError, ProtocolError, CertificateRefused) as error:
            reasons.append(f"{where}: {error or type(error).__name__}")
            continue
        if isinstance(answer, wanted):
            return answer
        reason = answer.reason if isinstance(answer, Declined) else "that is no answer"
        reasons.append(f"{where}: {reason}")
        if isinstance(answer, Declined) and not answer.passing:
            break  # the leader has said so
    raise ControlError(f"No certificate was given ({'; '.join(reasons)}).")


def _ask(address: Address, context: ssl.SSLContext, asked: Request) -> object:
    with (
        socket.create_connection(address, timeout=TIMEOUT_S) as plain,
        context.wrap_socket(plain) as link,
    ):
        if context.verify_mode is ssl.CERT_REQUIRED and role_of(link) is not Role.PEER:
            raise CertificateRefused(f"the certificate there is that of a {role_of(link)}")
        link.sendall(frames.pack(asked))

        def exactly(size: int) -> bytes:
            data = bytearray()
            while len(data) < size:
                part = link.recv(size - len(data))
                if not part:
                    raise EOFError("it hung up")
                data += part
            return bytes(data)

        return ANSWERS.decode(frames.receive(exactly, 3 * PEM_BYTES_MAX))
