"""Orders of a leader of the past are refused.

Guarantee: what an engine asks of a worker in a call of its own (delete these keys, run this, close,
set up this plugin) is not done if the worker has seen a leader of a later term. The lease ends
before another leads, but a machine that was paused may not know, and a message that has begun
arrives however late (``engine/fencing.py``).

The term is the connection's: an engine leads once, and says in which term when it connects
(``protocol/introduction.py``). What comes on a leader's stream ends with the stream
(``link.py``). Other callers, and engines of no term, are none of this module's business.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from distributed.comm import CommClosedError
from distributed.core import error_message

from ha_scheduler.comm.preamble import peer_introduction
from ha_scheduler.protocol.codec import tag_of
from ha_scheduler.protocol.introduction import Introduction, Kind
from ha_scheduler.protocol.worker import LeaderCalled
from ha_scheduler.worker.registration import StaleLeader

logger = logging.getLogger("distributed.worker.ha")

#: It brings a term of its own, and is answered with ours.
_ANSWERED = tag_of(LeaderCalled)


class PresentLeaders:
    """A caller's comm, for ``Server._handle_comm`` to read. ``seen``: the highest term."""

    def __init__(self, comm: Any, seen: Callable[[], int]) -> None:
        self._comm = comm
        self._seen = seen

    async def read(self, *args: Any, **kwargs: Any) -> Any:
        """The next request. Raises ``CommClosedError``, also when it was refused."""
        message = await self._comm.read(*args, **kwargs)
        term, seen = term_of(self._comm), self._seen()
        if term is None or term >= seen or message.get("op") == _ANSWERED:
            return message
        reason = f"it is an order of term {term}, and {seen} has been seen"
        logger.warning(
            "Refused %r of a former leader: %s",
            message.get("op"),
            reason,
            extra={"action": "stale_order_refused"},
        )
        if message.get("reply", True):
            await self._comm.write(error_message(StaleLeader(reason), status="uncaught-error"))
        await self._comm.close()
        raise CommClosedError(reason)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return type(self._comm)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._comm, name)


def term_of(comm: Any) -> int | None:
    """The term of the engine that calls; None for any other caller."""
    said = peer_introduction(comm)
    if isinstance(said, Introduction) and said.kind == Kind.ENGINE and said.term:
        return said.term
    return None
