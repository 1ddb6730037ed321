"""Events of topics are heard of once, in whatever order leaders tell of them."""

from __future__ import annotations

from client_replay.session.event_cursor import EVENTS_MAX, OVERLAP_S, EventCursor


def test_an_event_that_is_told_again_is_not_heard_again() -> None:
    heard = EventCursor()
    assert heard.is_new("t", 2.0)
    assert heard.is_new("t", 1.0), "one that committed later than its successor"
    assert not heard.is_new("t", 2.0)
    assert heard.is_new("other", 2.0)


def test_a_new_leader_is_asked_for_the_overlap_but_for_nothing_before_the_subscription() -> None:
    heard = EventCursor()
    assert heard.after("t") is None
    heard.subscribed("t", 1_000.0)
    assert heard.after("t") == 1_000.0
    assert heard.is_new("t", 1_010.0)
    assert heard.after("t") == 1_000.0
    assert heard.is_new("t", 2_000.0)
    assert heard.after("t") == 2_000.0 - OVERLAP_S


def test_nothing_is_asked_for_that_could_not_be_told_from_what_was_heard() -> None:
    heard = EventCursor()
    for number in range(EVENTS_MAX + 5):
        assert heard.is_new("t", float(number) / 1000)
    assert heard.after("t") == 5 / 1000
