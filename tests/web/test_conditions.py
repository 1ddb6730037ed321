"""When a peer is ready, leads, follows: one status, one answer."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from ha_scheduler.protocol.control import EngineStatus, Member, Status
from ha_scheduler.web.conditions import LAG_ENTRIES_MAX, follows, leads, unready


def member(name: str, role: str = "voter", *, leaving: bool = False) -> Member:
    return Member(1, name, role, leaving, None, None, True, True, 1, 0.1)


FOLLOWER = Status(
    cell="a=1,b=2",
    name="a",
    role="follower",
    witness=False,
    term=3,
    leader="b",
    serving=True,
    address="tls://b:8786",
    peers=(),
    commit=100,
    applied=100,
    first_index=1,
    last_index=100,
    lease_s=0.0,
    engine=EngineStatus("ready", 7, "", 100, 0.0),
    members=(member("a"), member("b")),
    change="",
    watchers=0,
    tick_gap_s_max=0.0,
    leader_gap_s_max=0.0,
    history_tail=(),
)
ACTIVE = EngineStatus("active", 7, "", 100, 0.0)
LEADER = replace(FOLLOWER, role="leader", leader="a", lease_s=0.4, engine=ACTIVE)


def test_a_follower_of_a_sound_cell_is_ready_and_does_not_lead() -> None:
    assert (unready(FOLLOWER), leads(FOLLOWER), follows(FOLLOWER)) == ("", False, True)


def test_a_leader_is_ready_and_does_not_follow() -> None:
    assert (unready(LEADER), leads(LEADER), follows(LEADER)) == ("", True, False)


@pytest.mark.parametrize(
    "change",
    [
        {"lease_s": 0.0},
        {"serving": False},
        {"engine": EngineStatus("ready", 7, "", 100, 0.0)},
        {"engine": EngineStatus("absent", 0, "", 0, 0.0)},
        {"role": "candidate"},
        {"role": "follower"},
    ],
    ids=str,
)
def test_who_does_not_serve_under_a_lease_is_no_leader(change: dict[str, Any]) -> None:
    assert not leads(replace(LEADER, **change))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"leader": None}, "no leader"),
        ({"role": "candidate", "leader": None}, "no leader"),
        ({"members": (member("a", "learner"), member("b"))}, "no vote"),
        ({"members": (member("a", leaving=True), member("b"))}, "leaving"),
        ({"members": (member("b"),)}, "no vote"),
        ({"commit": 100 + LAG_ENTRIES_MAX + 1}, "not applied"),
        ({"engine": EngineStatus("starting", 7, "", 0, 0.0)}, "starting"),
        ({"engine": EngineStatus("absent", 0, "", 0, 0.0)}, "absent"),
        ({"engine": EngineStatus("ready", 7, "", 100, 1.5)}, "behind"),
    ],
    ids=str,
)
def test_who_could_not_take_over_is_not_ready(change: dict[str, Any], why: str) -> None:
    status = replace(FOLLOWER, **change)
    assert why in unready(status)
    assert not follows(status)


def test_a_witness_is_ready_without_an_engine() -> None:
    members = (member("a", "witness"), member("b"))
    absent = EngineStatus("absent", 0, "", 0, 0.0)
    assert not unready(replace(FOLLOWER, witness=True, engine=absent, members=members))


def test_a_leader_whose_engine_is_gone_neither_leads_nor_is_ready() -> None:
    status = replace(LEADER, engine=EngineStatus("absent", 0, "", 0, 0.0), serving=False)
    assert not leads(status)
    assert unready(status)
