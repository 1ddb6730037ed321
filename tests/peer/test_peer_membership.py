"""Changing the membership of a running cell: real daemons, TLS and disks, an engine with a diary.

What was acknowledged is what the leader's engine got back; nothing of it may be missing anywhere in
the end. A peer that counts twice, or a disk that acts after it was replaced, would show in the
status of the others.
"""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from toy_cell import SCALE, ToyCell, report, within

pytestmark = pytest.mark.system


def acknowledged(cell: ToyCell, leader: str) -> set[str]:
    """What engines of ``leader`` proposed and got back."""
    return {e["text"] for e in cell.diary(leader, "record") if e["proposal"]}


def holds(cell: ToyCell, name: str, values: set[str]) -> bool:
    return values <= set(cell.values(name))


def ends(cell: ToyCell, name: str) -> int:
    """The exit status of a daemon that ends by itself."""
    return cell.daemons.pop(name).wait(timeout=15 * SCALE)


def test_a_peer_that_lost_its_disk_is_replaced_while_records_flow(tmp_path: Path) -> None:
    with ToyCell(tmp_path) as cell:
        leader = cell.settled()
        lost = next(n for n in cell.names if n != leader)
        old_id = cell.member(leader, lost)["id"]
        cell.propose(leader, "before", 200)
        cell.fed(lost, "before", 200)
        kept = cell.lose_disk(lost)
        cell.propose(leader, "meanwhile", 2000)
        cell.start(lost, entry="replace")
        cell.propose(leader, "during", 2000)
        new = within(20, lambda: cell.votes(lost) and cell.member(leader, lost), every=0.05)
        assert new["id"] != old_id
        assert cell.settled() == leader, "nobody was disturbed"
        cell.fed(leader, "during", 2000)
        values = acknowledged(cell, leader)
        assert len(values) == 4200
        for name in cell.names:
            within(10, partial(holds, cell, name, values), every=0.05)

        # The old disk is found again and put back.
        term = cell.status(leader)["term"]
        cell.kill(lost)
        cell.data(lost).rename(tmp_path / "new")
        shutil.copytree(kept, cell.data(lost))
        cell.start(lost)
        assert ends(cell, lost) == 1
        assert "was replaced on" in cell.log(lost)
        assert "--replace" in cell.log(lost)
        assert cell.status(leader)["term"] == term
        assert cell.member(leader, lost)["id"] == new["id"]

        # And the new one again, with and without the option.
        shutil.rmtree(cell.data(lost))
        (tmp_path / "new").rename(cell.data(lost))
        cell.start(lost, entry="replace")
        assert cell.settled() == leader
        assert cell.member(leader, lost)["id"] == new["id"]


def test_an_empty_disk_never_takes_the_place_of_the_one_that_was_lost(tmp_path: Path) -> None:
    with ToyCell(tmp_path) as cell:
        leader = cell.settled()
        lost = next(n for n in cell.names if n != leader)
        cell.propose(leader, "x", 50)
        cell.fed(lost, "x", 50)
        written_down = f"of peer {lost} belongs to the cell"
        within(5, lambda: written_down in cell.log(leader), every=0.05)
        cell.lose_disk(lost)
        match = cell.member(leader, lost)["match"]
        cell.start(lost)  # as if nothing had happened
        assert ends(cell, lost) == 1
        assert "another disk took part in this cell" in cell.log(lost)
        assert "--replace" in cell.log(lost)
        assert cell.member(leader, lost)["match"] == match, "it acknowledged nothing"


def test_the_last_founder_may_come_late_and_take_part_with_its_first_disk(tmp_path: Path) -> None:
    cell = ToyCell(tmp_path)
    late = cell.names[-1]
    try:
        for name in cell.names[:2]:
            cell.start(name)
        leader = within(10, cell.leader, every=0.05)
        cell.propose(leader, "x", 100)
        cell.fed(leader, "x", 100)
        cell.start(late)
        cell.fed(late, "x", 100)
        assert "this empty disk takes part: the cell knows this disk" in cell.log(late)
        cell.kill(late)
        cell.start(late)
        cell.settled()
    finally:
        cell.__exit__(None, None, None)


def test_a_directory_that_is_not_empty_is_no_new_disk(tmp_path: Path) -> None:
    with ToyCell(tmp_path) as cell:
        leader = cell.settled()
        other = next(n for n in cell.names if n != leader)
        cell.kill(other)
        cell.start(other, entry="replace")
        assert ends(cell, other) == 2
        assert "is not empty, and --replace is for a new disk" in cell.log(other)
        cell.start(other)
        assert cell.settled() == leader


