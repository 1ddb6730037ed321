"""The enrolment protocol: a node without a certificate gets one for a join token.

Each connection has one request and one answer, or ``Declined``.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from ha_scheduler.protocol.codec import Message, MessageSet, Text
from ha_scheduler.protocol.control import Declined
from ha_scheduler.protocol.introduction import Token

PEM_BYTES_MAX = 64 * 1024

Pem = Annotated[bytes, Meta(max_length=PEM_BYTES_MAX)]


class AuthorityRequest(Message, tag="authority"):
    """``Authorities``, please: the caller will compare their fingerprint."""


class EnrolRequest(Message, tag="enrol"):
    """A certificate for the key of ``request`` (PKCS #10, PEM), please.

    ``token``: one to join. None: the caller shows the certificate that is to be renewed.
    """

    request: Pem
    token: Token | None = None


class Authorities(Message, tag="authorities"):
    """What everybody in the cell trusts, as PEM."""

    authorities: Pem


class Enrolled(Message, tag="enrolled"):
    """The certificate, what everybody in the cell trusts, and the address for ``dask.yaml``."""

    certificate: Pem
    authorities: Pem
    address: Text


Request = AuthorityRequest | EnrolRequest
Answer = Authorities | Enrolled | Declined

REQUESTS: MessageSet[Request] = MessageSet(Request)
ANSWERS: MessageSet[Answer] = MessageSet(Answer)
