"""Whose connection the running task serves.

Guarantee: a task that handles what came over a connection, and every task and thread that it
starts, has ``CALLER``, the identity of that connection; a task that a process begins by itself has
``ANYBODY_LOCAL``, who may do everything.
"""

from __future__ import annotations

from contextvars import ContextVar

from ha_scheduler.security.identity import ANYBODY_LOCAL, Identity, TokenRole

CALLER: ContextVar[Identity] = ContextVar("caller", default=ANYBODY_LOCAL)


def may_send_pickles() -> bool:
    """Whether what the caller sends may be unpickled: that runs code, which no observer may."""
    return CALLER.get().role is not TokenRole.OBSERVER
