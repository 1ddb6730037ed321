"""Engines that end again and again are told of once a minute, and a planned end is none."""

from __future__ import annotations

import logging
import time
from types import SimpleNamespace

import pytest

from ha_scheduler.peer.engine import failing
from ha_scheduler.peer.engine.failing import IN_A_ROW, Failing


def told(caplog: pytest.LogCaptureFixture) -> int:
    return sum(getattr(r, "action", "") == "engine_failing" for r in caplog.records)


def test_what_ends_again_and_again_is_told_of_once_a_minute(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.ERROR)
    engines, now = Failing(), time.monotonic()
    for _ in range(IN_A_ROW - 1):
        engines.ended(now, "status 1")
    assert (engines.why, told(caplog)) == ("", 0), "a crash or two may be a client's"
    for _ in range(5):
        engines.ended(now, "status 1")
    assert (engines.why, told(caplog)) == ("status 1", 1)
    monkeypatch.setattr(failing, "TELL_EVERY_S", 0.0)
    engines.ended(now, "status 2")
    assert told(caplog) == 2


def test_one_that_lived_ends_the_row() -> None:
    engines = Failing()
    for _ in range(IN_A_ROW):
        engines.ended(time.monotonic(), "status 1")
    engines.ended(time.monotonic() - failing.HEALTHY_AFTER_S - 1, "signal 9")
    assert engines.why == ""


def test_an_engine_that_lives_ends_the_row_before_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    engines, now = Failing(), time.monotonic()
    for _ in range(IN_A_ROW):
        engines.ended(now, "status 1")
    monkeypatch.setattr(failing, "time", SimpleNamespace(monotonic=lambda: later))
    later = now + failing.OVER_AFTER_S - 1
    assert engines.why == "status 1", "the next one may not have begun"
    later = now + failing.OVER_AFTER_S + 1
    assert engines.why == ""
