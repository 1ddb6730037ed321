"""Goal: one surviving ledger is a cell again, with all that it held, and another cell.

Method: the command line, on directories that a real store has written, and on those of daemons.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ha_scheduler.cell.peers import parse_peers
from ha_scheduler.cli.main import main
from ha_scheduler.ledger import cell_identity
from ha_scheduler.ledger.encoding import encode
from ha_scheduler.ledger.records import PeerNamed
from ha_scheduler.ledger.tables import PEERS, VALUES
from ha_scheduler.peer.members import founding
from ha_scheduler.raft.messages import Membership
from ha_scheduler.storage.errors import ForeignDataDirectory
from tests.peer.toy_cell import ToyCell, within
from tests.storage.storage_helpers import Caller, entry, open_store, state, value

FOUNDED = cell_identity.draw("b")
NAMED = encode(PeerNamed(1, 2, "b", "h", 1, 2, False, ""))
LOG = (
    entry(1, data=encode(FOUNDED)),
    entry(2, data=NAMED),
    entry(3, data=value(b"three")),
    entry(4, 2, value(b"four")),
)
PEERS_NOW = "a=127.0.0.1:4444"
NEW = parse_peers(PEERS_NOW, any_count=True)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The data of a peer whose last entry is not applied, and whose term was spent."""
    path = tmp_path / "data"
    caller = Caller()
    store = open_store(path, caller)
    caller.write(store, entries=LOG, apply=LOG[:3], hard_state=state(2**62, 7))
    store.close()
    return path


def found_anew(path: Path, peers: str = PEERS_NOW, *more: str, answer: str = "") -> Result:
    arguments = ["repair", "found-anew", "--data-dir", str(path), "--peers", peers, *more]
    return CliRunner().invoke(main, arguments, input=answer)


def test_a_cell_of_one_begins_with_all_that_the_log_and_the_ledger_held(data: Path) -> None:
    done = found_anew(data, PEERS_NOW, "--yes")
    assert done.exit_code == 0, done.output
    assert "What only other peers have is lost" in done.output
    known = founding.load(data)
    assert known is not None
    assert known.cell.identity == NEW.identity
    with pytest.raises(ForeignDataDirectory):
        open_store(data)
    caller, own = Caller(), NEW.peer_id("a")
    store = open_store(data, caller, cell=NEW.identity, peer_id=own)
    assert store.initial_state() == (state(2, 0, 4), Membership((own,)))
    assert (store.first_index(), store.last_index(), store.applied()) == (5, 4, 4)
    with store.view() as view:
        assert len(list(view.tables.scan(VALUES))) == 2
        assert not list(view.tables.scan(PEERS))
        identity = cell_identity.load(view.tables)
    assert identity is not None
    assert (identity.predecessor, identity.founder) == (FOUNDED.cell, "a")
    assert identity.cell != FOUNDED.cell
    more = (entry(5, 3, value(b"five")),)
    caller.write(store, entries=more, apply=more)
    store.close()
    shown = CliRunner().invoke(main, ["repair", "show", "--data-dir", str(data)]).output
    assert "from the ledger of cell" in shown
    assert "as of entry 4" in shown


def test_nothing_is_founded_without_a_yes(data: Path) -> None:
    assert found_anew(data, answer="n\n").exit_code != 0
    open_store(data).close()
    assert founding.load(data) is None


@pytest.mark.parametrize("peers", ["b=127.0.0.1", "a=10.0.0.1,b=10.0.0.2,c=10.0.0.3"])
def test_a_list_of_others_is_refused(data: Path, peers: str) -> None:
    refused = found_anew(data, peers, "--yes")
    assert refused.exit_code == 2
    assert "with this peer alone" in refused.output
    open_store(data).close()


def test_an_entry_that_cannot_be_applied_is_named_and_founding_goes_on_without_it(
    tmp_path: Path,
) -> None:
    path, caller = tmp_path / "data", Caller()
    store = open_store(path, caller)
    caller.write(store, entries=(entry(1, data=b"\x91\x7f"), entry(2, data=value(b"two"))))
    store.close()
    refused = found_anew(path, PEERS_NOW, "--yes")
    assert refused.exit_code == 2
    assert "`repair drop 1` first" in refused.output
    drop = ["repair", "drop", "1", "--data-dir", str(path), "--yes"]
    assert CliRunner().invoke(main, drop).exit_code == 0
    assert found_anew(path, PEERS_NOW, "--yes").exit_code == 0
    store = open_store(path, cell=NEW.identity, peer_id=NEW.peer_id("a"))
    with store.view() as view:
        assert len(list(view.tables.scan(VALUES))) == 1
    assert [row.index for row in store.rejections().latest] == [1]
    store.close()


@pytest.mark.system
def test_of_a_cell_that_lost_its_majority_one_peer_founds_another_that_others_join(
    tmp_path: Path,
) -> None:
    with ToyCell(tmp_path) as cell:
        leader = cell.settled()
        cell.propose(leader, "x", 50)
        for name in cell.names:
            cell.fed(name, "x", 50)
        former = (cell.status(leader) or {})["cell_id"]
        for name in cell.names:
            cell.kill(name)
        survivor, other = cell.names[0], cell.names[1]
        listed = {item.partition("=")[0]: item for item in cell.peers.split(",")}
        done = found_anew(cell.data(survivor), listed[survivor], "--yes")
        assert done.exit_code == 0, done.output
        cell.cell = parse_peers(listed[survivor], any_count=True)  # of which the test asks
        cell.start(survivor, peers=listed[survivor])
        within(10, lambda: cell.leader() == survivor, every=0.05)
        status = cell.status(survivor) or {}
        assert status["predecessor"] == former
        assert status["cell_id"] not in ("", former)
        held = {f"x-{n}" for n in range(50)}
        assert set(cell.values(survivor)) == held
        shutil.rmtree(cell.data(other))
        cell.data(other).mkdir()
        cell.start(other, peers=f"{listed[survivor]},{listed[other]}", entry="join")
        within(20, lambda: cell.votes(other), every=0.05)
        cell.propose(survivor, "y", 5)
        cell.fed(other, "y", 5)
        assert set(cell.values(other)) > held
