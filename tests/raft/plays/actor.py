"""A peer of a play: a node, its disk, the writes on their way there, and what a crash loses."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping

from ha_scheduler.raft.messages import Message
from ha_scheduler.raft.ready import Ready
from tests.twins.log import MemoryLog

from ..harness import Peer


class Timeouts(random.Random):
    """Draws the election timeout that the play names: no play depends on luck."""

    def __init__(self, peer_id: int, chosen: Mapping[int, int]) -> None:
        super().__init__(0)
        self._peer_id = peer_id
        self._chosen = chosen

    def randrange(self, start: int, stop: int | None = None, step: int = 1) -> int:
        """Without a choice of the play, peers of higher ids are more patient."""
        return self._chosen.get(self._peer_id, start + self._peer_id - 1)


class Actor(Peer):
    """Writes complete when the play says so, in order. A crash loses those that did not."""

    def __init__(
        self, peer_id: int, log: MemoryLog, timeouts: Timeouts, settings: dict[str, object]
    ) -> None:
        super().__init__(peer_id, log, rng=timeouts, **settings)
        self.up = True
        self.stuck = False  # the disk finishes no write
        self.on_disk: deque[Ready] = deque()  # durable, the core is not told yet
        self.in_flight: deque[Ready] = deque()

    @property
    def has_finished_writes(self) -> bool:
        """Whether the core has something to hear from the disk."""
        return bool(self.on_disk or (self.in_flight and not self.stuck))

    def take(self) -> Ready:
        """One Ready: its write is under way, its messages leave."""
        ready = super().take()
        self.in_flight.append(ready)
        return ready

    def reach_disk(self) -> Ready:
        """The oldest write becomes durable, and what it applies with it."""
        ready = self.in_flight.popleft()
        self.persist(ready)
        self.record(ready)
        self.on_disk.append(ready)
        return ready

    def complete(self) -> tuple[Message, ...]:
        """The core learns of all that is durable. Returns the messages that waited for it."""
        messages: list[Message] = []
        while self.on_disk:
            ready = self.on_disk.popleft()
            self.node.persisted(ready.number)
            messages.extend(ready.messages_after_persist)
            if ready.committed:
                self.node.applied_to(ready.committed[-1].index)
        self.leave(messages)
        return tuple(messages)

    def crash(self) -> list[Ready]:
        """Power fails. Returns the writes that were lost."""
        lost = list(self.in_flight)
        self.in_flight.clear()
        self.on_disk.clear()
        self.up = False
        return lost

    def start(self) -> None:
        """A new process finds what the disk has."""
        self.restart()
        self.up = True
