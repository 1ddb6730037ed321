"""What a peer tells who watches it: who leads. A watcher says nothing after its introduction."""

from __future__ import annotations

from ha_scheduler.protocol.codec import Message, MessageSet, Name, Number, Text
from ha_scheduler.protocol.peer import PeerAddress


class WatchView(Message, tag="view"):
    """Who leads, as this peer knows it: sent at first and at each change.

    ``address`` is that of the leader's engine, and empty while it does not serve.
    """

    cell: Text
    name: Name
    term: Number
    leader: Name | None
    address: Text
    peers: tuple[PeerAddress, ...]


class WatchBeat(Message, tag="beat"):
    """Nothing has changed."""


WATCH: MessageSet[WatchView | WatchBeat] = MessageSet(WatchView | WatchBeat)
