"""Messages on their way out, split by when they may leave.

The guarantee: a message that tells another peer what this peer has stored (a vote, an
acknowledgement) cannot leave before it is stored (thesis 3.8): the kind decides the queue, not
the sender of the message. Rejections wait too: it costs little, and their safety if sent early
was never proved.
"""

from __future__ import annotations

from .messages import Message, MessageKind

WAITS_FOR_DISK = frozenset(
    {MessageKind.VOTE_RESPONSE, MessageKind.PRE_VOTE_RESPONSE, MessageKind.APPEND_RESPONSE}
)


class Outbox:
    __slots__ = ("_after_persist", "_immediate")

    def __init__(self) -> None:
        self._immediate: list[Message] = []
        self._after_persist: list[Message] = []

    def __bool__(self) -> bool:
        return bool(self._immediate or self._after_persist)

    def send(self, message: Message) -> None:
        waits = message.kind in WAITS_FOR_DISK
        (self._after_persist if waits else self._immediate).append(message)

    def take(self) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
        """(may leave at once, only after the disk)."""
        taken = tuple(self._immediate), tuple(self._after_persist)
        self._immediate, self._after_persist = [], []
        return taken
