"""What a disk was begun with, and who may open it."""

from __future__ import annotations

import threading
from pathlib import Path

import msgspec
import pytest

from ha_scheduler.cell.peers import Cell, parse_peers
from ha_scheduler.errors import OperatorError
from ha_scheduler.ledger import fold
from ha_scheduler.ledger.encoding import encode
from ha_scheduler.ledger.records import FORMAT, TermStarted
from ha_scheduler.ledger.tables import META
from ha_scheduler.peer.members.opening import check_format, found, open_store
from ha_scheduler.peer.settings import PeerSettings
from ha_scheduler.raft.messages import HardState
from ha_scheduler.storage.port import WriteBatch
from tests.twins.tables import MemoryTables


def test_a_ledger_that_a_newer_release_has_led_is_refused_with_what_to_do() -> None:
    tables = MemoryTables()
    check_format(Path("/d"), tables)
    fold.fold(tables, 1, 7, encode(TermStarted(7, "a")))
    check_format(Path("/d"), tables)
    ((row, _),) = tables.scan(META)
    tables.put(META, row, msgspec.msgpack.encode([1, 8, "b", FORMAT + 1]))
    with pytest.raises(
        OperatorError, match=r"^/d: all of term 8, .* newer .* upgrade this peer\.$"
    ):
        check_format(Path("/d"), tables)


WRONG = parse_peers("a=127.0.0.1:1/2,b=127.0.0.1:3/4,c=127.0.0.1:5/6")
RIGHT = parse_peers("a=127.0.0.1:1/2,b=127.0.0.1:33/4,c=127.0.0.1:5/6")


def settings(cell: Cell, directory: Path) -> PeerSettings:
    return PeerSettings(cell=cell, name="a", data_dir=directory)


def no_cell() -> Cell:
    raise AssertionError("a founder asks nobody")


def begin(directory: Path, term: int) -> None:
    """Start once with a list that has a mistake, up to a vote in ``term``."""
    mistaken = settings(WRONG, directory)
    written = threading.Event()
    store = open_store(mistaken, found(mistaken, no_cell), lambda number, error: written.set())
    if term:
        store.submit(WriteBatch(1, hard_state=HardState(term, 0, 0)))
        assert written.wait(10)
    store.close()


def test_a_mistake_in_the_first_list_is_corrected_while_nothing_is_stored(tmp_path: Path) -> None:
    begin(tmp_path, term=0)
    corrected = settings(RIGHT, tmp_path)
    known = found(corrected, no_cell)
    assert known.cell == RIGHT
    open_store(corrected, known, lambda number, error: None).close()


def test_a_disk_that_has_voted_keeps_the_list_that_it_began_with(tmp_path: Path) -> None:
    begin(tmp_path, term=1)
    assert found(settings(RIGHT, tmp_path), no_cell).cell == WRONG