def test_only_the_peer_itself_may_ask_for_its_new_disk(tmp_path: Path) -> None:
    with ToyCell(tmp_path) as cell:
        leader = cell.settled()
        lost, other = (n for n in cell.names if n != leader)
        disk = (5, 6, lost, "127.0.0.1", 1, 2, False)
        wish = {"op": "join", "replacing": True, "disk": disk}
        assert "certificate of peer" in cell.ask(leader, as_peer=other, **wish)["reason"]
        assert "role admin" in cell.ask(leader, **wish)["reason"]

        def refused_as_in_use() -> bool:  # and not because the founders are being written down
            answer = cell.ask(leader, as_peer=lost, **wish)
            assert answer["passing"]
            return "in use" in answer["reason"]

        within(5, refused_as_in_use, every=0.05)
        half = cell.ask(leader, as_peer=lost, op="join")
        assert half["reason"] == "join: Object missing required field `disk`"
        assert cell.ask(other, as_peer=lost, **wish)["leader"] == leader
        assert "role admin" in cell.ask(leader, op="remove", peer=lost)["reason"]


@pytest.mark.parametrize(
    "step",
    [
        "ADD_LEARNER",
        "was replaced",
        pytest.param("belongs to the cell", marks=pytest.mark.slow),
        pytest.param("REMOVE", marks=pytest.mark.slow),
    ],
)
def test_a_leader_killed_in_the_midst_of_a_replace_is_succeeded_in_it(
    tmp_path: Path, step: str
) -> None:
    with ToyCell(tmp_path, names="abcde") as cell:
        leader = cell.settled()
        lost = next(n for n in cell.names if n != leader)
        old_id = cell.member(leader, lost)["id"]
        cell.propose(leader, "x", 500)
        cell.fed(lost, "x", 500)
        values = acknowledged(cell, leader)
        cell.lose_disk(lost)
        begin = len(cell.log(leader))
        cell.start(lost, entry="replace")
        within(20, lambda: step in cell.log(leader)[begin:], every=0.001)
        cell.kill(leader)
        within(30, lambda: cell.votes(lost), every=0.05)
        successor = within(10, lambda: cell.leader(but=leader), every=0.05)
        new = cell.member(successor, lost)
        assert new["id"] != old_id
        assert all(m["id"] != old_id for m in cell.status(successor)["members"])
        cell.start(leader)
        cell.settled()
        cell.propose(successor if successor == cell.leader() else str(cell.leader()), "y", 100)
        for name in cell.names:
            within(20, partial(holds, cell, name, values), every=0.05)
            cell.fed(name, "y", 100, seconds=20)


def newest(cell: ToyCell, asked: str, name: str, other_than: int) -> dict[str, Any] | None:
    """The disk of ``name``, once it is another one; a moment later it may be a voter already."""
    member = cell.member(asked, name)
    return member if member and member["id"] != other_than else None


def test_a_new_disk_that_is_killed_half_way_goes_on_where_it_was(tmp_path: Path) -> None:
    limits = {"ENTRIES_MAX": 400, "KEEP_ENTRIES": 50, "KEEP_BYTES": 1 << 20}
    with ToyCell(tmp_path, limits={**limits, "BUCKET_ENTRIES": 20}) as cell:
        leader = cell.settled()
        lost = next(n for n in cell.names if n != leader)
        cell.propose(leader, "x", 1000, size=10_000)
        cell.fed(lost, "x", 1000)
        former = within(20, lambda: cell.member(leader, lost))["id"]
        cell.lose_disk(lost)
        cell.start(lost, entry="replace")
        half = within(20, lambda: newest(cell, leader, lost, other_than=former), every=0.001)
        cell.kill(lost)
        cell.start(lost)  # and now without the option
        within(30, lambda: cell.votes(lost, half["id"]), every=0.05)
        cell.settled()
        within(20, partial(holds, cell, lost, acknowledged(cell, leader)), every=0.05)


def test_a_peer_joins_and_leaves_again_and_the_leader_may_be_the_one_that_leaves(
    tmp_path: Path,
) -> None:
    with ToyCell(tmp_path) as cell:
        leader = cell.settled()
        cell.propose(leader, "x", 300)
        cell.fed(leader, "x", 300)
        listed = cell.prepare("d")
        cell.start("d", peers=listed, entry="join")
        within(20, lambda: cell.votes("d"), every=0.05)
        assert cell.settled() == leader
        cell.fed("d", "x", 300)
        watch = cell.connect("a", "watch", cell="")
        assert [peer[0] for peer in watch.receive()["peers"]] == ["a", "b", "c", "d"]

        # Both lists are understood from now on, and no third one.
        cell.kill("d")
        cell.start("d", peers=listed)
        cell.settled()
        cell.kill("d")
        port = cell.ports["d"]
        cell.start("d", peers=f"{cell.peers},d=127.0.0.1:{port}/1,e=127.0.0.1:2/3")
        assert ends(cell, "d") == 2
        assert "names neither the peers of this cell today" in cell.log("d")
        cell.start("d", peers=listed)
        cell.settled()

        assert cell.ask(leader, as_peer="a", op="remove", peer="z")["reason"].startswith(
            "there is no"
        )
        within(5, lambda: cell.ask(leader, as_peer="a", op="remove", peer=leader)["ok"], every=0.05)
        assert ends(cell, leader) == 1
        assert "was removed on" in cell.log(leader)
        successor = within(10, cell.leader, every=0.05)
        rest = sorted(set(cell.names) - {leader})
        within(10, lambda: [m["name"] for m in cell.status(successor)["members"]], every=0.05)
        status = cell.status(successor)
        assert sorted(m["name"] for m in status["members"]) == rest
        assert [p[0] for p in status["peers"]] == rest
        cell.propose(successor, "y", 100)
        for name in rest:
            cell.fed(name, "y", 100)
        report(f"{leader} removed, {successor} leads")
        cell.start(leader)
        assert ends(cell, leader) == 1
        assert cell.status(successor)["term"] == status["term"], "it disturbed nobody"


