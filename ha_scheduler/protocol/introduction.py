"""The first words of every connection: who calls and why, and whether that is agreed to.

Guarantee: nothing else is said before both sides know that they speak the same version of the
protocol, and what the other one can do. A refusal says why in words for the operator of the other
side; one for the version says which of the two to upgrade.

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

TIMEOUT_S = 5.0  # that a caller has to say who it is, TLS included
TOKEN_BYTES_MAX = 8 * 1024
FEATURES_MAX = 256

Features = Annotated[tuple[Name, ...], Meta(max_length=FEATURES_MAX)]
Token = Annotated[bytes, Meta(max_length=TOKEN_BYTES_MAX)]


class Kind(enum.StrEnum):
    """What a connection is for."""

    CLIENT = "client"  # a client's, to an engine or a worker
    WORKER = "worker"  # a worker's or a nanny's, to an engine or to one another
    ENGINE = "engine"  # a daemon's to its engine, an engine's to a worker
    PEER = "peer"
    WATCH = "watch"
    CONTROL = "control"


class Introduction(Message, tag="introduction"):
    """The caller's first message.

    ``kind`` is a ``Kind``, or one of a later release. ``cell`` is empty for who does not know it
    yet, ``name`` for who has none. ``token`` is what the caller proves itself with beside its
    certificate; no release looks at it yet.
    """

    version: Number
    release: Name
    features: Features
    kind: Name
    cell: Text = ""
    name: Name = ""
    token: Token | None = None


class Accepted(Message, tag="accepted"):
    """The answer to a caller that is let in."""

    version: Number
    release: Name
    features: Features


class Refused(Message, tag="refused"):
    """The answer to a caller that is not.

    ``gone``: the caller's disk does not belong to the cell any more, and never will again.
    """

    reason: Text
    gone: bool = False


class RefusedError(Exception):
    """Remote: the other side does not let us in; its reason is for the operator."""

    def __init__(self, reason: str, *, gone: bool = False) -> None:
        """``gone`` as in ``Refused``."""
        super().__init__(reason)
        self.gone = gone


_INTRODUCTIONS: MessageSet[Introduction] = MessageSet(Introduction)
_ANSWERS: MessageSet[Accepted | Refused] = MessageSet(Accepted | Refused)


def introduce(kind: Kind, cell: str = "", name: str = "") -> Introduction:
    """What this process says first."""
    return Introduction(VERSION, RELEASE, FEATURES, kind, cell, name)


def accept() -> Accepted:
    """What this process answers to who is let in."""
    return Accepted(VERSION, RELEASE, FEATURES)


def introduced(body: bytes) -> Introduction:
    """The caller's introduction, of our version.

    Raises ``RefusedError`` with what the caller is to be told, and ``ProtocolError``.
    """
    try:
        introduction = _INTRODUCTIONS.decode(body)
    except MalformedMessage:
        _compare(peek(body, "version"), VERSION)  # of another version it may be anything else
        raise
    _compare(introduction.version, VERSION)
    return introduction


def accepted(body: bytes) -> Accepted:
    """The other side has let us in. Raises ``RefusedError`` and ``ProtocolError``."""
    answer = _ANSWERS.decode(body)
    if isinstance(answer, Refused):
        raise RefusedError(answer.reason, gone=answer.gone)
    _compare(VERSION, answer.version)
    return answer


async def call(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, introduction: Introduction
) -> Accepted:
    """Introduce this process to who listens. Raises as ``accepted``, and at the stream's end."""
    writer.write(frames.pack(introduction))
    return accepted(await frames.read(reader.readexactly, frames.INTRODUCTION_BYTES_MAX))


def _compare(caller: object, called: int) -> None:
    if isinstance(caller, int) and caller != called:
        older = "caller" if caller < called else "called one"
        raise RefusedError(
            f"the caller speaks version {caller} of the protocol and the called one version "
            f"{called}; upgrade the {older}"
        )
