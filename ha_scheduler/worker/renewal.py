"""A worker takes in its renewed token without a pause.

Guarantee: when the file of its token holds another one than it has shown to its leader, the worker
joins that leader again, with the new one: it reports what it has and runs, as to a new leader, and
loses nothing. What it calls later shows the new one anyway, as every connection reads the file.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from ha_scheduler.comm.preamble import INTRODUCTION
from ha_scheduler.comm.tokens import token_of
from ha_scheduler.errors import OperatorError

LOOK_EVERY_S = 5.0


class Renewal:
    """Of one worker."""

    def __init__(self, connection_args: dict[str, Any]) -> None:
        self._connection_args = connection_args
        self._shown = b""

    def joining(self) -> None:
        """The token is about to be shown."""
        self._shown = self._digest()

    def is_due(self) -> bool:
        """Whether there is another token than was shown."""
        return self._digest() not in (b"", self._shown)

    def _digest(self) -> bytes:
        """Of the token, which is not kept; empty without one."""
        context = self._connection_args.get("ssl_context")
        if context is None:
            return b""
        try:
            token = token_of(self._connection_args[INTRODUCTION], context)
        except OperatorError:
            return b""  # it is told when a connection is made
        return sha256(token).digest() if token else b""
