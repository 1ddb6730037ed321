"""The present event-loop step, where upstream's methods cannot pass it on.

A part that calls a method of upstream's, which calls another part's override, says here what that
call is about. A step never spans an ``await``. Numbered calls and a graph's request go with their
task across awaits instead (``ContextVar``s); ``Scheduler._keep_state`` is a phase of the engine.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Step:
    """What not to record, or do, because something else in this step does."""

    desires_of: str = ""  # the client whose desires the record of a graph implies
    releases: bool = False  # a record implies them (``ClientLeft``, ``Restarted``)
    set_aside: bool = False  # the record of a graph implies errors of its keys
    joining: bool = False  # workers become running that are to be given work together


OTHER = Step()
