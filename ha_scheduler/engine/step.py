"""The event-loop step of now, as far as upstream's methods cannot hand it on.

A part that calls upstream's method, which calls what another part overrides, says here what that
call is about. The step holds within one step of the event loop only: whoever would await ends it
first. Two things are no part of it: a numbered call and a graph's request, which go with their task
across awaits (``ContextVar``s), and ``Scheduler._keep_state``, which is a phase of the engine.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Step:
    """What is not to be recorded, or done, because something else in this step says or does it."""

    desires_of: str = ""  # the client whose desires the record of a graph implies
    releases: bool = False  # a record implies them (``ClientLeft``, ``Restarted``)
    joining: bool = False  # workers become running that are to be given work together


OTHER = Step()
