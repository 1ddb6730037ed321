"""Maintenance: who stands for election, as operators have ordered it.

Guarantee: what holds follows from the committed orders and the time of day, so all peers agree as
far as their clocks do. A drained peer does not stand and takes no leadership; while failover is
off, only the peer that led last stands by itself. Operators may transfer leadership as ever.

An order is lifted through the log, which takes a leader. While there is none, an operator may lift
it at each peer that is left (``overrule``): that lasts until the peer hears of a leader, whose log
can then be told.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from ha_scheduler.ledger import encoding, maintenance
from ha_scheduler.ledger.fold import latest_term
from ha_scheduler.ledger.maintenance import ALL
from ha_scheduler.ledger.records import MaintenanceSet, TermStarted
from ha_scheduler.ledger.tables import Tables
from ha_scheduler.protocol.control import Declined, MaintainRequest, Order
from ha_scheduler.raft.messages import Entry, EntryKind

FAILOVER_OFF_S_MIN = 60
FAILOVER_OFF_S_MAX = 24 * 3600  # what is to be longer is to be said again

logger = logging.getLogger(__name__)


class Maintenance:
    """The orders in memory."""

    def __init__(self, own: str, clock: Callable[[], float] = time.time) -> None:
        """``own``: the name of this peer."""
        self._own = own
        self._clock = clock
        self._orders: dict[str, MaintenanceSet] = {}
        self._overruled: set[str] = set()
        self._led_last = ""
        self._told: dict[str, MaintenanceSet] = {}  # as the log of this daemon has them

    def load(self, tables: Tables) -> None:
        """Begin with what a ledger holds."""
        self._orders = {order.peer: order for order in maintenance.orders(tables)}
        latest = latest_term(tables)
        if latest is not None and not self._led_last:
            started = encoding.decode(latest)
            self._led_last = started.leader if isinstance(started, TermStarted) else ""

    def on_committed(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            if entry.kind is not EntryKind.NORMAL:
                continue
            record = encoding.maintenance_set(entry.data)
            if record is not None and record.active:
                self._orders[record.peer] = record
            elif record is not None:
                self._orders.pop(record.peer, None)

    def leads(self, name: str) -> None:
        """The peer ``name`` leads."""
        self._led_last = name
        self._overruled.clear()

    def overrule(self, peer: str) -> None:
        """Nobody leads: act as if the order on ``peer`` were lifted."""
        self._overruled.add(peer)
        logger.warning(
            "an operator has lifted the order on %s at this peer, as nobody leads",
            peer or "failover",
            extra={"action": "maintenance_overruled"},
        )

    # -- questions

    def orders(self) -> dict[str, MaintenanceSet]:
        """What holds now, by peer."""
        now = self._clock()
        return {
            peer: order
            for peer, order in self._orders.items()
            if peer not in self._overruled and (not order.until or now < order.until)
        }

    def failover_off(self) -> bool:
        return ALL in self.orders()

    def drained(self, peer: str) -> bool:
        return peer in self.orders()

    def stands(self) -> bool:
        """Whether this peer campaigns by itself when it hears no leader."""
        orders = self.orders()
        return self._own not in orders and (ALL not in orders or self._led_last == self._own)

    def told(self) -> tuple[Order, ...]:
        """For the status."""
        return tuple(Order(o.peer, o.until, o.by, o.at) for o in self.orders().values())

    def tick(self) -> None:
        """Say in the log what has changed."""
        holds = self.orders()
        for order in (o for peer, o in holds.items() if self._told.get(peer) != o):
            logger.warning("%s", in_words(order), extra={"action": "maintenance_began"})
        for peer in self._told.keys() - holds.keys():
            what = f"peer {peer} is drained no longer" if peer else "failover is on again"
            logger.info("%s", what, extra={"action": "maintenance_ended"})
        self._told = holds

    # -- requests

    def order(
        self, request: MaintainRequest, by: str, known: Iterable[str], fit: Iterable[str]
    ) -> MaintenanceSet | Declined:
        """The record for a request to the leader. ``known``: all peers; ``fit``: those that could
        lead at once.
        """
        peer, now = request.peer, int(self._clock())
        if peer != ALL and peer not in known:
            return Declined(f"there is no peer {peer} in the cell")
        if request.active and peer == ALL:
            if not FAILOVER_OFF_S_MIN <= request.for_s <= FAILOVER_OFF_S_MAX:
                return Declined(
                    f"failover can be off for {FAILOVER_OFF_S_MIN} s to "
                    f"{FAILOVER_OFF_S_MAX // 3600} h, and not for {request.for_s} s"
                )
            return MaintenanceSet(ALL, True, now + request.for_s, by, now)
        if request.active and not set(fit) - {peer} - set(self.orders()):
            return Declined(
                f"without peer {peer} no peer that is up, is not drained and has an engine that is "
                f"ready would be left to lead; bring one back, or undrain one, first"
            )
        return MaintenanceSet(peer, request.active, 0, by, now)


def in_words(order: MaintenanceSet | Order) -> str:
    """One sentence, without a full stop."""
    by = f", by order of {order.by}" if order.by else ""
    if order.peer:
        return f"peer {order.peer} is drained: it is not elected until it is undrained{by}"
    until = datetime.fromtimestamp(order.until, UTC)
    return f"failover is off until {until:%F %T} UTC: nobody takes over by itself{by}"
