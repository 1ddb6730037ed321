"""How long a peer takes to open its data, against the size of its log.

    python -m benchmarks.restart --directory /var/tmp --gigabytes 0.1 1 10 --entry-bytes 10000

For each size a directory with such a log is made (all of it applied; deleted afterwards) and opened
by a fresh process: cold, with none of the file in the page cache, and warm. Printed: both times,
the memory of its own that the process has then, and for comparison the time to read and verify all
of it, which a start does in the background. Needs twice the largest size as free space.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from ha_scheduler.ledger import encoding, records
from ha_scheduler.raft.messages import Entry, EntryKind, HardState, Membership
from ha_scheduler.storage.lmdb_store import LmdbStore
from ha_scheduler.storage.port import WriteBatch

GB = 10**9
BATCH_BYTES = 16 * 10**6  # written in one transaction
ROTATING_NAMES = 64  # values that the ledger holds: it stays small while the log grows
TERMS = 50  # leaders that the log has seen
TIMEOUT_S = 120.0

_OPEN = """
import sys, time
from math import inf
from pathlib import Path
from ha_scheduler.storage import scrub
from ha_scheduler.storage.lmdb_store import LmdbStore
path, whole = Path(sys.argv[1]), sys.argv[2] == "whole"
scrub.Scrub.start = scrub.Scrub.stop = lambda self: None
began = time.perf_counter()
store = LmdbStore.open(path, cell="cell", peer="a", peer_id=1, create=False,
                       on_durable=lambda number, error: None)
if whole:
    began = time.perf_counter()
    for _ in scrub.verify(store._dbs, store.last_index(), inf):
        pass
took_s = time.perf_counter() - began
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(took_s, status["RssAnon"].split()[0], store.last_index())
store.close()
"""


class Waiter:
    """Waits for the batch that was submitted last."""

    def __init__(self) -> None:
        self._durable = threading.Semaphore(0)
        self._error: Exception | None = None

    def __call__(self, number: int, error: Exception | None) -> None:
        self._error = error
        self._durable.release()

    def wait(self) -> None:
        if not self._durable.acquire(timeout=TIMEOUT_S) or self._error is not None:
            raise RuntimeError(f"the batch was not written: {self._error}")


def make(path: Path, log_bytes: int, entry_bytes: int) -> None:
    """A directory with a log of that size."""
    waiter = Waiter()
    store = LmdbStore.open(
        path,
        cell="cell",
        peer="a",
        peer_id=1,
        create=True,
        on_durable=waiter,
        membership=Membership((1,)),
        recent_bytes_max=0,
    )
    per_batch, total = max(BATCH_BYTES // entry_bytes, 1), log_bytes // entry_bytes
    for number, first in enumerate(range(1, total + 1, per_batch), start=1):
        last = min(first + per_batch - 1, total)
        term = 1 + first * TERMS // total
        new = tuple(
            Entry(term, n, EntryKind.NORMAL, _record(n, entry_bytes))
            for n in range(first, last + 1)
        )
        store.submit(
            WriteBatch(number, hard_state=HardState(term, 1, last), entries=new, apply=new)
        )
        waiter.wait()
        store.settle(number)
    store.close()


def _record(index: int, size: int) -> bytes:
    name = b"%d" % (index % ROTATING_NAMES)
    return encoding.encode(records.ValueSet("space", name, os.urandom(size), 0, 0, 0))


def drop_from_cache(path: Path) -> None:
    """The next reader finds the file on the disk only."""
    descriptor = os.open(path / "data.mdb", os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def measure(path: Path, what: str) -> tuple[float, float, int]:
    """Seconds, MB of memory (without mapped files), and the last index, of a fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", _OPEN, str(path), what], capture_output=True, text=True, check=True
    )
    took, kilobytes, last = done.stdout.split()
    return float(took), int(kilobytes) / 1024, int(last)


def report(directory: Path, gigabytes: float, entry_bytes: int) -> None:
    path = Path(tempfile.mkdtemp(prefix="restart-", dir=directory))
    try:
        make(path, int(gigabytes * GB), entry_bytes)
        drop_from_cache(path)
        cold, memory, last = measure(path, "open")
        warm, _, _ = measure(path, "open")
        drop_from_cache(path)
        whole, _, _ = measure(path, "whole")
        print(
            f"{gigabytes:8.1f} {last:10d} {cold * 1e3:10.0f} {warm * 1e3:10.0f} "
            f"{memory:10.0f} {whole:10.1f}",
            flush=True,
        )
    finally:
        shutil.rmtree(path)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[0.1, 1, 10])
    parser.add_argument("--entry-bytes", type=int, default=10_000)
    options = parser.parse_args(arguments)
    print("log (GB)    entries  cold (ms)  warm (ms)  own (MB)  all cold (s)")
    for gigabytes in options.gigabytes:
        report(options.directory, gigabytes, options.entry_bytes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
