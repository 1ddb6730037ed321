"""What belongs to the process that made it, and to no child that this forks.

Guarantee: a forked child ends, signals, closes and removes nothing of its parent's, however it
leaves (``os._exit``, ``sys.exit`` and exit handlers, the collection of garbage), and what it asks
of a client or cluster of its parent's is answered by ``ForkedChild`` at once.

Two things keep it. Who ends or removes something asks its ``Owner`` first: a process id, so that it
holds for a fork that Python was not told of, too. And in the child each event loop of the parent's
gets an empty selector: a forked selector is the *same* object of the kernel's (epoll), and to close
a stream in the child would take the parent's stream out of it.
"""

from __future__ import annotations

import os
import selectors
import weakref
from typing import Any, Protocol

from ha_scheduler.errors import HAError


class ForkedChild(HAError, RuntimeError):
    """Local: a forked child asked something of an object of its parent's; nothing was done.

    A ``RuntimeError``, as for a closed event loop: upstream's finalizers expect that.
    """


class Owner:
    """The process that made something."""

    __slots__ = ("_pid",)

    def __init__(self) -> None:
        self._pid = os.getpid()

    def is_here(self) -> bool:
        """Whether this is that process, and not a child that it forked."""
        return os.getpid() == self._pid

    def require(self, what: str) -> None:
        """Raise ``ForkedChild`` if this is another process."""
        if not self.is_here():
            raise ForkedChild(
                f"{what} belongs to process {self._pid}, of which this process ({os.getpid()}) is "
                "a fork. Threads and connections do not survive a fork: make one in this process, "
                "or start processes by multiprocessing.get_context('spawn')."
            )


class Inherited(Protocol):
    """What a forked child gets a copy of, and must let go of."""

    def let_go(self) -> None:
        """Called in the child, before any of its own code."""


_living: weakref.WeakSet[Any] = weakref.WeakSet()


def watch(thing: Inherited) -> None:
    """Call ``thing.let_go()`` in every child that is forked while it exists. Idempotent."""
    _living.add(thing)


def let_go_of_loop(loop: Any) -> None:
    """Take all files out of the child's copy of an event loop (asyncio's, or tornado's)."""
    asyncio_loop = getattr(loop, "asyncio_loop", loop)
    if hasattr(asyncio_loop, "_selector"):
        asyncio_loop._selector = selectors.DefaultSelector()


def _let_go() -> None:
    for thing in list(_living):
        thing.let_go()


if hasattr(os, "register_at_fork"):  # Windows has no forks
    os.register_at_fork(after_in_child=_let_go)
