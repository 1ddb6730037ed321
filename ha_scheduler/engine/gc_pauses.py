"""When Python's cyclic garbage collector may run in an engine.

A full collection walks every object: 1 s with 100,000 tasks (measured), as long as a takeover may
take, and making that many tasks triggers several; so does the end of a pause, unless what was made
in it is spared first. A pause leaks nothing: the next collection looks at what was made meanwhile.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

LARGE_TASKS = 10_000  # tasks of a graph after which a full collection takes 0.1 s and more


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """No collection while many objects are made that all stay."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def spare_present() -> None:
    """Leave everything that exists out of collections: a takeover may begin at any moment."""
    gc.freeze()


def spare_nothing() -> None:
    """The takeover is over: look at everything again."""
    gc.unfreeze()
