"""Goal: a committed record at which a peer stops at each start can be put aside, and only that.

Method: the command line, on directories that a real store has written.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ha_scheduler.cli.main import main
from ha_scheduler.ledger.encoding import encode
from ha_scheduler.ledger.records import PeerNamed
from ha_scheduler.ledger.tables import VALUES
from ha_scheduler.ledger.unfit import UnknownRecordError
from ha_scheduler.raft.messages import Entry
from tests.storage.storage_helpers import Caller, entry, open_store, value

STOPS = b"\x91\x7f"  # of a kind that no release has
NAMED = encode(PeerNamed(1, 2, "b", "h", 1, 2, False, ""))
LOG = (
    entry(1, data=value(b"one")),
    entry(2, data=b"junk"),
    entry(3, data=STOPS),
    entry(4, data=value(b"four")),
    entry(5, data=NAMED),
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The data of a peer that stops at entry 3."""
    path = tmp_path / "data"
    caller = Caller()
    store = open_store(path, caller)
    caller.write(store, entries=LOG, apply=LOG[:2])
    store.close()
    with pytest.raises(UnknownRecordError):
        applied(path, *LOG[2:])
    return path


def applied(path: Path, *log: Entry) -> dict[str, Any]:
    """What a daemon that starts and applies the rest finds."""
    caller = Caller()
    store = open_store(path, caller)
    try:
        caller.write(store, apply=log)
        with store.view() as view:
            values = len(list(view.tables.scan(VALUES)))
        return {"values": values, "rejected": [r.index for r in store.rejections().latest]}
    finally:
        store.close()


def repair(*arguments: str | Path, answer: str = "") -> Result:
    return CliRunner().invoke(main, ["repair", *map(str, arguments)], input=answer)


def test_show_tells_each_record_in_words_and_at_which_the_peer_stops(data: Path) -> None:
    shown = repair("show", "--data-dir", data)
    assert shown.exit_code == 0
    assert "Peer a of cell cell, disk 7" in shown.output
    assert "log 1 to 5" in shown.output
    assert "applied 2." in shown.output
    lines = {line.split()[0]: line for line in shown.output.splitlines()}
    assert "ValueSet" in lines["1"]
    assert "name=b'one' value=<1 bytes>" in lines["1"]
    assert "every peer passes over it" in lines["2"]
    assert "UNKNOWN" in lines["3"]
    assert "stops this peer" in lines["3"]
    assert lines["4"].endswith("[not applied]")
    assert "Rejected, 1 in all: record 2 of term 1" in shown.output
    assert repair("show", "--data-dir", data, "--last", "1").output.count("term 1  ") == 1


def test_a_dropped_record_is_passed_over_written_down_and_nothing_else_is(data: Path) -> None:
    done = repair("drop", "3", "--data-dir", data, "--yes")
    audited = CliRunner().invoke(main, ["audit", "show", "--data-dir", str(data)]).output
    assert '"event":"repaired"' in audited
    assert "entry 3 was dropped" in audited
    assert done.exit_code == 0
    assert "will lack what entry 3 of term 1 says" in done.output
    assert "Drop it on every peer" in done.output
    assert "[dropped]" in repair("show", "--data-dir", data).output
    assert applied(data, *LOG[2:]) == {"values": 2, "rejected": [2, 3]}
    shown = repair("show", "--data-dir", data).output
    assert "record 3 of term 1 (no known record, 2 bytes" in shown
    assert "an operator has dropped it, on this peer" in shown
    assert "UTC: dropped entry 3 of term 1 (UNKNOWN)." in shown


def test_nothing_is_dropped_without_a_yes(data: Path) -> None:
    refused = repair("drop", "3", "--data-dir", data, answer="n\n")
    assert refused.exit_code != 0
    with pytest.raises(UnknownRecordError):
        applied(data, *LOG[2:])


def test_another_entry_in_the_place_of_the_dropped_one_is_applied(data: Path) -> None:
    assert repair("drop", "3", "--data-dir", data, "--yes").exit_code == 0
    caller = Caller()
    store = open_store(data, caller)
    others = (entry(3, 2, value(b"three")),)
    caller.write(store, entries=others, apply=others)
    with store.view() as view:
        assert len(list(view.tables.scan(VALUES))) == 2
    store.close()


@pytest.mark.parametrize(
    ("index", "why"),
    [
        ("1", "is applied in"),
        ("9", "has no entry 9: its log ends at 5"),
        ("5", "cannot be dropped"),
        ("0", "0 is not in the range"),
    ],
)
def test_what_cannot_be_dropped_is_refused_and_nothing_is_changed(
    data: Path, index: str, why: str
) -> None:
    before = repair("show", "--data-dir", data).output
    refused = repair("drop", index, "--data-dir", data, "--yes")
    assert refused.exit_code == 2
    assert why in refused.output
    assert repair("show", "--data-dir", data).output == before


def test_no_repair_while_a_daemon_has_the_data(data: Path) -> None:
    store = open_store(data)
    for command in (("show",), ("drop", "3", "--yes")):
        refused = repair(*command, "--data-dir", data)
        assert refused.exit_code == 2
        assert "another process runs on" in refused.output
    store.close()


def test_a_directory_without_data_is_named(tmp_path: Path) -> None:
    refused = repair("show", "--data-dir", tmp_path)
    assert refused.exit_code == 2
    assert "holds no data of a peer" in refused.output
    assert not list(tmp_path.iterdir())
