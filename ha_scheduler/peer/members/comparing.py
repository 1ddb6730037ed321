"""Compares the ledger of this peer with those of the others (``agreement.py`` decides when).

Guarantee: the daemon goes on meanwhile. The digest is made in a thread, of a view of the ledger, a
slice at a time with a rest after each.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Iterator

from ha_scheduler.ledger import rebuild
from ha_scheduler.peer.replica import Replica
from ha_scheduler.storage.port import PeerStore

LOOK_EVERY_S = 0.5
SLICE_RECORDS = 64
REST_S = 0.005  # the rest of this process has the interpreter

logger = logging.getLogger(__name__)


async def compare(replica: Replica, store: PeerStore) -> None:
    """Until cancelled."""
    agreement, said = replica.agreement, set[str]()
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        if agreement.is_due(time.monotonic(), replica.applied, replica.leader_name()):
            began = time.monotonic()
            index, digest = await asyncio.to_thread(_digest, store)
            now = time.monotonic()
            agreement.made(now, now - began, index, digest)
        _tell(agreement.differs, said)


def _tell(differs: dict[str, int], said: set[str]) -> None:
    for name in differs.keys() - said:
        logger.error(
            "the ledger of peer %s differs from ours at index %d, and both have the same log: one "
            "of the two disks has lost or changed something, or the releases differ. Compare the "
            "peers' logs and releases, save the data of both, and replace the disk of the one that "
            "differs from most of the others (--replace)",
            name,
            differs[name],
            extra={"action": "ledgers_differ"},
        )
    said.intersection_update(differs)
    said.update(differs)


def _digest(store: PeerStore) -> tuple[int, bytes]:
    with store.view() as view:
        return view.applied, rebuild.digest_of(_resting(rebuild.rebuild(view.tables)))


def _resting(records: Iterable[bytes]) -> Iterator[bytes]:
    for number, record in enumerate(records, 1):
        if not number % SLICE_RECORDS:
            time.sleep(REST_S)
        yield record
