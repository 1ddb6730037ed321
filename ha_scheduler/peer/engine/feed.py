"""The engine as a reader of the committed log.

Guarantee: an engine gets the ledger at some applied index, then every later committed record once,
in log order. Raft's own entries (no-ops, membership changes), the peer table, which is the daemons'
own, and what the fold has rejected are left out.

Order: the ledger is read from one view of the store, so nothing is missing or doubled at the seam:
``CaughtUp`` carries the view's index and the next record is the first after it. Live records come
from a tail in memory; an engine behind the tail reads the log; one behind the log (compaction, or a
snapshot that replaced it) is started afresh.

Nothing is queued for a slow engine beyond its channel's buffer: the log is the queue. An engine
that keeps up is sent a record in the step in which it commits, if the fold cannot reject it, and
else when it is applied here. So it is of its own records, too: that one has committed is what a
client is told as done, and what the fold has rejected is done by nobody.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

from ha_scheduler.ledger.admission import is_certain
from ha_scheduler.ledger.encoding import is_for_daemons
from ha_scheduler.ledger.rebuild import rebuild
from ha_scheduler.peer.engine.supervisor import Engine
from ha_scheduler.protocol.engine import CaughtUp, RecordCommitted, ToEngine
from ha_scheduler.raft.errors import CompactedError
from ha_scheduler.raft.messages import Entry, EntryKind, entry_size
from ha_scheduler.raft.storage import LogReader
from ha_scheduler.storage.port import PeerStore

TAIL_BYTES_MAX = 4 * 1024 * 1024  # the store keeps more, once it is durable
READ_BYTES = 1024 * 1024  # read from the log in one go
YIELD_EVERY_BYTES = 256 * 1024  # replayed between two turns of the event loop
RECORD_OVERHEAD_BYTES = 256  # the cost of handling a record, in bytes
PROBE_BYTES = 64 * 1024  # after so many at once, it is asked at once how far it is


class CommittedTail:
    """The newest committed entries, without a gap."""

    def __init__(self, log: LogReader, committed: int) -> None:
        self._log = log
        self._entries: deque[Entry] = deque()
        self._bytes = 0
        self._durable = committed
        self.last = committed
        self._readers: set[Callable[[], None]] = set()

    def append(self, entries: Iterable[Entry]) -> None:
        """The entries that committed after the last."""
        for entry in entries:
            assert entry.index == self.last + 1, (entry.index, self.last)
            self._entries.append(entry)
            self._bytes += entry_size(entry)
            self.last = entry.index
        self._trim()
        self._wake()

    def applied(self, index: int) -> None:
        """The store has everything up to ``index``, and applied it: the tail may forget it."""
        self._durable = max(self._durable, index)
        self._trim()
        self._wake()

    def restart(self, index: int) -> None:
        """A snapshot replaced the log up to ``index``."""
        self._entries.clear()
        self._bytes = 0
        self._durable = self.last = index
        self._wake()

    def holds(self, index: int) -> bool:
        return bool(self._entries) and self._entries[0].index <= index <= self.last

    def after(self, index: int) -> Sequence[Entry]:
        """Some committed entries right after ``index``, if any. Raises ``CompactedError``."""
        if index >= self.last:
            return ()
        first = self._entries[0].index if self._entries else self.last + 1
        if index + 1 < first:
            return self._log.entries(index + 1, first, READ_BYTES)
        found, size = [], 0
        for position in range(index + 1 - first, len(self._entries)):
            entry = self._entries[position]
            found.append(entry)
            size += entry_size(entry)
            if size > READ_BYTES:
                break
        return found

    def subscribe(self, reader: Callable[[], None]) -> None:
        """Call ``reader`` whenever there is more."""
        self._readers.add(reader)

    def unsubscribe(self, reader: Callable[[], None]) -> None:
        self._readers.discard(reader)

    def _trim(self) -> None:
        while (
            self._bytes > TAIL_BYTES_MAX
            and self._entries
            and self._entries[0].index <= self._durable
        ):
            self._bytes -= entry_size(self._entries.popleft())

    def _wake(self) -> None:
        for reader in self._readers:
            reader()


class Feed:
    """Feeds one engine for its whole life."""

    def __init__(
        self,
        engine: Engine,
        store: PeerStore,
        tail: CommittedTail,
        number_of: Callable[[Entry], int],
    ) -> None:
        self.cursor = 0  # everything up to here was sent
        self._engine = engine
        self._store = store
        self._tail = tail
        self._number_of = number_of
        self._after: deque[tuple[int, ToEngine]] = deque()
        self._unyielded_bytes = 0
        self._live = False
        self._waits_for_fold = False
        self._more = asyncio.Event()  # entries that ``_on_more`` leaves to ``run``
        self._idle = False  # all that may be was sent, and the engine keeps up

    def send_after(self, index: int, message: ToEngine) -> None:
        """Send ``message`` after the entries up to ``index``."""
        self._after.append((index, message))
        self._send_due()

    async def run(self) -> None:
        """Feed until cancelled or the engine ends; it is killed if it falls behind the log."""
        self._tail.subscribe(self._on_more)
        try:
            await self._replay()
            while self._engine.alive:
                self._more.clear()
                if not self._knows_rejections():
                    raise CompactedError("the ledger has forgotten what was rejected of its part")
                if not self._send(self._tail.after(self.cursor)):
                    self._idle = True
                    await self._more.wait()
                    self._idle = False
                await self._engine.drain()
        except CompactedError as error:
            self._engine.kill(f"it is too far behind to be fed: {error}")
        finally:
            self._tail.unsubscribe(self._on_more)

    def _on_more(self) -> None:
        """Without the loop turn that waking ``run`` takes: somebody waits for the commit."""
        takes_more = self._idle and self._engine.alive and self._engine.writable
        if takes_more and self._knows_rejections() and self._tail.holds(self.cursor + 1):
            self._send(self._tail.after(self.cursor))
            if self._waits_for_fold:
                return
        if self.cursor != self._tail.last:
            self._idle = False
            self._more.set()

    async def _replay(self) -> None:
        with self._store.view() as view:
            for data in rebuild(view.tables):
                if is_for_daemons(data):
                    continue
                self._engine.send(RecordCommitted(0, 0, data))
                await self._breathe(len(data))
                if not self._engine.alive:
                    return
            self.cursor = self._engine.fed = view.applied
        self._live = True
        self._engine.send(CaughtUp(self.cursor))
        self._engine.ping()
        self._send_due()

    def _send(self, entries: Sequence[Entry]) -> bool:
        """The engine's part of these entries, in one write. Whether any was passed."""
        batch: list[ToEngine] = []
        before, self._waits_for_fold = self.cursor, False
        for entry in entries:
            if entry.kind is EntryKind.NORMAL and entry.data and not is_for_daemons(entry.data):
                if self._waits(entry):
                    self._waits_for_fold = True
                    break
                number = self._number_of(entry)
                if entry.index not in self._store.rejections():
                    data = b"" if number else entry.data
                    batch.append(RecordCommitted(entry.index, number, data))
            self.cursor = entry.index
            batch += self._due()
        self._engine.send(*batch)
        self._engine.fed = self.cursor
        if sum(len(m.data) for m in batch if isinstance(m, RecordCommitted)) > PROBE_BYTES:
            self._engine.ping()
        return self.cursor > before

    def _waits(self, entry: Entry) -> bool:
        if entry.index <= self._store.applied():
            return False
        return not is_certain(entry.data) or self._store.is_dropped(entry)

    def _knows_rejections(self) -> bool:
        return self._store.rejections().knows_all_after(self.cursor)

    def _send_due(self) -> None:
        self._engine.send(*self._due())

    def _due(self) -> Iterator[ToEngine]:
        while self._live and self._after and self._after[0][0] <= self.cursor:
            yield self._after.popleft()[1]

    async def _breathe(self, size: int) -> None:
        self._unyielded_bytes += size + RECORD_OVERHEAD_BYTES
        if self._unyielded_bytes > YIELD_EVERY_BYTES:
            self._unyielded_bytes = 0
            await self._engine.drain()
            await asyncio.sleep(0)
