"""How often a network may show a token that is refused."""

from __future__ import annotations

from ha_scheduler.web.attempts import BURST, EVERY_S, NETWORKS_MAX, Attempts


def test_a_network_that_failed_too_often_waits_and_others_do_not() -> None:
    attempts = Attempts()
    for _ in range(BURST):
        assert attempts.wait_s("a", 100.0) == 0.0
        attempts.failed("a", 100.0)
    assert attempts.wait_s("a", 100.0) == EVERY_S
    assert attempts.wait_s("b", 100.0) == 0.0
    assert attempts.wait_s("a", 100.0 + EVERY_S) == 0.0
    attempts.failed("a", 100.0 + EVERY_S)
    assert attempts.wait_s("a", 100.0 + EVERY_S) == EVERY_S


def test_after_a_while_a_network_has_all_its_attempts_again() -> None:
    attempts = Attempts()
    for _ in range(BURST):
        attempts.failed("a", 0.0)
    for _ in range(BURST):
        assert attempts.wait_s("a", BURST * EVERY_S) == 0.0
        attempts.failed("a", BURST * EVERY_S)
    assert attempts.wait_s("a", BURST * EVERY_S) > 0


def test_no_more_networks_are_remembered_than_the_limit() -> None:
    attempts = Attempts()
    for n in range(NETWORKS_MAX + 10):
        attempts.failed(str(n), 0.0)
    assert len(attempts._full_at) == NETWORKS_MAX
