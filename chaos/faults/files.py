"""What a disk holds is damaged or gone, under a daemon that has died.

The peer is killed, its files are changed, and it is started again: it may find the damage and
refuse to run, or run. The heal does what an operator does (docs/membership.md): where the daemon
has ended, and after a loss, the directory is set aside and the peer is started with an empty one
and ``--replace``. A daemon that goes on has found nothing: where nothing is that counts.

Proof: which bytes were changed, or how many were taken away.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from signal import SIGKILL
from typing import TYPE_CHECKING

from chaos.faults.base import (
    LASTS,
    VICTIM,
    Active,
    CannotInject,
    Command,
    Fault,
    Simple,
    chosen,
    lacks,
    one_of,
)
from ha_scheduler.repair.offline import opened

if TYPE_CHECKING:
    from chaos.targets.base import Target

DATA_FILE = "data.mdb"
FLIPS = 20
ROTTEN = 5
ROW_BYTES_MIN = 40
PAGE_BYTES = 4096
META_PAGES = 2  # at the beginning; without one of them LMDB uses the other
TAIL_BYTES = 8 * PAGE_BYTES
REPLACE = "--replace"
REPLACED_S_MAX = 60.0
FOUND_S_MAX = 3.0  # beyond what the fault lasts; the data of a run is read through in less
POLL_S = 0.1


@dataclass
class Damaged:
    """A peer whose files were changed."""

    target: Target
    peer: str
    kept: Path
    what: str
    healed: bool = False
    will: Sequence[Command] = ()

    def heal(self) -> None:
        if self.healed:
            return
        self.healed = True
        deadline = time.monotonic() + FOUND_S_MAX
        while time.monotonic() < deadline:
            if self.target.pids(self.peer).daemon is None:
                replace_disk(self.target, self.peer, self.kept)
                return
            time.sleep(POLL_S)

    def proof(self) -> str | None:
        return f"{self.peer}: {self.what}"


def replace_disk(target: Target, peer: str, kept: Path) -> None:
    """Set what is left of a disk aside, and start the peer with an empty one as a new voter."""
    target.signal(peer, "both", SIGKILL)
    directory = target.directory(peer)
    if directory.exists():
        directory.rename(kept)
    directory.mkdir()
    start_with(target, peer, REPLACE)


def start_with(target: Target, peer: str, option: str) -> None:
    """Start it with one more option, this once."""
    options = target.options(peer)
    options.append(option)
    try:
        target.restart(peer)
    finally:
        options.remove(option)


def flip_bits(file: Path, random: Random) -> str:
    """Behind the pages that LMDB begins with. Says where."""
    size = file.stat().st_size
    if size <= META_PAGES * PAGE_BYTES:
        raise CannotInject(f"{file} holds nothing yet")
    with file.open("r+b") as opened:
        places = [random.randrange(META_PAGES * PAGE_BYTES, size) for _ in range(FLIPS)]
        for place in places:
            opened.seek(place)
            byte = opened.read(1)[0]
            opened.seek(place)
            opened.write(bytes([byte ^ 1 << random.randrange(8)]))
    return f"one bit flipped at each of {len(places)} bytes of {size}, the first at {min(places)}"


def tear_tail(file: Path, random: Random) -> str:
    """As a write that was under way: zeros from somewhere in the last pages to the end."""
    size = file.stat().st_size
    begin = max(META_PAGES * PAGE_BYTES, size - random.randrange(1, TAIL_BYTES))
    with file.open("r+b") as opened:
        opened.seek(begin)
        opened.write(bytes(size - begin))
    return f"the last {size - begin} bytes of {size} are zeros"


def cut_short(file: Path, random: Random) -> str:
    size = file.stat().st_size
    left = random.randrange(META_PAGES * PAGE_BYTES, size) // PAGE_BYTES * PAGE_BYTES
    with file.open("r+b") as opened:
        opened.truncate(left)
    return f"cut from {size} to {left} bytes"


def rot(file: Path, random: Random) -> str:
    """In rows of the log, which are what matters: the last bit of some, each as another."""
    with opened(file.parent) as offline, offline.dbs.env.begin() as txn:
        rows = [bytes(row) for _, row in txn.cursor(offline.dbs.log) if len(row) >= ROW_BYTES_MIN]
    chosen_rows = random.sample(rows, min(ROTTEN, len(rows)))
    content = bytearray(file.read_bytes())
    changed = 0
    for row in chosen_rows:
        at = content.find(row)
        while at >= 0:  # in former pages too, as nobody knows here which is in use
            content[at + len(row) - 1] ^= 1
            changed += 1
            at = content.find(row, at + 1)
    with file.open("r+b") as opened_file:
        opened_file.write(content)
    if not changed:
        raise CannotInject(f"{file} holds no rows yet")
    return f"one bit flipped in each of {len(chosen_rows)} rows of its log"


CHANGES = {"bitflip": flip_bits, "rot": rot, "torn-tail": tear_tail, "truncate": cut_short}


def _damage(target: Target, random: Random, kind: str, lasts_s: float | None, word: str) -> Active:
    peer, *_ = chosen(target, word, random)
    target.signal(peer, "both", SIGKILL)
    directory = target.directory(peer)
    kept = directory.with_name(f"damaged-{random.getrandbits(32):08x}")
    if kind == "lost":
        directory.rename(kept)
        directory.mkdir()
        start_with(target, peer, REPLACE)
        return Lost(target, peer, kept)
    try:
        what = CHANGES[kind](directory / DATA_FILE, random)
    finally:
        target.restart(peer)
    return Damaged(target, peer, kept, what)


@dataclass
class Lost:
    """A peer that was started with an empty disk; nothing is left to heal."""

    target: Target
    peer: str
    kept: Path
    will: Sequence[Command] = ()

    def heal(self) -> None:
        deadline = time.monotonic() + REPLACED_S_MAX
        while self.target.pids(self.peer).daemon is None:
            self.target.restart(self.peer)
            if time.monotonic() > deadline:
                return
            time.sleep(POLL_S)

    def proof(self) -> str | None:
        size = sum(file.stat().st_size for file in self.kept.rglob("*") if file.is_file())
        return f"{self.peer}: a directory of {size} bytes was taken away"


FAULTS: tuple[Fault, ...] = (
    Simple(
        "damage",
        "A peer dies, and its data is damaged or gone; the heal gives it an empty disk.",
        _damage,
        (one_of("bitflip", "rot", "torn-tail", "truncate", "lost"), LASTS, VICTIM),
        lacks("processes", "files", "environment"),
        destroys=True,
    ),
)
