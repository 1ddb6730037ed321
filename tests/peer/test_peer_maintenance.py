"""Drained peers and failover that is off: who stands for election, in parts and in a cell."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from stage import Stage, disk
from toy_cell import ToyCell, within

from ha_scheduler.cli.main import main
from ha_scheduler.ledger import encoding
from ha_scheduler.ledger.fold import fold
from ha_scheduler.ledger.records import MaintenanceSet, TermStarted
from ha_scheduler.peer.consensus.maintenance import FAILOVER_OFF_S_MAX, Maintenance
from ha_scheduler.protocol.control import Declined, MaintainRequest
from ha_scheduler.raft.messages import Entry, EntryKind, Membership
from tests.twins.tables import MemoryTables

NOW = 1_000_000


class Clock:
    def __init__(self) -> None:
        self.now = float(NOW)

    def __call__(self) -> float:
        return self.now


def committed(maintenance: Maintenance, record: MaintenanceSet | Declined) -> None:
    assert isinstance(record, MaintenanceSet), record
    maintenance.on_committed([Entry(1, 1, EntryKind.NORMAL, encoding.encode(record))])


def order(maintenance: Maintenance, peer: str, active: bool, for_s: int = 0) -> Any:
    request = MaintainRequest(peer, active, for_s)
    return maintenance.order(request, "root", ("a", "b", "c"), ("a", "b", "c"))


def test_a_drained_peer_does_not_stand_until_it_is_undrained() -> None:
    own, other = Maintenance("a"), Maintenance("b")
    for maintenance in (own, other):
        committed(maintenance, order(own, "a", True))
    assert (own.stands(), other.stands()) == (False, True)
    committed(own, order(own, "a", False))
    assert own.stands()


def test_while_failover_is_off_who_led_last_stands_and_nobody_else_until_its_time_is_over() -> None:
    clock = Clock()
    own, other = Maintenance("a", clock), Maintenance("b", clock)
    for maintenance in (own, other):
        maintenance.leads("a")
        committed(maintenance, order(own, "", True, 600))
    assert (own.stands(), other.stands()) == (True, False)
    clock.now += 601
    assert other.stands(), "it is not forgotten"
    assert other.told() == ()


def test_a_peer_that_restarts_knows_from_its_ledger_what_was_ordered_and_who_led() -> None:
    tables = MemoryTables()
    for index, record in enumerate(
        (TermStarted(3, "b"), MaintenanceSet("", True, NOW + 600, "root", NOW)), 1
    ):
        fold(tables, index, 3, encoding.encode(record))
    for name in "ab":
        maintenance = Maintenance(name, Clock())
        maintenance.load(tables)
        assert maintenance.stands() == (name == "b")


def test_what_an_operator_lifts_while_nobody_leads_holds_until_somebody_does() -> None:
    maintenance = Maintenance("a")
    committed(maintenance, order(maintenance, "a", True))
    maintenance.overrule("a")
    assert maintenance.stands()
    maintenance.leads("b")
    assert not maintenance.stands(), "its log is to be told"


@pytest.mark.parametrize("for_s", [0, 59, FAILOVER_OFF_S_MAX + 1])
def test_failover_is_not_off_without_a_sane_limit(for_s: int) -> None:
    refused = order(Maintenance("a"), "", True, for_s)
    assert isinstance(refused, Declined)
    assert "failover can be off for 60 s to 24 h" in refused.reason


def test_the_last_peer_that_could_lead_is_not_drained() -> None:
    maintenance = Maintenance("a")
    committed(maintenance, order(maintenance, "b", True))
    request = MaintainRequest("a", active=True)
    refused = maintenance.order(request, "root", ("a", "b", "c"), ("a", "b"))
    assert isinstance(refused, Declined), "b is drained, and c is down"
    assert "would be left to lead" in refused.reason


def test_a_learner_that_is_to_stay_one_holds_up_nothing_until_it_is_promoted() -> None:
    stage = Stage()
    learner = stage.begins(disk(9, "d", learner=True))
    assert stage.join(learner, replacing=False) is None
    stage.run()
    assert stage.membership == Membership((1, 2, 3), (9,))
    assert stage.changes.waiting == ""
    assert stage.changes._unfinished(stage.seen()) == set()
    refused = stage.changes.promote("a", stage.seen())
    assert isinstance(refused, Declined)
    assert "votes already" in refused.reason
    assert stage.ask(stage.changes.promote("d", stage.seen())) is None
    stage.run()
    assert stage.membership == Membership((1, 2, 3, 9))


def test_a_learner_whose_vote_would_cost_the_majority_is_not_promoted() -> None:
    stage = Stage()
    assert stage.join(stage.begins(disk(9, "d", learner=True)), replacing=False) is None
    stage.run()
    stage.live -= {3, 9}
    refused = stage.changes.promote("d", stage.seen())
    assert isinstance(refused, Declined)
    assert "with peer d, 2 of 4 voters would be live, which is no majority" in refused.reason


def run(cell: ToyCell, *command: str) -> Result:
    where = ["--peers", cell.peers, "--tls-dir", str(cell.base / "certs")]
    return CliRunner().invoke(main, [*command, *where])


def leads_now(cell: ToyCell, *, but: str = "") -> str:
    return within(20, partial(cell.leader, but=but), every=0.02)


def test_orders_of_an_operator_decide_who_takes_over(tmp_path: Path) -> None:
    with ToyCell(tmp_path) as cell:
        first = cell.settled()
        drained = run(cell, "drain", first)
        assert drained.exit_code == 0, drained.stderr
        second = leads_now(cell, but=first)
        (third,) = set("abc") - {first, second}
        assert "is not elected" in run(cell, "status").stdout
        off = run(cell, "failover", "off", "--for", "10 minutes")
        assert off.exit_code == 0, off.stderr
        assert "nobody takes over by itself" in run(cell, "status").stdout
        cell.kill(second)
        term = (cell.status(third) or {})["term"]
        within(5, lambda: (cell.status(third) or {}).get("leader", "") is None, every=0.02)
        # Longer than any candidate would wait.
        assert all(_nobody_stands(cell, third, term) for _ in range(30))
        assert run(cell, "failover", "on").exit_code == 0
        assert leads_now(cell) == third, "the drained one does not take over"
        refused = run(cell, "drain", third)
        assert refused.exit_code == 1
        assert "would be left to lead" in refused.stderr
        assert run(cell, "undrain", first).exit_code == 0
        assert "drained" not in run(cell, "status").stdout


def _nobody_stands(cell: ToyCell, asked: str, term: int) -> bool:
    time.sleep(0.05)
    status = cell.status(asked) or {}
    return status.get("leader") is None and status.get("term") == term
