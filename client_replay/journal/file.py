"""The file of a journal: one LMDB environment, its owner, and what of it can be read.

Guarantee: changes are written in one transaction, in which the owner is looked at as well. So of
two processes that write, the one that took the file over last is the only one whose writes take
effect; the other gets ``JournalFenced``.

What can be read of a damaged file is read (``Contents``): entries that are not as they were written
are named. Some at the end are a torn tail, which nobody was told of; others are damage. A file that
is shorter than its header says is filled up with zeros, which pass no check, and is never written
to: what is left of it is written anew (``rewrite``).
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import lmdb
import psutil

from client_replay.errors import JournalDamaged, JournalFenced, JournalInUse, JournalUnusable
from client_replay.journal import format as rows
from client_replay.journal import place
from client_replay.journal.format import Damaged
from client_replay.journal.keeper import (
    HELD,
    Append,
    Change,
    Clear,
    Delete,
    Drop,
    Hold,
    JournalEntry,
    Kept,
    Key,
    Shrink,
)

FILE_MODE = 0o600
MAP_BYTES_MIN = 1 << 30  # of address space
MAP_FACTOR = 4  # of the journal's limit: pages are free only after the next transaction
READERS_MAX = 16
SKIPPED_IF_UNKNOWN = 10_000  # numbers, if the last one cannot be read: none is used twice
TABLES = ("meta", "entries", "parts", "dropped", "held")

_open_here: set[str] = set()  # LMDB forbids to open a file twice in one process
_guard = threading.Lock()


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose journal it is. ``session`` proves to a cell who the client is: a secret.

    ``tls``: the files of its certificates, by their names in ``distributed.Security``.
    """

    session: str
    client: str
    address: str = ""
    created: float = 0.0
    tls: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Owner:
    """The process that writes."""

    token: str
    pid: int
    started: float  # when, so that a later process of the same id is told from it
    host: str
    since: float

    @classmethod
    def me(cls) -> Owner:
        started = psutil.Process().create_time()
        return cls(uuid.uuid4().hex, os.getpid(), started, socket.gethostname(), time.time())

    def is_alive(self) -> bool:
        """Whether it may still write; of another machine's process nobody knows."""
        if self.host != socket.gethostname():
            return True
        try:
            return bool(psutil.Process(self.pid).create_time() == self.started)
        except psutil.Error:
            return False


@dataclass(slots=True)
class Contents:
    """What could be read. ``damaged``: of which entries, and why; ``torn``: those at the end."""

    identity: Identity
    owner: Owner | None
    last: int
    open: dict[int, JournalEntry] = field(default_factory=dict)
    keys: dict[int, list[Key]] = field(default_factory=dict)  # still wanted, of each graph
    damaged: dict[int, str] = field(default_factory=dict)
    torn: dict[int, str] = field(default_factory=dict)
    cut_short: bool = False

    @property
    def wanted(self) -> int:
        return sum(map(len, self.keys.values()))

    @property
    def nbytes(self) -> int:
        """Of what no cell has committed."""
        return sum(entry.nbytes for entry in self.open.values())

    def kept(self) -> Kept:
        return Kept(self.last, [self.open[s] for s in sorted(self.open)], self.keys)


