"""The requests that a scheduler serves: ``Server.handlers``.

Guarantee: whoever adds a handler, and whenever, it serves nobody before the recovery barrier is
open, and nobody is answered unless leadership is certain. A request that nobody has added is
answered with an error: upstream answers ``None``, as if it were done (core.py:797), and what a
library or ``run_on_scheduler`` added to one leader no later one has.

Order: the lease is looked at before a handler runs, because a handler of a library may act on what
is outside of this process; and again before the answer leaves, because leadership may have ended
meanwhile, and the answer be an old one.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any

from distributed.comm import Comm
from distributed.core import error_message

from ha_scheduler.engine.fencing import FencedComm, LeaseLike, hold
from ha_scheduler.engine.takeover.recovery import Recovery
from ha_scheduler.protocol.client import Request
from ha_scheduler.protocol.codec import from_op, shown, tag_of
from ha_scheduler.protocol.keys import check_names
from ha_scheduler.protocol.worker import RegisterWorker

logger = logging.getLogger(__name__)

Handler = Callable[..., Any]

#: Requests that are served while the recovery barrier is closed: they make it open, or wait for it
#: themselves.
UNGATED = frozenset(
    {tag_of(RegisterWorker), *("register-worker", "register-client", "register_nanny", "identity")}
)


class Requests(dict[str, Handler]):
    """Handlers by operation. ``unknown``: of any other; it gets the comm, and not the operation.

    ``check_caller``: who may ask for whom.

    One for all, because upstream keeps for ever what it has learned of a handler (core.py:122).
    """

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        recovery: Recovery,
        lease: LeaseLike,
        unknown: Handler,
        check_caller: Callable[[dict[str, Any]], None],
    ) -> None:
        super().__init__()
        self._check_caller = check_caller
        self._recovery = recovery
        self._lease = lease
        self._unknown = unknown
        self.update(handlers)

    def __setitem__(self, op: str, handler: Handler) -> None:
        if op not in UNGATED:
            handler = _gated(handler, self._recovery, self._lease, self._check_caller)
        super().__setitem__(op, handler)

    def update(self, *others: Any, **handlers: Handler) -> None:
        for op, handler in dict(*others, **handlers).items():
            self[op] = handler

    def setdefault(self, op: str, handler: Handler) -> Handler:
        if op not in self:
            self[op] = handler
        return self[op]

    def __ior__(self, other: Any) -> Requests:  # type: ignore[override,misc]
        self.update(other)
        return self

    def __missing__(self, op: str) -> Handler:
        return self._unknown


def unknown_request(op: object) -> dict[str, Any]:
    """The answer to a request that nobody here serves.

    A type of Python's own: the caller may not have this package.
    """
    logger.warning(
        "There was a request for %s, which nobody here serves.",
        shown(op),
        extra={"action": "request-unknown"},
    )
    refusal: Any = error_message(
        NotImplementedError(
            f"the scheduler has no operation {shown(op)}, and nothing was done. What a library or "
            "run_on_scheduler adds to a scheduler ends with the leader that it was added to. Have "
            "a SchedulerPlugin add it (Client.register_plugin): each leader starts that before it "
            "serves anybody."
        ),
        status="uncaught-error",
    )
    return dict(refusal)


def _gated(
    handler: Handler,
    recovery: Recovery,
    lease: LeaseLike,
    check_caller: Callable[[dict[str, Any]], None],
) -> Handler:
    """``handler``, gated by the barrier and the lease.

    Raises, to be told to the caller, ``MalformedMessage``, ``ValueError`` and what ``check_caller``
    does.
    """

    @functools.wraps(handler)  # upstream looks at the signature (core.py, _expects_comm)
    async def wait_then_handle(*args: Comm, **kwargs: Any) -> Any:
        from_op(Request, kwargs)
        check_names(kwargs)
        if not recovery.is_open:
            await recovery.opened()
        await hold(lease)
        check_caller(kwargs)
        fenced = (FencedComm(comm, lease) for comm in args)  # of a handler that writes by itself
        try:
            result = handler(*fenced, **kwargs)
            return await result if inspect.isawaitable(result) else result
        finally:  # an error is an answer, too
            await hold(lease)

    return wait_then_handle
