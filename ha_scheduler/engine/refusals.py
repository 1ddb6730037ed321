"""Refusals of what a client or worker sent: told to the sender, and nothing of it done.

Guarantee: an unknown message of a client's stream, or one with a client's name or a field of ours
of another type or out of range, does not reach the ledger, nor does what came with it. Its client
hears why and its stream ends; all others go on. The same holds for a registration. A refused call
is answered with the error.

What an honest client may say is refused alone, and its stream goes on: a message that cannot be
unpickled here, or with a key that the cell cannot keep.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Container
from time import time
from typing import Any

from distributed.batched import BatchedSend
from distributed.comm import CommClosedError
from distributed.core import error_message

from ha_scheduler.comm.decoding import UNREADABLE
from ha_scheduler.protocol.client import request
from ha_scheduler.protocol.codec import ProtocolError, UnknownMessage, shown
from ha_scheduler.protocol.keys import check_names

logger = logging.getLogger(__name__)

_END = "close-stream"  # core.py:888: no handler has it

#: Told of a message that is refused alone, and why.
Refused = Callable[[dict[str, Any], Exception], None]


async def refuse(comm: Any, error: ProtocolError) -> None:
    """Refuse a registration, and end its connection."""
    await comm.write(_refusal(comm, error))
    await comm.close()


class CheckedComm:
    """A client's comm, for ``Server.handle_stream`` to read. ``stream``: its way out."""

    def __init__(
        self, comm: Any, stream: BatchedSend, known: Container[str], refused: Refused
    ) -> None:
        self._comm = comm
        self._stream = stream
        self._known = known
        self._refused = refused

    async def read(self) -> list[dict[str, Any]]:
        """The next messages. Raises ``CommClosedError``, also when it has refused them."""
        messages = await self._comm.read()
        try:
            checked = [self._checked(message) for message in _as_list(messages)]
        except ProtocolError as error:
            self._stream.send(_refusal(self._comm, error))
            await self._stream.close()
            raise CommClosedError(f"refused: {error}") from error
        return [message for message in checked if self._can_be_handled(message)]

    def _checked(self, message: Any) -> dict[str, Any]:
        checked = request(message)
        if checked["op"] not in self._known and checked["op"] != _END:
            raise UnknownMessage(
                f"there is no message {shown(checked['op'])} here. One that a library added to a "
                "leader ended with it; have a SchedulerPlugin add it to each"
            )
        return checked

    def _can_be_handled(self, message: dict[str, Any]) -> bool:
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
            extra={"action": "message-refused"},
        )
        self._refused(message, error)
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._comm, name)


def _refusal(comm: Any, error: ProtocolError) -> dict[str, Any]:
    """In upstream's words, for a client (client.py:1771) and for a worker (worker.py:1140)."""
    refused = {"action": "message-refused"}
    logger.warning("Refused %s: %s.", comm.peer_address, error, extra=refused)
    return {**error_message(error), "message": str(error), "time": time()}


def _as_list(messages: Any) -> Any:
    return messages if isinstance(messages, (tuple, list)) else (messages,)
