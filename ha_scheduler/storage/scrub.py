"""The scrub: every row is verified once after the start, to find damage early.

Guarantee: nothing waits for it or depends on it: a row is verified at each read anyhow. The first
damage is reported, and ends it.

Order: each slice has a short read transaction, which delays neither the loop (both want the GIL)
nor the reuse of pages. Rows may come and go between two slices; it goes on with the first that is
left.

It is slow by pauses and not by a low priority: a thread that is preempted while it holds the GIL
would hold up the loop.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

import lmdb

from ha_scheduler.storage.environment import Databases, read_slot
from ha_scheduler.storage.errors import CorruptData, CorruptLedger, CorruptLog
from ha_scheduler.storage.log_table import chain, read_compacted
from ha_scheduler.storage.schema import unseal

SLICE_S = 0.005  # seconds of reading at a time
PAUSE_S = 0.045  # seconds between: a tenth of one core, some 300 MB/s of large rows

logger = logging.getLogger(__name__)


class Scrub:
    """One thread, which ends after the last row."""

    def __init__(
        self, dbs: Databases, log_end: int, on_damage: Callable[[CorruptData], None], name: str
    ) -> None:
        """Verify the log up to ``log_end``, an entry that is there, and then the ledger."""
        self._slices = verify(dbs, log_end, SLICE_S)
        self._on_damage = on_damage
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        rows = 0
        try:
            for count in self._slices:
                rows += count
                if count and self._stopped.wait(PAUSE_S):
                    return
        except CorruptData as error:
            self._on_damage(error)
            return
        logger.info("verified all data: %d rows", rows, extra={"action": "data_verified"})


def verify(dbs: Databases, log_end: int, slice_s: float) -> Iterator[int]:
    """Every row, in slices; yields how many each had. Raises ``CorruptData``."""
    try:
        yield from _verify_log(dbs, log_end, slice_s)
        for table in dbs.slots[0]:
            yield from _verify_table(dbs, table, slice_s)
    except lmdb.Error as error:
        raise CorruptData(dbs.log_dbs.path, f"the data ({error})") from error


def _verify_log(dbs: Databases, end: int, slice_s: float) -> Iterator[int]:
    reached = 0
    while reached < end:
        rows, until = 0, perf_counter() + slice_s
        with dbs.env.begin() as txn:
            compacted = read_compacted(txn, dbs.log_dbs)
            reached = max(reached, compacted.index)
            if reached >= end:
                return
            for entry, _ in chain(txn, dbs.log_dbs, compacted, reached + 1):
                rows, reached = rows + 1, entry.index
                if reached >= end or perf_counter() > until:
                    break
            else:
                raise CorruptLog(dbs.log_dbs.path, reached + 1, "it is missing")
        yield rows


def _verify_table(dbs: Databases, table: str, slice_s: float) -> Iterator[int]:
    key: bytes | None = b""
    while key is not None:
        with dbs.env.begin() as txn:
            db = dbs.slots[read_slot(txn, dbs)][table]  # a snapshot may have moved the slot
            with txn.cursor(db=db) as cursor:
                rows, key = _verify_rows(dbs, table, cursor, key, perf_counter() + slice_s)
        yield rows


def _verify_rows(
    dbs: Databases, table: str, cursor: Any, key: bytes, until: float
) -> tuple[int, bytes | None]:
    """Verify from ``key`` on. Returns the number of rows, and the next key; None at the end."""
    rows, before = 0, b""
    found = cursor.set_range(key)
    while found:
        key = cursor.key()
        if key <= before:
            raise CorruptLedger(dbs.log_dbs.path, table, key, "it is not in its place")
        if rows and perf_counter() > until:
            return rows, key
        unseal(dbs.log_dbs.path, table, key, cursor.value())
        rows, before = rows + 1, key
        found = cursor.next()
    return rows, None
