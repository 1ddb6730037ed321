"""When Python's cyclic garbage collector may run in an engine.

A full collection walks every object: 1 s with 100,000 tasks (measured), as long as a whole takeover
may take, and making that many tasks triggers several. Nothing is leaked by pausing it: what is made
meanwhile is looked at by the next collection.
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
    """Leave out of collections whatever exists now: a takeover begins, or may at any moment."""
    gc.freeze()


def spare_nothing() -> None:
    """Look at everything again (the takeover is over)."""
    gc.unfreeze()
