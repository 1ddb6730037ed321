"""Goal: no record that an engine gets into the log ends a daemon, or another engine.

Method: a cell of three real daemons; an engine that proposes what each daemon takes and no ledger
can apply, and what a daemon refuses; then all are killed and started again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from storage_digest import digest_of
from toy_cell import ToyCell, within

from ha_scheduler.ledger.calls import pack_payload
from ha_scheduler.ledger.encoding import encode
from ha_scheduler.ledger.records import BlobPart, Called, GraphSubmitted, ValueSet

pytestmark = pytest.mark.system

GRAPH = (1 << 32) + 1
VALUE = encode(ValueSet("toy", b"changed", b"", 0, 0, 1))
#: Each is sound by itself; what makes it unfit is what the ledger holds, or does not.
POISON: list[Any] = [
    GraphSubmitted(GRAPH, "c", "", 0, b"", 99, 3),
    GraphSubmitted(GRAPH, "c", "", 0, b"x", 0, 0),
    GraphSubmitted(GRAPH, "c", "", 0, b"y", 0, 0),
    BlobPart(1, 50, 0, b"x"),
    BlobPart(1, 50, 2, b"x"),
    ValueSet("toy", b"n", b"", 99, 1, 1),
    BlobPart(1, 60, 0, b"junk"),
    Called("s", 0, 1, b"", 60, 1, 1),
    BlobPart(1, 70, 0, pack_payload((VALUE, b"\x91\x7f"), b"answer")),
    Called("s", 0, 1, b"", 70, 1, 1),
]
REJECTED = 6


def rejected(cell: ToyCell, count: int) -> bool:
    """Whether all daemons count so many."""
    known = [cell.status(name) for name in cell.daemons]
    return all(status is not None and status["rejected"] == count for status in known)


def test_poison_in_the_log_ends_no_daemon_and_no_restart_and_peers_agree(tmp_path: Path) -> None:
    with ToyCell(tmp_path) as cell:
        leader = cell.settled()
        engines = {name: cell.engine_pid(name) for name in cell.names}
        cell.order(leader, op="raw", records=[encode(record).hex() for record in POISON])
        within(10, lambda: rejected(cell, REJECTED), every=0.02)
        was = engines.pop(leader)
        within(10, lambda: cell.engine_pid(leader) not in (0, was))
        author, leader = leader, cell.settled()
        assert {name: cell.engine_pid(name) for name in engines} == engines, "only its author ends"
        assert "it proposed what cannot be applied" in cell.log(author)
        cell.propose(leader, "x", 5)
        for name in cell.names:
            cell.fed(name, "x", 5)
            assert cell.log(name).count("every peer passes over what cannot be applied") == REJECTED
        for name in list(cell.daemons):
            cell.kill(name)
        for name in cell.names:
            cell.start(name)
        leader = cell.settled()
        assert rejected(cell, REJECTED)
        status = cell.status(leader)
        assert status is not None
        assert len(status["rejections"]) == REJECTED
        cell.propose(leader, "y", 5)
        for name in cell.names:
            cell.fed(name, "y", 5)
            assert "changed" not in cell.values(name), "nothing of a rejected call took effect"
        within(5, lambda: len({s["applied"] for n in cell.names if (s := cell.status(n))}) == 1)
        for name in list(cell.daemons):
            cell.kill(name)
        assert len({digest_of(cell.data(name)) for name in cell.names}) == 1
