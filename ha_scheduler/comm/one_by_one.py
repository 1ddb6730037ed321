"""A comm whose stream outlives a message that cannot be serialised.

Guarantee: of a batch, what cannot be serialised is left out and handed to ``dropped`` with the
error, and everything else is written, in order. Upstream's ``BatchedSend`` ends its stream for one
such message, and with it all that its sender has said and will say.

Nothing of a message is written before all of it is serialised (``tcp.TCP.write``), so an error that
leaves the comm open has written nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

logger = logging.getLogger("distributed.ha.comm")

Dropped = Callable[[dict[str, Any], Exception], None]


class OneByOneComm:
    """``comm``, for a ``BatchedSend`` to write to."""

    def __init__(self, comm: Any, dropped: Dropped) -> None:
        self._comm = comm
        self._dropped = dropped

    async def write(self, msg: Any, serializers: Any = None, on_error: str = "message") -> int:
        """As ``Comm.write``. Raises ``CommClosedError``."""
        try:
            return int(await self._comm.write(msg, serializers=serializers, on_error=on_error))
        except OSError:
            raise
        except Exception as error:  # pickle runs the code of who is sent
            if self._comm.closed() or not isinstance(msg, list):
                raise
            if len(msg) == 1:
                self._drop(msg[0], error)
                return 0
        return sum([await self.write([each], serializers, on_error) for each in msg])

    def _drop(self, message: dict[str, Any], error: Exception) -> None:
        logger.error(
            "A message %r to %s cannot be sent and is left out: %s: %s.",
            message.get("op"),
            self._comm.peer_address,
            type(error).__name__,
            error,
            extra={"action": "message_unsendable"},
        )
        try:
            self._dropped(message, error)
        except Exception:  # of ours, or the stream would end of it
            logger.exception(
                "A defect in what becomes of a message that cannot be sent",
                extra={"action": "message_defect"},
            )

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """For ``isinstance``, which upstream asks (utils_test.py:1800)."""
        return self._comm.__class__

    def __getattr__(self, name: str) -> Any:
        return getattr(self._comm, name)