class JournalFile:
    def __init__(self, path: Path, *, bytes_max: int, create: bool, readonly: bool = False) -> None:
        """Raises ``JournalUnusable``."""
        self.path = path
        self._real = os.path.realpath(path)
        self._owner = b""
        _claim(self._real, path)
        try:
            self._env = _environment(path, bytes_max, create, readonly)
            self.cut_short = self._fill_up(readonly)
            self._dbs = {name: self._table(name, create) for name in TABLES}
        except BaseException as error:
            self._release()
            if isinstance(error, lmdb.Error):
                raise _unreadable(path, error) from error
            raise

    def _table(self, name: str, create: bool) -> Any:
        return self._env.open_db(name.encode(), create=create)

    def _fill_up(self, readonly: bool) -> bool:
        size = (int(self._env.info()["last_pgno"]) + 1) * int(self._env.stat()["psize"])
        if self.path.stat().st_size >= size:
            return False
        if readonly:
            raise JournalDamaged(self.path, "it is cut short", _save(self.path))
        os.truncate(self.path, size)
        return True

    def _release(self) -> None:
        with _guard:
            _open_here.discard(self._real)

    def is_new(self) -> bool:
        """Whether nobody has written to it."""
        with self._env.begin() as txn:
            return txn.get(b"identity", db=self._dbs["meta"]) is None

    # ---- reading

    def read(self) -> Contents:
        """All that can be read. Raises ``JournalUnusable`` if it says of nobody whose it is."""
        with self._env.begin() as txn:
            found = Contents(self._identity(txn), self._owner_of(txn), 0)
            found.cut_short = self.cut_short
            bad = self._read_entries(txn, found)
            bad |= self._read_held(txn, found)
            found.last = self._last(txn, [*found.open, *found.keys, *bad])
        last_good = max([*found.open, *found.keys], default=0)
        for sequence, why in sorted(bad.items()):
            (found.torn if sequence > last_good else found.damaged)[sequence] = why
        return found

    def _meta(self, txn: Any, name: bytes) -> Any:
        row = txn.get(name, db=self._dbs["meta"])
        return None if row is None else rows.unpack(rows.unsealed(name, row))

    def _identity(self, txn: Any) -> Identity:
        try:
            format_, fields = self._meta(txn, b"identity")
        except (Damaged, TypeError, ValueError, lmdb.Error) as error:
            raise _unreadable(self.path, error) from error
        if format_ > rows.FORMAT:
            raise JournalUnusable(
                self.path, f"it has format {format_}, and this release knows up to {rows.FORMAT}",
                "Upgrade the dask-ha-scheduler of this environment",
            )  # fmt: skip
        return Identity(**fields)

    def _owner_of(self, txn: Any) -> Owner | None:
        try:
            fields = self._meta(txn, b"owner")
            return None if fields is None else Owner(**fields)
        except (Damaged, TypeError, lmdb.Error):
            return None

    def _last(self, txn: Any, numbers: Iterable[int]) -> int:
        seen = max(numbers, default=0)
        try:
            return max(seen, int(self._meta(txn, b"last") or 0))
        except (Damaged, TypeError, lmdb.Error):
            return seen + SKIPPED_IF_UNKNOWN

    def _read_entries(self, txn: Any, found: Contents) -> dict[int, str]:
        bad: dict[int, str] = {}
        for key, row in self._rows(txn, "entries", bad):
            sequence = 0
            try:
                sequence = rows.sequence_of(key)
                value = rows.unpack(rows.unsealed(key, row))
                keys = rows.keys_of(value) if _is_graph(value) else []
                if rows.is_open(value):
                    parts = self._parts(txn, sequence) if rows.body_bytes(value) else ()
                    found.open[sequence] = rows.decode(sequence, value, parts)
                if left := self._left(txn, sequence, keys):
                    found.keys[sequence] = left
            except (Damaged, lmdb.Error) as error:
                bad[sequence] = str(error)
        return bad

    def _rows(self, txn: Any, table: str, bad: dict[int, str]) -> Iterator[tuple[bytes, bytes]]:
        """Up to where the tree is broken, if it is."""
        try:
            yield from txn.cursor(db=self._dbs[table])
        except lmdb.Error as error:
            bad[2**63] = f"the rest of {table} cannot be read: {error}"

    def _parts(self, txn: Any, sequence: int) -> Iterator[bytes]:
        for key, row in self._of(txn, "parts", sequence):
            yield rows.unsealed(key, row)

    def _of(self, txn: Any, table: str, sequence: int) -> Iterator[tuple[bytes, bytes]]:
        """The rows of one request."""
        prefix = rows.sequence_key(sequence)
        cursor = txn.cursor(db=self._dbs[table])
        if cursor.set_range(prefix):
            for key, row in cursor:
                if not key.startswith(prefix):
                    break
                yield key, row

    def _left(self, txn: Any, sequence: int, keys: list[Key]) -> list[Key]:
        gone = {key for key, _ in self._of(txn, "dropped", sequence)}
        if not gone:
            return keys
        return [key for key in keys if rows.dropped_key(sequence, key) not in gone]

    def _read_held(self, txn: Any, found: Contents) -> dict[int, str]:
        bad: dict[int, str] = {}
        held = []
        for key, row in self._rows(txn, "held", bad):
            with contextlib.suppress(Damaged):  # its task is not lost, but a name for its result
                held.append(rows.unpack(rows.unsealed(key, row)))
        if held:
            found.keys[HELD] = held
        return bad

    # ---- writing

    def take(self, identity: Identity, *, force: bool = False, now: Owner | None = None) -> None:
        """Become the owner. Raises ``JournalInUse`` if another process is, unless ``force``."""
        owner = now or Owner.me()
        with self._env.begin(write=True) as txn:
            former = self._owner_of(txn)
            if former is not None and former.is_alive() and not force:
                since = time.strftime("%F %T", time.localtime(former.since))
                raise JournalInUse(
                    self.path,
                    f"process {former.pid} on {former.host} has it since {since}",
                    "End that process, or take the journal over with resume(path, force=True): "
                    "the other one is then refused whatever it submits",
                )
            self._owner = rows.sealed(b"owner", rows.pack(asdict(owner)))
            txn.put(b"owner", self._owner, db=self._dbs["meta"])
            value = rows.pack((rows.FORMAT, asdict(identity)))
            txn.put(b"identity", rows.sealed(b"identity", value), db=self._dbs["meta"])

    def give_up(self) -> None:
        """Nobody owns it now."""
        with self._env.begin(write=True) as txn:
            if txn.get(b"owner", db=self._dbs["meta"]) == self._owner:
                txn.delete(b"owner", db=self._dbs["meta"])

    def apply(self, changes: Iterable[Change]) -> None:
        """Write them, durably. Raises ``JournalFenced``, ``lmdb.Error`` and ``OSError``."""
        with self._env.begin(write=True) as txn:
            self.require_owner(txn)
            for change in changes:
                self._apply(txn, change)

    def require_owner(self, txn: Any = None) -> None:
        """Raise ``JournalFenced`` if another process has taken over."""
        if txn is None:
            with self._env.begin() as reading:
                return self.require_owner(reading)
        if txn.get(b"owner", db=self._dbs["meta"]) != self._owner:
            other = self._owner_of(txn)
            who = f"process {other.pid} on {other.host}" if other else "another process"
            raise JournalFenced(
                self.path,
                f"{who} has taken it over",
                "Go on there: what this client submits is neither kept nor sent any more",
            )
        return None

    def _apply(self, txn: Any, change: Change) -> None:
        entries = self._dbs["entries"]
        match change:
            case Append(entry):
                self._append(txn, entry)
            case Shrink(sequence, keys):
                key = rows.sequence_key(sequence)
                txn.put(key, rows.sealed(key, rows.committed(keys)), db=entries)
                self._delete_all(txn, "parts", sequence)
            case Delete(sequence):
                txn.delete(rows.sequence_key(sequence), db=entries)
                self._delete_all(txn, "parts", sequence)
                self._delete_all(txn, "dropped", sequence)
            case Hold(keys):
                for key in keys:
                    name = rows.key_hash(key)
                    txn.put(name, rows.sealed(name, rows.pack(key)), db=self._dbs["held"])
            case Drop(sequence, keys):
                for key in keys:
                    if sequence == HELD:
                        txn.delete(rows.key_hash(key), db=self._dbs["held"])
                    else:
                        txn.put(rows.dropped_key(sequence, key), b"", db=self._dbs["dropped"])
            case Clear(last):
                for table in TABLES[1:]:
                    txn.drop(self._dbs[table], delete=False)
                self._put_last(txn, last)

    def _append(self, txn: Any, entry: JournalEntry) -> None:
        key = rows.sequence_key(entry.sequence)
        row, parts = rows.encode(entry)
        txn.put(key, rows.sealed(key, row), db=self._dbs["entries"], append=False)
        for number, part in enumerate(parts):
            at = rows.part_key(entry.sequence, number)
            txn.put(at, rows.sealed(at, bytes(part)), db=self._dbs["parts"])
        self._put_last(txn, entry.sequence)

    def _put_last(self, txn: Any, last: int) -> None:
        txn.put(b"last", rows.sealed(b"last", rows.pack(last)), db=self._dbs["meta"])

    def _delete_all(self, txn: Any, table: str, sequence: int) -> None:
        for key, _ in list(self._of(txn, table, sequence)):
            txn.delete(key, db=self._dbs[table])

    def close(self) -> None:
        self._env.close()
        self._release()

    def remove(self) -> None:
        """Close it, and leave nothing."""
        self.close()
        for path in (self.path, lock_of(self.path)):
            path.unlink(missing_ok=True)


