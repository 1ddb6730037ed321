"""Reads copies of a data file of which one page was changed: ``changed_pages.py DIR COPIES``.

Each copy is read by a forked process, because damage to LMDB's own pages may abort it. Prints a
line for each: the seed of the change, and what came of it.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from math import inf
from pathlib import Path
from typing import Any

from storage_helpers import Caller, entry, open_store, state, value

from ha_scheduler.ledger.tables import TABLES
from ha_scheduler.storage import scrub
from ha_scheduler.storage.errors import CorruptData
from ha_scheduler.storage.lmdb_store import LmdbStore

PAGE = 4096
META_PAGES = 2  # LMDB checks them itself
SAME, DAMAGED, WRONG = 0, 1, 2
NAMES = {SAME: "same", DAMAGED: "damaged", WRONG: "wrong", -signal.SIGABRT: "aborted"}
TIMEOUT_S = 60


def make(path: Path) -> Any:
    """A store with a past: replaced rows, freed pages, small and large values. Its content."""
    rng, caller = random.Random(1), Caller()
    store = open_store(path, caller, recent_bytes_max=1)
    for first in range(1, 601, 20):
        sizes = [rng.choice((10, 500, 3000, 9000)) for _ in range(20)]
        new = tuple(
            entry(n, data=value(b"%d" % rng.randrange(80), rng.randbytes(size)))
            for n, size in enumerate(sizes, start=first)
        )
        caller.write(store, entries=new, apply=new, hard_state=state(1, 0, first + 19))
    caller.write(store, compact_to=200)
    content = read(store)
    store.close()
    return content


def read(store: LmdbStore) -> Any:
    """Everything that can be asked of a store."""
    log = store.entries(store.first_index(), store.last_index() + 1, 1 << 40)
    with store.view() as view:
        rows = {table: list(view.tables.scan(table)) for table in TABLES}
    return [(e.index, e.term, e.data) for e in log], rows, store.initial_state(), store.snapshot()


def changed(data: bytes, rng: random.Random) -> bytes:
    """One page that is lost, overwritten, or has one bit or one byte changed."""
    new = bytearray(data)
    start = rng.randrange(META_PAGES, len(data) // PAGE) * PAGE
    match rng.randrange(4):
        case 0:
            new[start : start + PAGE] = bytes(PAGE)
        case 1:
            new[start : start + PAGE] = rng.randbytes(PAGE)
        case 2:
            new[start + rng.randrange(PAGE)] ^= 1 << rng.randrange(8)
        case _:
            new[start + rng.randrange(64)] = rng.randrange(256)  # the page's own header
    return bytes(new)


def outcome(path: Path, expected: Any) -> int:
    """Read what is at ``path`` in a process of its own; its exit status."""
    child = os.fork()
    if child == 0:
        signal.alarm(TIMEOUT_S)
        os.close(2)  # LMDB says why it aborts
        status = WRONG
        try:
            store = open_store(path, create=False, recent_bytes_max=1)
            status = SAME if read(store) == expected else WRONG
            for _ in scrub.verify(store._dbs, store.last_index(), inf):
                pass
        except CorruptData:
            status = DAMAGED
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
    directory, seeds = Path(sys.argv[1]), int(sys.argv[2])
    expected = make(directory / "store")
    data = (directory / "store" / "data.mdb").read_bytes()
    for seed in range(seeds):
        copy = directory / f"copy-{seed}"
        copy.mkdir()
        (copy / "data.mdb").write_bytes(changed(data, random.Random(seed)))
        status = outcome(copy, expected)
        sys.stdout.write(f"{seed} {NAMES.get(status, status)}\n")
        (copy / "data.mdb").unlink()


if __name__ == "__main__":
    main()
