"""Handlers that serve those alone who may ask for them (``security/permissions.py``).

Guarantee: a request that its caller may not make is answered with an error that says which role or
scope it takes, counted, and written to the log at most once in ``LOG_EVERY_S`` for each subject and
operation; nothing of it is done. The connection goes on, but for one that would become a stream.

It is decided when a server looks its handler up, in the task that serves the connection, so code of
this process that asks for a handler gets it.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from time import monotonic, time
from typing import Any

from distributed.comm import Comm
from distributed.core import Status, error_message

from ha_scheduler.comm.calling import CALLER
from ha_scheduler.protocol.codec import shown
from ha_scheduler.security.identity import Identity
from ha_scheduler.security.permissions import Operation, Surface, refusal

logger = logging.getLogger("distributed.ha.rights")

Handler = Callable[..., Any]

LOG_EVERY_S = 10.0
LOGGED_MAX = 1_000  # subjects and operations whose last line is remembered
#: Requests that nobody answers: their connection becomes a stream.
STREAMS = frozenset(
    {
        *("register-client", "register-worker", "ha-register-worker", "register_nanny"),
        *("subscribe_worker_status", "connection_stream", "feed"),
    }
)


#: Who was refused: subject, role, why, and how often since it was told the last time.
Tell = Callable[[str, str, str, int], None]


class Denials:
    """Refusals of this process. ``count``: of all. ``tell``: whom it tells of them."""

    tell: Tell

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self.count = 0
        self.tell = lambda subject, role, why, times: None
        self._clock = clock
        self._logged: OrderedDict[tuple[str, str], tuple[float, int]] = OrderedDict()

    def note(self, identity: Identity, what: str, reason: str) -> None:
        """Count a refusal, and log it unless that was done a moment ago."""
        self.count += 1
        if not (times := self._due((identity.subject, what))):
            return
        before = f" ({times - 1} more since the last line)" if times > 1 else ""
        logger.warning("Refused: %s%s.", reason, before, extra={"action": "permission_refused"})
        self.tell(identity.subject, str(identity.role or ""), reason, times)

    def note_caller(self, address: str, reason: str) -> None:
        """A connection was refused before anybody knew who it is."""
        if times := self._due(("", address.rpartition(":")[0])):  # of each host
            self.tell("", "", f"{address}: {reason}", times)

    def _due(self, at: tuple[str, str]) -> int:
        """For how many refusals one is said now; 0 if one was said a moment ago."""
        now = self._clock()
        last, unsaid = self._logged.pop(at, (now - LOG_EVERY_S, 0))
        if now - last < LOG_EVERY_S:
            self._logged[at] = (last, unsaid + 1)
            return 0
        self._logged[at] = (now, 0)
        if len(self._logged) > LOGGED_MAX:
            self._logged.popitem(last=False)
        return unsaid + 1


#: Of this process.
denials = Denials()


class PermittedHandlers(dict[str, Handler]):
    """Handlers by operation, of one surface.

    ``op_of``: which operation a comm is at, because the handler of a refused one is not told.
    """

    def __init__(
        self, handlers: Mapping[str, Handler], surface: Surface, op_of: Callable[[Comm], Any]
    ) -> None:
        super().__init__(handlers)
        self._surface = surface
        self._op_of = op_of
        self._own = frozenset(handlers)  # what comes later was added by somebody

    def __getitem__(self, op: str) -> Handler:
        if op in self and self._refusal(op) is not None:
            return self._refuse
        return super().__getitem__(op)

    def _refusal(self, op: str) -> str | None:
        operation = Operation(self._surface, op)
        return refusal(CALLER.get(), operation, added=op not in self._own)

    # One for all: upstream keeps for ever what it has learned of a handler (core.py:122).
    async def _refuse(self, comm: Comm, **arguments: Any) -> Any:
        op = self._op_of(comm)
        reason = self._refusal(op) or f"{shown(op)} is refused"
        denials.note(CALLER.get(), op, reason)
        error: Any = error_message(PermissionError(reason), status="uncaught-error")
        if op not in STREAMS:
            return dict(error)
        await comm.write({**error, "status": "error", "message": reason, "time": time()})
        await comm.close()
        return Status.dont_reply
