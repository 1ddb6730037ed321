"""The watch protocol: views from a peer to its watchers, which send an introduction alone."""

from __future__ import annotations

from ha_scheduler.protocol.codec import CellId, Message, MessageSet, Name, Term, Text
from ha_scheduler.protocol.peer import PeerAddress


class WatchView(Message, tag="view"):
    """The leader, as this peer knows it: sent first and at each change.

    ``address``: of the leader's engine; empty while it does not serve. ``predecessor`` as in
    ``Welcome``.
    """

    cell: Text
    name: Name
    term: Term
    leader: Name | None
    address: Text
    peers: tuple[PeerAddress, ...]
    cell_id: CellId = ""
    predecessor: CellId = ""


class WatchBeat(Message, tag="beat"):
    """Nothing has changed."""


WATCH: MessageSet[WatchView | WatchBeat] = MessageSet(WatchView | WatchBeat)
