"""What a client of a cell can be told that a client of a single scheduler cannot.

::

    HAError (ha_scheduler.errors)
    ├── OutcomeUnknown     remote, also CommClosedError: the leader was lost while it handled a
    │                      request
    ├── AnswerLost         remote, also CommClosedError: a request was done, and its answer is gone
    ├── JournalFull        local: the cell has not committed for too long, or the graph is too large
    └── NoLeader           remote, also OSError: no leader within the time to reconnect
"""

from __future__ import annotations

from distributed.comm import CommClosedError

from ha_scheduler.errors import HAError


class OutcomeUnknown(HAError, CommClosedError):
    """The leader was lost while it handled a request that must not simply be repeated.

    It may have been done, or not. Look at the state it would have changed before repeating it.
    Upstream raises ``CommClosedError`` for it, and here and there expects that.
    """

    def __init__(self, op: str) -> None:
        super().__init__(
            f"the leader was lost while it handled {op!r}: it may have been done, or not. Look at "
            "what it would have changed before repeating it."
        )
        self.op = op


class AnswerLost(HAError, CommClosedError):
    """The request was done, once; the leader was lost before it said so, and the answer is gone.

    A cell keeps 256 MiB of large answers that nobody has confirmed, and drops the oldest beyond
    that. What the answer held, such as an item of a queue, is gone with it.
    """

    def __init__(self, op: str) -> None:
        super().__init__(
            f"{op!r} was done, but the leader was lost before it could say so, and so many large "
            "answers were given since that the cell does not keep this one any more. What it held, "
            "such as an item of a queue, is lost. Keep large items elsewhere, and queue futures."
        )
        self.op = op


class JournalFull(HAError):
    """The journal holds as much unacknowledged work as it may.

    Wait until the cell has a leader again, or submit less at a time. Nothing of the refused graph
    was sent.
    """


class NoLeader(HAError, OSError):
    """No leader was found within ``ha-scheduler.client.reconnect-timeout``."""