def test_a_peer_joins_though_one_leads_that_joined_and_its_lost_disk_is_no_founder(
    tmp_path: Path,
) -> None:
    with ToyCell(tmp_path) as cell:
        cell.settled()
        for name in "de":
            cell.peers = cell.prepare(name)
            cell.start(name, entry="join")
            within(20, partial(cell.votes, name), every=0.05)
            leader = cell.settled()
            if leader != name:
                assert cell.ask(leader, as_peer=leader, op="transfer", to=name)["ok"]
            assert cell.settled() == name

        # Without --replace it would be a founder of another cell: that of the peers of today.
        for name in "da":
            cell.lose_disk(name)
            cell.start(name)
            assert ends(cell, name) == 1
            assert "start with --replace" in cell.log(name)


def test_a_cell_with_a_witness_survives_the_death_of_a_full_peer(tmp_path: Path) -> None:
    limits = {"ENTRIES_MAX": 400, "KEEP_ENTRIES": 50, "KEEP_BYTES": 1 << 20, "BUCKET_ENTRIES": 20}
    cell = ToyCell(tmp_path, limits=limits)
    try:
        for name in cell.names:
            cell.start(name, witness=name == "c")
        leader = cell.settled()
        assert leader != "c"
        other = next(n for n in "ab" if n != leader)
        assert cell.member(leader, "c")["role"] == "witness"
        cell.propose(leader, "x", 300)
        cell.fed(leader, "x", 300)
        assert not cell.diary("c"), "a witness runs no engine"
        assert "not ready" in cell.ask(leader, as_peer=leader, op="transfer", to="c")["reason"]

        cell.kill(leader)
        assert within(20, lambda: cell.leader(but=leader), every=0.05) == other
        cell.propose(other, "y", 1500, size=1000)
        cell.fed(other, "y", 1500, seconds=20)
        values = acknowledged(cell, leader) | acknowledged(cell, other)
        cell.start(leader)
        assert cell.settled() in "ab"
        within(10, partial(holds, cell, leader, values), every=0.05)

        # A witness that lost its disk is brought up by a snapshot that holds no ledger.
        leader = cell.settled()
        cell.lose_disk("c")
        cell.start("c", witness=True, entry="replace")
        within(20, lambda: cell.votes("c"), every=0.05)
        size = sum(f.stat().st_blocks * 512 for f in cell.data("c").glob("data.mdb"))
        assert size < sum(f.stat().st_blocks * 512 for f in cell.data("a").glob("data.mdb"))
        cell.kill("c")
        cell.start("c")
        assert ends(cell, "c") == 2
        assert "holds the disk of a witness, and this is a full peer" in cell.log("c")
    finally:
        for connection in cell.connections:
            connection.close()
        for name in list(cell.daemons):
            cell.kill(name)


def test_a_witness_alone_brings_up_a_full_peer_that_was_behind_and_lets_it_lead(
    tmp_path: Path,
) -> None:
    cell = ToyCell(tmp_path)
    try:
        for name in cell.names:
            cell.start(name, witness=name == "c")
        leader = cell.settled()
        behind = next(n for n in "ab" if n != leader)
        cell.kill(behind)
        cell.propose(leader, "x", 500)
        cell.fed(leader, "x", 500)
        values = acknowledged(cell, leader)
        cell.kill(leader)
        cell.start(behind)
        assert within(30, lambda: cell.leader(but=leader), every=0.05) == behind
        within(10, partial(holds, cell, behind, values), every=0.05)
        assert "c leads term" in cell.log("c"), "nobody else had the whole log"
        cell.propose(behind, "y", 50)
        cell.fed(behind, "y", 50)
    finally:
        for connection in cell.connections:
            connection.close()
        for name in list(cell.daemons):
            cell.kill(name)
