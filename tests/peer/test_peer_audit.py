"""What peers write into their audit logs, while they run and are killed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ha_scheduler.audit import files
from tests.peer.toy_cell import ToyCell, within


def events(cell: ToyCell, name: str, event: str = "") -> list[dict[str, Any]]:
    directory = files.directory_of(cell.data(name))
    lines = [json.loads(line) for path in files.paths(directory) for line in files.lines_of(path)]
    return [line for line in lines if event in ("", line["event"])]


def test_who_led_who_was_refused_and_what_an_admin_forced_is_in_the_audit_log(
    tmp_path: Path,
) -> None:
    with ToyCell(tmp_path) as cell:
        leader = cell.settled()
        refused = cell.ask(leader, op="transfer", to=None)["reason"]
        assert "transfer is for the role admin, and this is client" in refused
        assert "role admin" in cell.ask(leader, op="quarantine")["reason"]
        assert cell.ask(leader, as_peer=leader, op="transfer", to=None)["ok"]
        within(5, lambda: events(cell, leader, "forced"))
        (forced,) = events(cell, leader, "forced")
        assert (forced["subject"], forced["role"], forced["outcome"]) == (leader, "peer", "done")
        (first, second) = events(cell, leader, "refused")
        assert (first["subject"], first["what"]) == ("client", "transfer")
        assert second["what"] == "quarantine"
        within(5, lambda: len(events(cell, leader, "role-changed")) == 2 or None)
        led, led_no_longer = events(cell, leader, "role-changed")
        assert (led["what"], led_no_longer["what"]) == ("leads", "leads no longer")
        assert events(cell, leader, "membership")[-1]["members"] == "a, b, c"
        cell.kill(leader)
        cell.start(leader)
        within(20, lambda: len(events(cell, leader, "log-opened")) == 2 or None)
        count, _, problems = files.verify(files.directory_of(cell.data(leader)))
        assert count > 8
        assert not [p for p in problems if "cut off" not in p.what], problems
