"""What a replica tells its operator in the log although nobody asked.

Guarantee: of what lasts there is a line at first and then one a minute, never one for each tick; of
what happens in bursts the latest ``REJECTIONS_SHOWN``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ha_scheduler.ledger.rejections import describe
from ha_scheduler.peer.network.lost_quorum import LostQuorum
from ha_scheduler.storage.port import PeerStore

DOUBT_EVERY_S = 60.0  # how often a term that is not believed is told of
REJECTIONS_SHOWN = 8  # in a status, or in the log of one step

logger = logging.getLogger(__name__)


class Alarms:
    def __init__(self, store: PeerStore, name_of: Callable[[int], str | None], now: float) -> None:
        self._store = store
        self._name_of = name_of
        self._rejected = store.rejections().count
        self._lost_quorum = LostQuorum(now)
        self._warned_at = -DOUBT_EVERY_S  # of a term that is not believed

    def new_rejections(self) -> Iterator[Any]:
        """Tell of records that were passed over since the last time; yields the rows."""
        rejections = self._store.rejections()
        if rejections.count == self._rejected:
            return
        for row in rejections.after(max(self._rejected, rejections.count - REJECTIONS_SHOWN)):
            logger.error(
                "every peer passes over what cannot be applied, %s; an engine of this release "
                "writes no such record: report it, with the logs of all peers",
                describe(row),
                extra={"action": "record_rejected"},
            )
            yield row
        self._rejected = rejections.count

    def replaced(self) -> None:
        """The ledger was replaced by a snapshot: its rejections are others' news."""
        self._rejected = self._store.rejections().count

    def doubted(self, now: float, own: int, doubted: Mapping[int, int]) -> None:
        """A peer that is far ahead in its term is out of the cell until somebody looks.

        ``own``: our term; ``doubted``: the terms of others, by peer.
        """
        if now - self._warned_at < DOUBT_EVERY_S:
            return
        for peer, term in doubted.items():
            self._warned_at = now
            logger.warning(
                "peer %s says that the term is %d, where this peer is in term %d and no majority "
                "is further; it is not believed. If it goes on, replace its disk (--replace)",
                self._name_of(peer) or peer,
                term,
                own,
                extra={"action": "term_doubted"},
            )

    def leaderless(
        self, now: float, leader: str | None, peers: int, failures: Mapping[str, str]
    ) -> None:
        """As ``LostQuorum.tick``."""
        warning = self._lost_quorum.tick(now, leader, peers, failures)
        if warning is not None:
            logger.warning("%s", warning, extra={"action": "no_leader"})
