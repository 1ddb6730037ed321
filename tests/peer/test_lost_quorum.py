"""A peer that has no leader says so, and why it reaches nobody."""

from __future__ import annotations

import ssl
from pathlib import Path

from ha_scheduler.peer.network.lost_quorum import PATIENCE_S, REPEAT_S, LostQuorum, in_words
from tests.peer.toy_cell import ToyCell, within

REFUSED = {"b": "connection refused", "c": "no answer in time"}


def test_it_warns_after_some_elections_and_then_now_and_again() -> None:
    lost = LostQuorum(now=0.0)
    told = [(at, said) for at in range(200) if (said := lost.tick(at, None, 3, REFUSED))]
    assert [at for at, _ in told] == [
        PATIENCE_S,
        PATIENCE_S + REPEAT_S,
        PATIENCE_S + 2 * REPEAT_S,
        PATIENCE_S + 3 * REPEAT_S,
    ]
    assert told[0][1] == (
        "nobody leads since 10 s: 2 of 3 peers must reach one another, and not reached are: "
        "b: connection refused; c: no answer in time"
    )


def test_an_election_is_no_loss_and_a_new_loss_is_counted_from_its_begin() -> None:
    lost = LostQuorum(now=0.0)
    assert lost.tick(9.0, "a", 3, {}) is None
    assert lost.tick(20.0, None, 3, REFUSED) is None
    assert lost.tick(29.0, None, 3, REFUSED) is None
    assert "since 10 s" in (lost.tick(30.0, None, 3, REFUSED) or "")
    assert lost.tick(31.0, "b", 3, {}) is None
    assert lost.tick(32.0, None, 3, REFUSED) is None


def test_a_reason_of_another_peer_fills_no_log() -> None:
    said = LostQuorum(now=0.0).tick(60.0, None, 3, {"b": "x" * 10_000})
    assert said is not None
    assert len(said) < 400


def test_each_kind_of_failure_is_named_with_where_to_look() -> None:
    assert "its daemon runs" in in_words(ConnectionRefusedError(111, "Connection refused"))
    assert "the way to it" in in_words(TimeoutError())
    unknown = ssl.SSLError(1, "[SSL: TLSV1_ALERT_UNKNOWN_CA] tlsv1 alert unknown ca")
    unknown.reason = "TLSV1_ALERT_UNKNOWN_CA"
    assert "of one authority" in in_words(unknown)
    assert in_words(OSError(113, "No route to host")) == "No route to host"
    assert in_words(OSError()) == "OSError"


def test_a_daemon_that_is_alone_warns_and_names_the_others(tmp_path: Path) -> None:
    cell = ToyCell(tmp_path)
    try:
        cell.start("a")
        log = within(
            PATIENCE_S + 20, lambda: said if "nobody leads since" in (said := cell.log("a")) else ""
        )
        assert "b: connection refused" in log
        assert "c: connection refused" in log
    finally:
        cell.__exit__(None, None, None)
