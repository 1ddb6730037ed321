"""The watch protocol: views and key rings from a peer to its watchers, which introduce themselves.

Under TLS the ring comes after the first view, and again at each change.
"""

from __future__ import annotations

from ha_scheduler.protocol.codec import CellId, Message, MessageSet, Name, Term, Text
from ha_scheduler.protocol.peer import PeerAddress
from ha_scheduler.protocol.ring import Ring


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


WATCH: MessageSet[WatchView | WatchBeat | Ring] = MessageSet(WatchView | WatchBeat | Ring)
