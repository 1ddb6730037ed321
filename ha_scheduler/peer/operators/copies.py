"""What a peer gives of its log and ledger to an operator: a copy of the ledger, the log in words.

Guarantee: a copy is one applied state of this peer, row for row, whatever is written meanwhile; its
end carries a digest of all (``ledger/dump.py``). One is given at a time: LMDB keeps what is deleted
while somebody reads. Of the log no value of a user is shown beyond its size (``storage/words.py``).
"""

from __future__ import annotations

import asyncio
import time

from ha_scheduler.ledger.dump import dump
from ha_scheduler.ledger.records import FORMAT
from ha_scheduler.peer.members.roster import Roster
from ha_scheduler.protocol import RELEASE, frames
from ha_scheduler.protocol.control import (
    LOG_ENTRIES_MAX,
    Declined,
    LoggedEntry,
    LogLines,
    LogRequest,
    SnapshotBegins,
)
from ha_scheduler.protocol.peer import SnapshotChunk
from ha_scheduler.raft.messages import Entry
from ha_scheduler.storage.port import PeerStore
from ha_scheduler.storage.words import kind_and_detail

DRAIN_TIMEOUT_S = 30.0  # for a caller that takes nothing
LOG_BYTES_MAX = 4 * 1024 * 1024  # read for one answer


class Copies:
    """Gives copies of one store."""

    def __init__(self, store: PeerStore, roster: Roster) -> None:
        self._store = store
        self._roster = roster
        self._busy = False

    async def send(self, writer: asyncio.StreamWriter) -> str:
        """Send a copy of the ledger, or a refusal. Returns what came of it, for the audit log."""
        if reason := self._refusal():
            writer.write(frames.pack(Declined(reason, passing=self._busy)))
            return reason
        self._busy = True
        try:
            with self._store.view() as view:
                roster = self._roster
                begins = SnapshotBegins(
                    format=FORMAT,
                    release=RELEASE,
                    cell=roster.founding.identity,
                    cell_id=roster.cell_id,
                    peer=roster.own.name,
                    index=view.meta.index,
                    term=view.meta.term,
                    at=int(time.time()),
                )
                writer.write(frames.pack(begins))
                for chunk in dump(view.tables):
                    writer.write(frames.pack(SnapshotChunk(chunk)))
                    async with asyncio.timeout(DRAIN_TIMEOUT_S):
                        await writer.drain()
                    await asyncio.sleep(0)
        finally:
            self._busy = False
        return f"done, as of entry {begins.index}"

    def _refusal(self) -> str:
        if self._roster.own.witness:
            return "this peer is a witness, which keeps no ledger; ask another one"
        return "this peer is giving a copy to somebody else; ask again later" * self._busy

    def lines(self, request: LogRequest) -> LogLines:
        """Entries of the log after an index, or the last ones."""
        store = self._store
        first, last = store.first_index(), store.last_index()
        count = min(request.count, LOG_ENTRIES_MAX)
        start = last + 1 - count if request.after is None else request.after + 1
        start = max(start, first)
        stop = min(start + count, last + 1)
        entries = store.entries(start, stop, LOG_BYTES_MAX) if start < stop else ()
        return LogLines(first, last, store.applied(), tuple(map(_logged, entries)))


def _logged(entry: Entry) -> LoggedEntry:
    kind, detail = kind_and_detail(entry)
    return LoggedEntry(entry.index, entry.term, kind, len(entry.data), detail)
