"""Cookies in place of tokens."""

from __future__ import annotations

from math import inf

import pytest

from ha_scheduler.security.identity import Identity, Scopes, TokenRole
from ha_scheduler.web import sessions as module
from ha_scheduler.web.sessions import SESSION_S, Sessions

ALICE = Identity("alice", TokenRole.CLIENT, Scopes(key_prefix="a-"), "0" * 32, 2e9)


class Clock:
    now = 1e9

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_cookie_says_who_logged_in_until_the_session_is_over(clock: Clock) -> None:
    sessions = Sessions("c", clock)
    cookie, expires = sessions.begin(ALICE)
    assert expires == clock.now + SESSION_S
    found = sessions.read(cookie)
    assert found == Identity("alice", TokenRole.CLIENT, Scopes(key_prefix="a-"), "0" * 32, expires)
    clock.now += SESSION_S - 1
    assert sessions.read(cookie) is not None
    clock.now += 1
    assert sessions.read(cookie) is None


def test_a_session_ends_with_its_token(clock: Clock) -> None:
    sessions = Sessions("c", clock)
    cookie, expires = sessions.begin(Identity("bob", TokenRole.OBSERVER, expires=clock.now + 60))
    assert expires == clock.now + 60
    clock.now += 60
    assert sessions.read(cookie) is None


def test_a_token_without_an_end_gives_a_session_with_one(clock: Clock) -> None:
    _, expires = Sessions("c", clock).begin(Identity("x", TokenRole.ADMIN, expires=inf))
    assert expires == clock.now + SESSION_S


def test_a_cookie_of_another_process_or_another_name_or_changed_is_nobodys(clock: Clock) -> None:
    sessions = Sessions("c", clock)
    cookie, _ = sessions.begin(ALICE)
    assert Sessions("c", clock).read(cookie) is None
    renamed = Sessions("d", clock)
    renamed._key = sessions._key
    assert renamed.read(cookie) is None
    for n in range(len(cookie)):
        other = "A" if cookie[n] != "A" else "B"
        assert sessions.read(cookie[:n] + other + cookie[n + 1 :]) is None
    for garbage in ("", "x", "2|", "|" * 50, "2|1:0|" + "9" * 3000, "é"):
        assert sessions.read(garbage) is None


def test_a_logout_ends_the_session_wherever_its_cookie_was_copied_to(clock: Clock) -> None:
    sessions = Sessions("c", clock)
    cookie, _ = sessions.begin(ALICE)
    other, _ = sessions.begin(ALICE)
    sessions.end(cookie)
    assert sessions.read(cookie) is None
    assert sessions.read(other) is not None
    sessions.end("garbage")


def test_more_logouts_than_are_remembered_end_all_sessions(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ENDED_MAX", 3)
    sessions = Sessions("c", clock)
    stays, _ = sessions.begin(ALICE)
    ended = [sessions.begin(ALICE)[0] for _ in range(4)]
    for cookie in ended[:3]:
        sessions.end(cookie)
    assert sessions.read(stays) is not None
    sessions.end(ended[3])
    assert [sessions.read(cookie) for cookie in [stays, *ended]] == [None] * 5
