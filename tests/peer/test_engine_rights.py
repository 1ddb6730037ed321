"""What an engine says is not believed: it is bounded, said once, and about its own peer."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import pytest
from toy_cell import ToyCell, within

from ha_scheduler.ledger.encoding import encode
from ha_scheduler.ledger.records import PeerNamed, TermStarted
from ha_scheduler.peer.engine.engine_rights import EngineRights, OverstepError
from ha_scheduler.protocol.codec import MalformedMessage
from ha_scheduler.protocol.engine import TO_DAEMON, EngineReady, Mark, Phase, Serving
from ha_scheduler.protocol.peer import PeerAddress


def rights(host: str = "192.0.2.7", *resolved: str) -> EngineRights:
    found = EngineRights("tls", PeerAddress("a", host, 8785, 8786))
    found.resolved = resolved
    found.activated(3)
    return found


@pytest.mark.parametrize(
    ("host", "resolved", "address"),
    [
        ("192.0.2.7", (), "tls://192.0.2.7:8786"),
        ("fd00::3", (), "tls://[fd00::3]:8786"),
        ("fd00:0::3", (), "tls://[fd00::3]:8786"),
        ("node-a", (), "tls://node-a:8786"),
        ("node-a", (), "tls://127.0.0.1:8786"),  # of this host
        ("node-a", ("203.0.113.9",), "tls://203.0.113.9:8786"),
    ],
)
def test_an_engine_serves_at_the_address_of_its_peer(
    host: str, resolved: tuple[str, ...], address: str
) -> None:
    rights(host, *resolved).check_serving(Serving(3, address))


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("192.0.2.7", "tls://203.0.113.66:8786"),
        ("192.0.2.7", "tls://192.0.2.7:666"),
        ("192.0.2.7", "tls://192.0.2.7:08786"),
        ("192.0.2.7", "tcp://192.0.2.7:8786"),
        ("192.0.2.7", "tls://user@192.0.2.7:8786"),
        ("192.0.2.7", "tls://127.0.0.1:8786"),
        ("node-a", "tls://203.0.113.66:8786"),
        ("node-a", "tls://node-b:8786"),
        ("node-a", "tls://0.0.0.0:8786"),
        ("node-a", ""),
        ("node-a", "tls://:8786"),
    ],
)
def test_an_engine_serves_nowhere_else(host: str, address: str) -> None:
    with pytest.raises(OverstepError, match="not port 8786 of this peer"):
        rights(host).check_serving(Serving(3, address))


def test_an_engine_speaks_of_its_own_term() -> None:
    for term in (2, 4, 2**63 - 1):
        with pytest.raises(OverstepError, match="not activated"):
            rights().check_serving(Serving(term, "tls://192.0.2.7:8786"))
        with pytest.raises(OverstepError, match="not activated"):
            rights().check_mark(Mark(term, Phase.FIRST_TASK, 1.0, {}), 2.0)


def test_each_thing_is_said_once() -> None:
    own = rights()
    own.check_ready(EngineReady(""))
    with pytest.raises(OverstepError, match="twice"):
        own.check_ready(EngineReady(""))
    own.check_serving(Serving(3, "tls://192.0.2.7:8786"))
    with pytest.raises(OverstepError, match="twice"):
        own.check_serving(Serving(3, "tls://192.0.2.7:8786"))
    assert own.check_mark(Mark(3, Phase.CLIENTS_BACK, 1.0, {}), 2.0) is not None
    assert own.check_mark(Mark(3, Phase.CLIENTS_BACK, 1.0, {}), 2.0) is None


@pytest.mark.parametrize("at", [math.nan, math.inf, -math.inf, 1e300])
def test_a_phase_was_not_reached_at_a_time_that_cannot_be(at: float) -> None:
    mark = rights().check_mark(Mark(3, Phase.FIRST_TASK, at, {}), 2.0)
    assert mark is not None
    assert mark.at == 2.0


@pytest.mark.parametrize(
    "said",
    [
        {"op": "mark", "term": 3, "phase": "x" * 9, "at": 1.0, "detail": {}},
        {"op": "mark", "term": 3, "phase": "first_task", "at": 1.0, "detail": {"n": "x" * 9}},
        {"op": "mark", "term": 3, "phase": "first_task", "at": 1.0, "detail": {"x" * 33: 1}},
        {"op": "mark", "term": 3, "phase": "first_task", "at": 1.0, "detail": {"n": [1]}},
        {
            "op": "mark",
            "term": 3,
            "phase": "first_task",
            "at": 1.0,
            "detail": {str(n): n for n in range(9)},
        },
        {"op": "engine-ready", "dashboard": "http://203.0.113.66:80"},
        {"op": "engine-ready", "dashboard": "http://:8787\n"},
        {"op": "engine-ready", "dashboard": "javascript://:8787"},
        {"op": "engine-ready", "dashboard": "http://:" + "8" * 90},
        {"op": "serving", "term": 3, "address": "tls://" + "x" * 300},
    ],
    ids=repr,
)
def test_what_an_engine_says_is_of_few_words(said: dict[str, Any]) -> None:
    with pytest.raises(MalformedMessage):
        TO_DAEMON.decode(msgspec.msgpack.encode(said))


OWN = {"term": "own term"}
GONE = PeerNamed(1, 2, "b", "10.0.0.2", 8785, 8786, False, "was removed by a client")
OVERSTEPS: dict[str, dict[str, Any]] = {
    "said twice that it serves": {"op": "serving", "address": "tls://203.0.113.66:666", **OWN},
    "spoke of term 1073741824": {
        "op": "mark",
        "term": 2**30,
        "phase": "first_task",
        "at": 1.0,
        "detail": {},
    },
    "said twice that it is ready": {"op": "engine-ready", "dashboard": ""},
    "mark: 5": {
        "op": "mark",
        "phase": "first_task",
        "at": 1.0,
        "detail": {},
        "more": "x" * 5000,
        **OWN,
    },
    "it proposed what no engine may: a PeerNamed": {
        "op": "propose",
        "proposal": 1,
        "data": encode(GONE).hex(),
    },
    "it proposed what no engine may: a TermStarted": {
        "op": "propose",
        "proposal": 1,
        "data": encode(TermStarted(1, "x")).hex(),
    },
}


def test_an_engine_that_oversteps_is_replaced_and_its_daemon_goes_on(tmp_path: Path) -> None:
    with ToyCell(tmp_path, names="a") as cell:
        cell.settled()
        for why, message in OVERSTEPS.items():
            activations = len(cell.diary("a", "activate"))
            cell.order("a", op="say", message=message)
            within(20, lambda n=activations: len(cell.diary("a", "activate")) > n, every=0.02)
            assert why in cell.log("a")
        status = cell.status("a")
        assert status is not None
        assert [member["name"] for member in status["members"]] == ["a"]
        assert status["term"] < 2**31
        assert cell.daemons["a"].poll() is None
        assert "203.0.113.66" not in str(status)
