"""The network of a play: what is on its way, what is held up, and which links lose everything."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from msgspec.structs import replace

from ha_scheduler.raft.messages import Message

from . import describe

Words = tuple[str, ...]
"""Links (``1->2``) and kinds (``append``) that choose messages; none choose all."""


def matches(words: Words, message: Message) -> bool:
    """Whether a message is on one of the links, and of one of the kinds, that the words name."""
    links = [word for word in words if "->" in word]
    kinds = [word for word in words if word in describe.NAMES.values()]
    link, kind = f"{message.source}->{message.to}", describe.NAMES[message.kind]
    return (not links or link in links) and (not kinds or kind in kinds)


class Wire:
    """Messages in the order in which they left."""

    def __init__(self) -> None:
        self._messages: list[Message] = []
        self._cut: set[tuple[int, int]] = set()
        self._held: list[Words] = []

    def send(self, messages: Iterable[Message]) -> None:
        self._messages.extend(messages)

    def take(self, words: Words) -> list[Message]:
        """What the words choose leaves the wire; ``first`` or ``last`` narrows it to one."""
        found = [message for message in self._messages if matches(words, message)]
        assert found or not words, f"nothing on the wire matches {' '.join(words)}"
        if "first" in words:
            return self._remove(found[:1])
        return self._remove(found[-1:] if "last" in words else found)

    def take_all(self, among: Collection[int] | None) -> list[Message]:
        """All that is not held up, or all of it between these peers."""
        return self._remove(
            [
                message
                for message in self._messages
                if (among is None or {message.source, message.to} <= set(among))
                and not any(matches(words, message) for words in self._held)
            ]
        )

    def copy(self, words: Words) -> None:
        for message in self.take(words):
            self._messages.extend([message, replace(message)])

    def hold(self, words: Words) -> None:
        self._held.append(words)

    def release(self) -> None:
        self._held.clear()

    def cut(self, links: Iterable[tuple[int, int]]) -> None:
        self._cut.update(links)

    def heal(self) -> None:
        self._cut.clear()

    def loses(self, message: Message) -> bool:
        return (message.source, message.to) in self._cut

    def _remove(self, taken: list[Message]) -> list[Message]:
        gone = set(map(id, taken))  # copies are equal
        self._messages = [message for message in self._messages if id(message) not in gone]
        return taken