def lock_of(path: Path) -> Path:
    """The file in which LMDB has its readers."""
    return path.with_name(f"{path.name}-lock")


def rewrite(path: Path, contents: Contents, bytes_max: int) -> None:
    """Replace the file by one with these contents alone: smaller, and whole."""
    fresh = path.with_name(f"{path.name}.new")
    for leftover in (fresh, lock_of(fresh)):
        leftover.unlink(missing_ok=True)
    file = JournalFile(fresh, bytes_max=bytes_max, create=True)
    try:
        file.take(contents.identity)
        file.apply(_changes(contents))
        file.give_up()
    finally:
        file.close()
    os.replace(fresh, path)
    lock_of(fresh).unlink(missing_ok=True)
    lock_of(path).unlink(missing_ok=True)


def _changes(contents: Contents) -> Iterator[Change]:
    for sequence in sorted({*contents.open, *contents.keys} - {HELD}):
        left = contents.keys.get(sequence, ())
        if (entry := contents.open.get(sequence)) is None:
            yield Shrink(sequence, tuple(left))
            continue
        yield Append(entry)
        kept = set(left)
        gone = tuple(key for key in entry.message.get("keys", ()) if key not in kept)
        if entry.is_graph and gone:
            yield Drop(sequence, gone)
    if held := contents.keys.get(HELD):
        yield Hold(tuple(held))
    yield from _numbered(contents.last)


