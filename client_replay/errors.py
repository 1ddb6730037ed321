"""Errors of a client of a cell that a client of a single scheduler does not know.

::

    HAError (ha_scheduler.errors)
    ├── OutcomeUnknown     remote, also CommClosedError: the leader was lost during a request
    ├── AnswerLost         remote, also CommClosedError: a request was done, its answer is gone
    ├── CannotBeSent       local, also ValueError: the request cannot be serialised
    ├── JournalFull        local: no commit for too long, or the graph is too large
    ├── JournalUnusable    operator, also OSError: there cannot be a journal there, or is none
    │   ├── JournalInUse   operator: a living process has it, or it has unfinished work
    │   ├── JournalFenced  local: another process has taken it over
    │   └── JournalDamaged operator: some of it is not as it was written
    ├── SessionTaken       remote: another process has attached to the session (ha_scheduler.errors)
    └── NoLeader           remote, also OSError: no leader within the time to reconnect
"""

from __future__ import annotations

from distributed.comm import CommClosedError

from ha_scheduler.errors import HAError, OperatorError


class OutcomeUnknown(HAError, CommClosedError):
    """The leader was lost during a request that is not idempotent: it may have been done.

    Look at the state it would have changed before you repeat it. Upstream raises
    ``CommClosedError`` instead, and here and there expects that.
    """

    def __init__(self, op: str, method: str = "") -> None:
        """``op``: on the wire; ``method``: what the user has called."""
        super().__init__(
            f"the leader was lost during {method or op}: it may have been done, or not. Look at "
            "what it would have changed before repeating it."
        )
        self.op, self.method = op, method or op

    def __reduce__(self) -> tuple[type[OutcomeUnknown], tuple[str, str]]:
        return type(self), (self.op, self.method)


class AnswerLost(HAError, CommClosedError):
    """The request was done once; its leader was lost before the answer, and that is gone.

    A cell keeps 256 MiB of large unconfirmed answers and drops the oldest beyond that. What the
    answer held, such as an item of a queue, is lost.
    """

    def __init__(self, op: str, method: str = "") -> None:
        super().__init__(
            f"{method or op} was done, but the leader was lost before it could say so, and so many "
            "large answers were given since that the cell does not keep this one any more. What it "
            "held, such as an item of a queue, is lost. Keep large items elsewhere, and queue "
            "futures."
        )
        self.op, self.method = op, method or op

    def __reduce__(self) -> tuple[type[AnswerLost], tuple[str, str]]:
        return type(self), (self.op, self.method)


class CannotBeSent(HAError, ValueError):
    """The request cannot be serialised; nothing of it was sent, and what else was said goes on.

    Such as a key with half of a surrogate pair (a file name that is no UTF-8), an integer of more
    than 64 bits or more than 64 KiB; an annotation that cannot be pickled.
    """

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(f"{what!r} cannot be sent: {reason}")
        self.what, self.reason = what, reason

    def __reduce__(self) -> tuple[type[CannotBeSent], tuple[str, str]]:
        return type(self), (self.what, self.reason)


class JournalFull(HAError):
    """The journal holds as much unacknowledged work as it may; nothing of the graph was sent.

    Wait until the cell has a leader again, or submit less at a time.
    """


class JournalUnusable(OperatorError, OSError):
    """A journal on disk cannot be used; nothing of it was changed."""

    def __init__(self, path: object, reason: str, remedy: str) -> None:
        super().__init__(f"the journal {path} cannot be used: {reason}. {remedy}.")
        self.path, self.reason, self.remedy = path, reason, remedy

    def __str__(self) -> str:
        return str(self.args[0])

    def __reduce__(self) -> tuple[type[JournalUnusable], tuple[str, str, str]]:
        return type(self), (str(self.path), self.reason, self.remedy)


class JournalInUse(JournalUnusable):
    """Another living process goes on with it, or it has work that is to be resumed."""


class JournalFenced(JournalUnusable):
    """Another process has taken the journal over: what this one says is kept and sent no more."""


class JournalDamaged(JournalUnusable):
    """Some entries are not as they were written; the others can be saved."""


class NoLeader(HAError, OSError):
    """No leader was found within ``ha.client.reconnect-timeout``."""
