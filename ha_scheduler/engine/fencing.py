"""The fence: a comm whose writes wait for the leader's lease.

Guarantee: no message is begun, which is to say given to be serialised and written, after another
leader may have been elected. An engine that was frozen finds its lease over before it writes; its
daemon then ends it, and what it had not begun is never sent. Nothing is dropped: if the lease is
renewed (the daemon was late), the write goes on.

One that was begun under the lease may arrive at any time later: of a large one most is in our own
buffers or those of two kernels when the lease ends. For an answer that is as well: it was true when
it was begun, and its caller was still waiting. An order is refused on its arrival by a worker that
has seen a later leader (``worker/orders.py``).

This holds for answers and streams, and (``fence_pool``) for the engine's own calls to workers and
nannies: those that delete data (``free_keys``), run functions, or kill a worker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any, Protocol

LEASE_POLL_SECONDS = 0.005  # the lease is shared memory: nobody can wake us when it is renewed


LOST_POLL_SECONDS = 0.25


class LeaseLike(Protocol):
    """What the engine knows of its leadership."""

    def valid(self) -> bool: ...


class Unfenced:
    """The lease of an engine that stands alone."""

    def valid(self) -> bool:
        return True


async def hold(lease: LeaseLike) -> None:
    """Wait until leadership is certain."""
    while not lease.valid():  # noqa: ASYNC110 - shared memory has no event
        await asyncio.sleep(LEASE_POLL_SECONDS)


async def lost(lease: LeaseLike, seconds: float) -> None:
    """Wait until leadership has been uncertain for ``seconds`` without a break."""
    since: float | None = None
    while since is None or monotonic() - since < seconds:
        await asyncio.sleep(LOST_POLL_SECONDS)
        if lease.valid():
            since = None
        elif since is None:
            since = monotonic()


class FencedComm:
    """A Dask comm whose ``write`` waits for the lease.

    ``amend`` may change the first message: our part of a reply that upstream composes.
    """

    def __init__(
        self, comm: Any, lease: LeaseLike, amend: Callable[[Any], Any] | None = None
    ) -> None:
        self._comm = comm
        self._lease = lease
        self._amend = amend

    async def write(self, msg: Any, serializers: Any = None, on_error: str = "message") -> Any:
        if self._amend is not None:
            msg, self._amend = self._amend(msg), None
        if not self._lease.valid():
            await hold(self._lease)
        return await self._comm.write(msg, serializers=serializers, on_error=on_error)

    def closed(self) -> bool:
        """Asked for each message of a stream (batched.py:155)."""
        return bool(self._comm.closed())

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """For ``isinstance``, which upstream asks (utils_test.py:1800)."""
        return type(self._comm)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("_comm", "_lease", "_amend"):
            object.__setattr__(self, name, value)
        else:
            setattr(self._comm, name, value)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._comm, name)

    def __repr__(self) -> str:
        return f"<Fenced {self._comm!r}>"


def fence_pool(pool: Any, lease: LeaseLike) -> None:
    """Have each call over ``pool``, a ``ConnectionPool``, wait for the lease.

    The pool keeps its comms; whoever borrows one gets it fenced.
    """
    connect, reuse = pool.connect, pool.reuse

    async def connect_fenced(addr: str, timeout: float | None = None) -> FencedComm:
        return FencedComm(await connect(addr, timeout), lease)

    def reuse_fenced(addr: str, comm: Any) -> None:
        reuse(addr, comm._comm if isinstance(comm, FencedComm) else comm)

    pool.connect, pool.reuse = connect_fenced, reuse_fenced
