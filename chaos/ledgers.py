"""The logs of the peers after their end, read from their disks.

Guarantee: the rows are checked as the daemon checks them (crc, and in chain with the one before).
A digest stands for an entry: its term, kind and data; equal prefixes have equal digests.
"""

from __future__ import annotations

import hashlib
from itertools import pairwise
from pathlib import Path

from chaos.record import Ledger
from ha_scheduler.raft.messages import Entry
from ha_scheduler.repair.offline import opened
from ha_scheduler.storage.errors import StorageError
from ha_scheduler.storage.log_table import chain

DIGEST_BYTES = 6


def read_ledger(data: Path) -> Ledger:
    """Of the peer whose data directory this is; the daemon must have ended."""
    try:
        with opened(data) as offline, offline.dbs.env.begin() as txn:
            state = offline.state(txn)
            first = state.compacted.index + 1
            entries = [
                entry for entry, _ in chain(txn, offline.dbs.log_dbs, state.compacted, first)
            ]
    except StorageError as error:
        return Ledger(0, 0, [], [], str(error))
    committed = max(state.hard_state.commit, state.applied.index)
    return Ledger(first, committed, [digest(entry) for entry in entries], _terms(entries))


def digest(entry: Entry) -> str:
    head = f"{entry.term} {int(entry.kind)} ".encode()
    return hashlib.blake2b(head + entry.data, digest_size=DIGEST_BYTES).hexdigest()


def _terms(entries: list[Entry]) -> list[tuple[int, int]]:
    first = [(entry.index, entry.term) for entry in entries[:1]]
    return first + [(b.index, b.term) for a, b in pairwise(entries) if a.term != b.term]
