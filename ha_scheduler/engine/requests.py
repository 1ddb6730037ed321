"""The requests that a scheduler serves: ``Server.handlers``.

Guarantee: whoever adds a handler, and whenever, it serves nobody before the recovery barrier is
open, and nobody is answered unless leadership is certain. A request that nobody has added is
answered with an error: upstream answers ``None``, as if it were done (core.py:797), and what a
library or ``run_on_scheduler`` added to one leader no later one has.

Order: the lease is looked at before a handler runs, because a handler of a library may act on what
is outside of this process; and again before the answer leaves, because leadership may have ended
meanwhile, and the answer be an old one. Whether the caller may ask at all is known before
(``comm/permitted.py``).

What a request brings may end this process: it is an exposure while its handler runs, and is refused
once it is set aside (``engine/exposures.py``).
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from itertools import islice
from typing import Any

from distributed.comm import Comm
from distributed.core import error_message
from distributed.protocol.serialize import Serialized

from ha_scheduler.comm.decoding import UNREADABLE
from ha_scheduler.comm.permitted import Handler, PermittedHandlers
from ha_scheduler.engine.exposures import Exposures, digest, short_name
from ha_scheduler.engine.fencing import FencedComm, LeaseLike, hold
from ha_scheduler.engine.takeover.recovery import Recovery
from ha_scheduler.protocol.client import CALL, Request
from ha_scheduler.protocol.codec import from_op, shown, tag_of
from ha_scheduler.protocol.engine import Exposure
from ha_scheduler.protocol.keys import check_names
from ha_scheduler.protocol.worker import RegisterWorker
from ha_scheduler.security.permissions import Surface

logger = logging.getLogger(__name__)

#: Requests that are served while the recovery barrier is closed: they make it open, or wait for it
#: themselves.
UNGATED = frozenset(
    {tag_of(RegisterWorker), *("register-worker", "register-client", "register_nanny", "identity")}
)


_EXPOSED = "__exposed__"
_OURS = frozenset({CALL, "client", "reply", "serializers"})  # another at each attempt, or no matter
PARTS_DEPTH = 3  # of an argument that are looked at
PARTS_MAX = 100  # items of each
PART_BYTES = 64 * 1024  # of each

_caller_is_checked: ContextVar[bool] = ContextVar("caller-is-checked", default=False)


class Requests(PermittedHandlers):
    """Handlers by operation. ``unknown``: of any other; it gets the comm, and not the operation.

    ``op_of``: the operation of a comm. ``check_caller``: who may ask for whom.

    One for all, because upstream keeps for ever what it has learned of a handler (core.py:122).
    """

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        recovery: Recovery,
        lease: LeaseLike,
        unknown: Handler,
        op_of: Callable[[Comm], Any],
        check_caller: Callable[[str, dict[str, Any]], None],
        exposures: Exposures,
    ) -> None:
        super().__init__(handlers, Surface.REQUEST, op_of)
        self._check_caller = check_caller
        self._exposures = exposures
        self._recovery = recovery
        self._lease = lease
        self._unknown = unknown
        self.update(handlers)

    def __setitem__(self, op: str, handler: Handler) -> None:
        if op not in UNGATED:
            handler = exposed(op, handler, self._exposures)
            check = functools.partial(self._check_caller, op)
            handler = _gated(handler, self._recovery, self._lease, check)
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
        extra={"action": "request_unknown"},
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


def exposed(op: str, handler: Handler, exposures: Exposures) -> Handler:
    """``handler``, with its request open while its code runs. Once is enough."""
    if getattr(handler, _EXPOSED, False):
        return handler

    @functools.wraps(handler)
    async def handle(*args: Any, **kwargs: Any) -> Any:
        async def call() -> Any:
            result = handler(*args, **kwargs)
            return await result if inspect.isawaitable(result) else result

        return await exposures.step_by_step(call(), _exposure(op, kwargs))

    setattr(handle, _EXPOSED, True)
    return handle


def _exposure(op: str, arguments: dict[str, Any]) -> Exposure:
    content = digest([op.encode(), *_parts({k: v for k, v in arguments.items() if k not in _OURS})])
    client = arguments.get("client")
    return Exposure(content, "call", op, short_name(client) if isinstance(client, str) else "")


def _parts(value: Any, depth: int = PARTS_DEPTH) -> Iterator[bytes]:
    """What of an argument its handler may unpickle or run, and what tells it from another."""
    match value:
        case bytes() | bytearray() | memoryview():
            yield bytes(memoryview(value)[:PART_BYTES])
        case Serialized():
            for frame in value.frames:
                yield from _parts(frame)
        case dict() if depth:
            for name, item in islice(value.items(), PARTS_MAX):
                yield from _parts(name, depth - 1)
                yield from _parts(item, depth - 1)
        case list() | tuple() | set() if depth:
            for item in islice(value, PARTS_MAX):
                yield from _parts(item, depth - 1)
        case str() | int() | float() | None:
            yield repr(value).encode(errors="replace")
        case _:
            yield type(value).__qualname__.encode(errors="replace")


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
        if (unreadable := kwargs.pop(UNREADABLE, None)) is not None:
            raise unreadable
        check_names(kwargs)
        if not recovery.is_open:
            await recovery.opened()
        await hold(lease)
        if not _caller_is_checked.get():  # a library's handler may call the one it has replaced
            check_caller(kwargs)
        checked = _caller_is_checked.set(True)
        fenced = (FencedComm(comm, lease) for comm in args)  # of a handler that writes by itself
        try:
            result = handler(*fenced, **kwargs)
            return await result if inspect.isawaitable(result) else result
        finally:  # an error is an answer, too
            _caller_is_checked.reset(checked)
            await hold(lease)

    return wait_then_handle
