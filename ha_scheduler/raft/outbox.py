"""The outbox: messages that may leave at once, and those that wait for the disk.

The guarantee, decided here and not by the sender of a message (thesis 3.8):

* A message that tells what this peer has stored (a vote, an acknowledgement) leaves after it is
  stored. Rejections wait too: it costs little, and sending them early was never proved safe.
* No message of a term leaves before the term is stored. Otherwise a peer that crashes in between
  begins the term twice, and answers to its first life count in its second: votes for a log that it
  lost, the contact of a leader it no longer knows.

A pre-vote leaves at once: nobody is in its term yet.
"""

from __future__ import annotations

from .messages import Message, MessageKind

WAITS_FOR_DISK = frozenset(
    {MessageKind.VOTE_RESPONSE, MessageKind.PRE_VOTE_RESPONSE, MessageKind.APPEND_RESPONSE}
)


class Outbox:
    __slots__ = ("_after_persist", "_immediate", "durable_term")

    def __init__(self, durable_term: int) -> None:
        self.durable_term = durable_term
        self._immediate: list[Message] = []
        self._after_persist: list[Message] = []

    def __bool__(self) -> bool:
        return bool(self._immediate or self._after_persist)

    def send(self, message: Message) -> None:
        early = message.term > self.durable_term and message.kind is not MessageKind.PRE_VOTE
        waits = early or message.kind in WAITS_FOR_DISK
        (self._after_persist if waits else self._immediate).append(message)

    def take(self) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
        """(messages for now, messages for after the disk)."""
        taken = tuple(self._immediate), tuple(self._after_persist)
        self._immediate, self._after_persist = [], []
        return taken
