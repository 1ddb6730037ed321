"""The introduction: the handshake of every connection.

Guarantee: before any other message, both sides agree on the protocol version and know the other's
features. A refusal gives its reason for the operator of the other side, or the side to upgrade.

The caller sends ``Introduction`` and gets ``Accepted`` or ``Refused``. On the ports of Dask this
comes before distributed's handshake, which unpickles.
"""

from __future__ import annotations

import asyncio
import enum
from typing import Annotated

from msgspec import Meta

from ha_scheduler.protocol import FEATURES, RELEASE, VERSION, frames
from ha_scheduler.protocol.codec import (
    MalformedMessage,
    Message,
    MessageSet,
    Name,
    Number,
    Text,
    peek,
)

ALPN = "dask-ha/1"  # of TLS, on the ports of Dask: who offers it introduces itself
TIMEOUT_S = 5.0  # for an introduction, TLS included
TOKEN_BYTES_MAX = 8 * 1024
FEATURES_MAX = 256

Features = Annotated[tuple[Name, ...], Meta(max_length=FEATURES_MAX)]
Token = Annotated[bytes, Meta(max_length=TOKEN_BYTES_MAX)]


class Kind(enum.StrEnum):
    """The kind of a connection."""

    CLIENT = "client"  # a client's, to an engine or a worker
    WORKER = "worker"  # a worker's or a nanny's, to an engine or to one another
    ENGINE = "engine"  # a daemon's to its engine, an engine's to a worker
    PEER = "peer"
    WATCH = "watch"
    CONTROL = "control"


class Introduction(Message, tag="introduction"):
    """The caller's first message.

    ``kind``: a ``Kind``, or one of a later release. ``cell``: empty for a newcomer; ``name``: empty
    for a caller without one. ``token``: who calls, beside the certificate (``security/token.py``).
    ``term``: that in which an engine leads, and gives orders; 0 for any other caller. An old one is
    a reason to refuse; a new one is believed of nobody because of this.
    """

    version: Number
    release: Name
    features: Features
    kind: Name
    cell: Text = ""
    name: Name = ""
    token: Token | None = None
    term: Number = 0


class Accepted(Message, tag="accepted"):
    """The answer to an admitted caller."""

    version: Number
    release: Name
    features: Features


class Refused(Message, tag="refused"):
    """The answer to a refused caller. ``gone``: its disk has left the cell for ever.

    ``passing``: it may be let in later, with a renewed token, or when this peer leads. ``leader``:
    the address of who leads, of a peer that does not.
    """

    reason: Text
    gone: bool = False
    passing: bool = False
    leader: Text = ""


class RefusedError(Exception):
    """Remote: the other side refuses us, with a reason for the operator."""

    def __init__(
        self, reason: str, *, gone: bool = False, passing: bool = False, leader: str = ""
    ) -> None:
        """``gone``, ``passing`` and ``leader`` as in ``Refused``."""
        super().__init__(reason)
        self.gone = gone
        self.passing = passing
        self.leader = leader


_INTRODUCTIONS: MessageSet[Introduction] = MessageSet(Introduction)
_ANSWERS: MessageSet[Accepted | Refused] = MessageSet(Accepted | Refused)
_EITHER: MessageSet[Introduction | Accepted | Refused] = MessageSet(
    Introduction | Accepted | Refused
)


def introduce(
    kind: Kind, cell: str = "", name: str = "", term: int = 0, token: bytes | None = None
) -> Introduction:
    """The introduction of this process."""
    return Introduction(VERSION, RELEASE, FEATURES, kind, cell, name, token, term)


def accept() -> Accepted:
    """This process's answer to an admitted caller."""
    return Accepted(VERSION, RELEASE, FEATURES)


def introduced(body: bytes) -> Introduction:
    """The caller's introduction, of our version.

    Raises ``RefusedError`` with the reason for the caller, and ``ProtocolError``.
    """
    try:
        introduction = _INTRODUCTIONS.decode(body)
    except MalformedMessage:
        _compare(peek(body, "version"), VERSION)  # another version may have other fields
        raise
    _compare(introduction.version, VERSION)
    return introduction


def accepted(body: bytes) -> Accepted:
    """The answer that admits us. Raises ``RefusedError`` and ``ProtocolError``."""
    answer = _ANSWERS.decode(body)
    if isinstance(answer, Refused):
        raise RefusedError(
            answer.reason, gone=answer.gone, passing=answer.passing, leader=answer.leader
        )
    _compare(VERSION, answer.version)
    return answer


def of_either(body: bytes) -> Introduction | Accepted:
    """What the other side says where both speak at once: the one introduces itself, the other
    accepts. Raises as ``accepted``.
    """
    said = _EITHER.decode(body)
    if isinstance(said, Refused):
        raise RefusedError(said.reason, gone=said.gone)
    if isinstance(said, Introduction):
        _compare(said.version, VERSION)
    else:
        _compare(VERSION, said.version)
    return said


async def call(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, introduction: Introduction
) -> Accepted:
    """Introduce this process. Raises as ``accepted``, and at the stream's end."""
    writer.write(frames.pack(introduction))
    return accepted(await frames.read(reader.readexactly, frames.INTRODUCTION_BYTES_MAX))


def _compare(caller: object, called: int) -> None:
    if isinstance(caller, int) and caller != called:
        older = "caller" if caller < called else "called one"
        raise RefusedError(
            f"the caller speaks version {caller} of the protocol and the called one version "
            f"{called}; upgrade the {older}"
        )
