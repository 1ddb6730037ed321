"""Refusals of what a client or worker sent: told to the sender, and nothing of it done.

Guarantee: an unknown message of a client's stream, or one with a client's name or a field of ours
of another type or out of range, does not reach the ledger, nor does what came with it. Its client
hears why and its stream ends; all others go on. The same holds for a registration. A refused call
is answered with the error.

A stream is of the client or worker that registered for it: a message in which its sender says to be
another one, or that only the other kind sends, is refused as a malformed one.

What an honest client may say is refused alone, and its stream goes on: a message that cannot be
unpickled here, or with a key that the cell cannot keep, or that its role may not send
(``security/permissions.py``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Mapping
from time import time
from typing import Any

from distributed.batched import BatchedSend
from distributed.comm import CommClosedError
from distributed.core import error_message

from ha_scheduler.comm.decoding import UNREADABLE
from ha_scheduler.comm.permitted import denials
from ha_scheduler.comm.roles import identity_of
from ha_scheduler.protocol.client import request
from ha_scheduler.protocol.codec import (
    MalformedMessage,
    Message,
    ProtocolError,
    UnknownMessage,
    shown,
    to_op,
)
from ha_scheduler.protocol.keys import check_names
from ha_scheduler.security.permissions import (
    Operation,
    Party,
    Surface,
    on_client_stream,
    permitted,
    refusal,
    rows,
)

logger = logging.getLogger(__name__)

_END = "close-stream"  # core.py:888: no handler has it

_OF_CLIENTS = permitted(Surface.STREAM, Party.CLIENT)
_OF_WORKERS = permitted(Surface.STREAM, Party.WORKER)

#: Raises ``ProtocolError`` for a message that ends its stream.
Check = Callable[[dict[str, Any]], None]
#: Told of a message that is refused alone, and why.
Refused = Callable[[dict[str, Any], Exception], None]


async def refuse(comm: Any, error: Exception) -> None:
    """Refuse a registration, and end its connection."""
    await comm.write(_refusal(comm, error))
    await comm.close()


class TurnedAway(Exception):
    """A client is not to be served here; ``farewell`` is what it hears of that."""

    def __init__(self, why: str, farewell: Message) -> None:
        super().__init__(why)
        self.farewell = farewell


class CheckedComm:
    """A client's comm, for ``Server.handle_stream`` to read."""

    def __init__(
        self,
        comm: Any,
        stream: BatchedSend,
        known: Container[str],
        check: Check,
        refused: Refused,
        unread: Any = (),
    ) -> None:
        """``stream``: its way out. ``check``: of each message, beside what is checked here.
        ``unread``: what came of the stream before.
        """
        self._comm = comm
        self._stream = stream
        self._known = known
        self._check = check
        self._refused = refused
        self._unread = unread
        self.ended: Exception | None = None  # the error with which the connection ended
        self._identity = identity_of(comm)
        self._permitted = on_client_stream(self._identity)

    async def read(self) -> list[dict[str, Any]]:
        """The next messages. Raises ``CommClosedError``, also when it has refused them."""
        try:
            messages, self._unread = self._unread or await self._comm.read(), ()
        except CommClosedError as error:
            self.ended = error
            raise
        try:
            checked = [self._checked(message) for message in _as_list(messages)]
        except TurnedAway as away:
            self._stream.send(to_op(away.farewell))
            await self._stream.close()
            raise CommClosedError(str(away)) from away
        except ProtocolError as error:
            self._stream.send(_refusal(self._comm, error))
            await self._stream.close()
            raise CommClosedError(f"refused: {error}") from error
        return [message for message in checked if self._can_be_handled(message)]

    def _checked(self, message: Any) -> dict[str, Any]:
        checked = request(message)
        op = checked["op"]
        if op not in _OF_CLIENTS and op != _END and not _was_added(op, self._known):
            raise UnknownMessage(
                f"there is no message {shown(op)} of a client here. One that a library added to a "
                "leader ended with it; have a SchedulerPlugin add it to each"
            )
        self._check(checked)
        return checked

    def _is_permitted(self, message: dict[str, Any]) -> bool:
        op = message["op"]
        reason = refusal(self._identity, Operation(Surface.STREAM, op), added=True)
        if reason is None or op == _END:
            return True
        denials.note(self._identity, op, reason)
        self._refused(message, PermissionError(reason))
        return False

    def _can_be_handled(self, message: dict[str, Any]) -> bool:
        if message["op"] not in self._permitted and not self._is_permitted(message):
            return False
        error = message.get(UNREADABLE)
        if not isinstance(error, Exception):
            try:
                check_names(message)
                return True
            except ValueError as fault:
                error = fault
        logger.warning(
            "Refused a message %s of %s: %s: %s.",
            message["op"],
            self._comm.peer_address,
            type(error).__name__,
            error,
            extra={"action": "message_refused"},
        )
        self._refused(message, error)
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._comm, name)


class CheckedWorkerComm:
    """As ``CheckedComm``, of a worker that registered at ``address``."""

    def __init__(self, comm: Any, address: str, known: Container[str]) -> None:
        self._comm = comm
        self._address = address
        self._known = known

    async def read(self) -> Any:
        """The next messages. Raises ``CommClosedError``, also when it has refused them."""
        messages = await self._comm.read()
        try:
            for message in _as_list(messages):
                self._check(message)
        except ProtocolError as error:
            _refusal(self._comm, error)
            self._comm.abort()
            raise CommClosedError(f"refused: {error}") from error
        return messages

    def _check(self, message: Any) -> None:
        if type(message) is not dict:
            raise MalformedMessage("a message of a stream is a map with an op")
        op = message.get("op")
        if op not in _OF_WORKERS and op != _END and not _was_added(op, self._known):
            raise UnknownMessage(f"there is no message {shown(op)} of a worker")
        require_sender(message, "worker", self._address)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._comm, name)


def _was_added(op: Any, known: Container[str]) -> bool:
    """By a library, for whom the table has one row for all."""
    return op in known and Operation(Surface.STREAM, op) not in rows()


def require_sender(message: Mapping[str, Any], field: str, sender: str) -> None:
    """Raise ``MalformedMessage`` if the message says to be of another one than its stream is."""
    said = message.get(field, sender)
    if said != sender:
        raise MalformedMessage(
            f"{message['op']}: this is the stream of {sender}, and the {field} in it {shown(said)}"
        )


def _refusal(comm: Any, error: Exception) -> dict[str, Any]:
    """In upstream's words, for a client (client.py:1771) and for a worker (worker.py:1140)."""
    logger.warning("Refused %s: %s.", comm.peer_address, error, extra={"action": "message_refused"})
    return {**error_message(error), "message": str(error), "time": time()}


def _as_list(messages: Any) -> Any:
    return messages if isinstance(messages, (tuple, list)) else (messages,)