def _numbered(last: int) -> Iterator[Change]:
    """An entry that is deleted at once moves the last number."""
    if last:
        yield Append(JournalEntry(last + 1, {"op": "", "keys": []}, 0))
        yield Delete(last + 1)


def _is_graph(row: Any) -> bool:
    return not rows.is_open(row) or row[1].get("op") == "update-graph"


def _claim(real: str, path: Path) -> None:
    with _guard:
        if real in _open_here:
            raise JournalInUse(
                path, "another client of this process has it", "Give each client its own file"
            )
        _open_here.add(real)


def _environment(path: Path, bytes_max: int, create: bool, readonly: bool) -> Any:
    if not create and not (path.is_file() and path.stat().st_size):  # LMDB would begin one
        raise JournalUnusable(
            path, "there is none", "See which there are with `dask ha journal ls DIRECTORY`"
        )
    if create:
        place.check(path)
    try:
        return lmdb.open(
            str(path),
            subdir=False,
            map_size=max(MAP_BYTES_MIN, MAP_FACTOR * bytes_max),
            mode=FILE_MODE,
            create=create,
            readonly=readonly,
            max_dbs=len(TABLES),
            max_readers=READERS_MAX,
            lib_version=0,  # the package has two engines, which cannot read each other's files
        )
    except (lmdb.InvalidError, lmdb.VersionMismatchError, lmdb.CorruptedError) as error:
        raise _unreadable(path, error) from error
    except (lmdb.Error, OSError) as error:
        raise JournalUnusable(path, str(error), "Name a file that you may write") from error


def _unreadable(path: Path, error: Exception) -> JournalDamaged:
    return JournalDamaged(
        path,
        f"it is no journal, or its beginning is damaged ({error})",
        "Name another file, or take this one away",
    )


def _save(path: Path) -> str:
    return (
        f"See what can be saved with `dask ha journal verify {path}`, and go on with that by "
        f"client_replay.resume({str(path)!r}, damaged=True)"
    )


def require_whole(path: Path, contents: Contents) -> None:
    """Raise ``JournalDamaged``, with what can be saved, if anything but a torn tail is damaged."""
    if contents.damaged:
        names = ", ".join(map(str, list(contents.damaged)[:10]))
        raise JournalDamaged(
            path,
            f"{len(contents.damaged)} of its requests are not as they were written (number "
            f"{names}); {len(contents.open)} that no cell has and {contents.wanted} keys can be "
            f"saved",
            _save(path),
        )
