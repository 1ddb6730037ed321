"""The enrolment port: a node gets a certificate for a token to join, which holds once.

Guarantee, and the order that keeps it: only a leader enrols, and the certificate is signed after
the record that the token holds no longer has committed. So a token gives at most one certificate,
whoever asks at the same time and whichever leader dies; a node whose answer is lost asks its
operator for another token. A certificate is renewed for who shows it and has its key.

The port is one of its own, since who calls has no certificate yet: that of peers shakes hands with
nobody like that. It has a gate, one request for each connection, and limits of size and time.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time

from ha_scheduler.cell.tls_files import TlsFiles
from ha_scheduler.errors import CertificateRefused, OperatorError
from ha_scheduler.gate.gate import First
from ha_scheduler.peer.identity.issuing import Issuer
from ha_scheduler.peer.network.conversations import Caller, Conversations
from ha_scheduler.peer.replica import Replica
from ha_scheduler.protocol import frames
from ha_scheduler.protocol.control import Declined, Taken
from ha_scheduler.protocol.enrolment import (
    REQUESTS,
    Answer,
    Authorities,
    AuthorityRequest,
    Enrolled,
)
from ha_scheduler.security.contexts import enrolment_context
from ha_scheduler.security.enrolment import Unfit, enrol, requested_key
from ha_scheduler.security.identity import TokenRole
from ha_scheduler.security.tls import Role, name_of, role_of
from ha_scheduler.security.token import TokenRefused, read

CONVERSATION_S = 10.0  # TLS, a request, a commit and an answer
AT_ONCE_MAX = 64  # nodes of a cluster that boots; others wait
REQUEST_BYTES_MAX = 128 * 1024

logger = logging.getLogger(__name__)


class Enrolment:
    def __init__(self, replica: Replica, issuer: Issuer, files: TlsFiles, address: str) -> None:
        """``address``: of the cell, for clients. Raises ``OperatorError``."""
        self._replica = replica
        self._issuer = issuer
        self._files = files
        self._address = address
        self._context = enrolment_context(files)
        self._conversations = Conversations("enrolment", self._converse)
        self._turns = asyncio.Semaphore(AT_ONCE_MAX)
        self._redeeming = asyncio.Lock()

    def start(self, sock: socket.socket) -> None:
        """Serve on a bound socket."""
        self._conversations.start(sock, First.TLS, AT_ONCE_MAX)

    async def stop(self) -> None:
        """Accept nothing more and end all conversations."""
        await self._conversations.stop()

    async def _converse(self, caller: Caller) -> None:
        async with self._turns, asyncio.timeout(CONVERSATION_S):
            reader, writer = await caller.streams(self._context, REQUEST_BYTES_MAX, CONVERSATION_S)
            said = await frames.read(reader.readexactly, REQUEST_BYTES_MAX)
            answer = await self._answer(said, writer.get_extra_info("ssl_object"))
            writer.write(frames.pack(answer))
            await writer.drain()
            writer.close()
            await writer.wait_closed()

    async def _answer(self, said: bytes, shown: ssl.SSLObject) -> Answer:
        request = REQUESTS.decode(said)
        if isinstance(request, AuthorityRequest):
            return Authorities(self._files.ca_file.read_bytes())
        try:
            key = requested_key(request.request)
            if request.token is None:
                name = _renewed(shown)
            else:
                redeemed = await self._redeem(request.token)
                if isinstance(redeemed, Declined):
                    return redeemed
                name = redeemed
            certificate = enrol(self._files.cert_file.parent, key, name)
        except (Unfit, CertificateRefused, OperatorError) as error:
            return Declined(str(error).rstrip("."))
        logger.info("%s has a certificate now", name, extra={"action": "node_enrolled"})
        return Enrolled(certificate, self._files.ca_file.read_bytes(), self._address)

    async def _redeem(self, token: bytes) -> str | Declined:
        """The name of whom the token is for, which holds no longer from now on."""
        async with self._redeeming:
            ring = self._replica.ring.ring
            if ring is None or not self._replica.leading():
                leader = self._replica.leader_name()
                return Declined("this peer does not lead", passing=True, leader=leader)
            try:
                identity = read(token, ring, now=time.time())
            except TokenRefused as error:
                return Declined(str(error))
            if identity.role is not TokenRole.JOIN:
                return Declined(f"this takes a token to join, and it is one of {identity.role}")
            ended = await self._issuer.revoke(bytes.fromhex(identity.token_id), "its enrolment")
        return identity.subject if isinstance(ended, Taken) else ended


def _renewed(shown: ssl.SSLObject) -> str:
    """The name in the certificate that the caller shows. Raises ``CertificateRefused``."""
    if not shown.getpeercert():
        raise CertificateRefused("a node without a certificate needs a token to join")
    if role_of(shown) is not Role.CLIENT:
        raise CertificateRefused(f"the certificate of a {role_of(shown)} is not renewed here")
    return name_of(shown)
