"""What becomes of a plain ``distributed.Client`` that has come to a cell.

Guarantee: one that was given a cluster object of ours or an ``ha://`` address becomes one of ours,
by itself. One that was given the address of a single peer is told at once that it is none, and how
it would be; what it submits ends with the leader, as upstream has it.

Order: upstream begins to listen to its scheduler as the last step of a start, in the loop step in
which the user gets the client (client.py:1508). That is the moment: whoever is connected by then
has submitted nothing through us yet, and the preloads of the configuration have run. No earlier one
will do: it is the first connection to ``ha://`` that loads this package.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Coroutine
from typing import Any

import distributed

from client_replay.client import upgrade
from ha_scheduler.comm import address as addresses
from ha_scheduler.protocol.client import HA, NOT_HA

_listen = distributed.Client._handle_report


class PlainClientWarning(UserWarning):
    """This client's work ends with the leader of the cell."""


@functools.wraps(_listen)
def _listen_as_ours(self: Any) -> Coroutine[Any, Any, None]:
    """``Client._handle_report``. No coroutine itself: it acts before upstream's next step."""
    if addresses.is_ha(self.scheduler.address):
        upgrade(self)
        ours: Coroutine[Any, Any, None] = self._handle_report()
        return ours
    if HA in self._scheduler_identity:
        warnings.warn(NOT_HA, PlainClientWarning, stacklevel=2)
    return _listen(self)


def install() -> None:
    """Look after the plain clients of this process. Idempotent."""
    client_class: Any = distributed.Client
    client_class._handle_report = _listen_as_ours
