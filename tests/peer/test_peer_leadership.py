"""What a peer decides when leadership or its engine comes or goes."""

from __future__ import annotations

import pytest

from ha_scheduler.peer.consensus.leadership import (
    EXPLAIN_S,
    READY_WAIT_S,
    TRANSFER_PATIENCE_S,
    ActivateEngine,
    Effect,
    EngineState,
    KillEngine,
    Leadership,
    OpenTerm,
    Other,
    RevokeLease,
    StepDown,
    Transfer,
)

READY_TWO = {2: Other(True, 10, 100.0), 3: Other(False, 12, 100.0)}
NOBODY = {2: Other(False, 10, 100.0), 3: Other(False, 12, 100.0)}


@pytest.fixture
def ready() -> Leadership:
    peer = Leadership()
    peer.engine_started()
    peer.engine_ready()
    return peer


def lead(peer: Leadership, term: int = 1, now: float = 100.0) -> list[Effect]:
    effects = peer.role_changed(now, True, term)
    return effects + peer.term_opened(term, 7)


def test_an_engine_is_activated_after_the_term_is_open(ready: Leadership) -> None:
    assert ready.role_changed(100.0, True, 1) == [OpenTerm(1)]
    assert ready.tick(100.1, NOBODY, False) == []
    assert ready.term_opened(1, 7) == [ActivateEngine(1, 7)]
    assert ready.engine is EngineState.ACTIVE
    assert ready.term_opened(1, 7) == [], "once"


def test_term_started_of_another_term_opens_nothing(ready: Leadership) -> None:
    ready.role_changed(100.0, True, 2)
    assert ready.term_opened(1, 7) == []


def test_a_leader_waits_for_its_engine_and_activates_it_when_ready() -> None:
    peer = Leadership()
    peer.engine_started()
    assert lead(peer) == [OpenTerm(1)]
    assert peer.tick(100.0 + READY_WAIT_S / 2, READY_TWO, False) == []
    assert peer.engine_ready() == [ActivateEngine(1, 7)]


def test_a_leader_whose_engine_is_not_ready_in_time_hands_over() -> None:
    peer = Leadership()
    peer.engine_started()
    lead(peer)
    assert peer.tick(101.1, NOBODY, False) == [], "there is nobody: stay and wait"
    assert peer.tick(101.1, READY_TWO, False) == [Transfer(2)]
    assert peer.tick(101.2, READY_TWO, False) == [], "it is under way"


def test_the_most_up_to_date_ready_peer_is_the_heir(ready: Leadership) -> None:
    fresh = {n: Other(True, applied, 100.0) for n, applied in ((2, 5), (3, 9), (4, 9))}
    assert ready.heir(100.0, fresh) == 3
    assert ready.heir(110.0, fresh) is None, "what was said ten seconds ago says nothing"


def test_the_heir_is_whose_engine_has_replayed_the_most(ready: Leadership) -> None:
    others = {2: Other(True, 9, 100.0, 9), 3: Other(True, 12, 100.0, 4)}
    assert ready.heir(100.0, others) == 2


def test_while_no_engine_is_ready_the_nearest_is_known(ready: Leadership) -> None:
    others = {2: Other(False, 9, 100.0, 3), 3: Other(False, 9, 100.0, 7)}
    assert ready.heir(100.0, others) is None
    assert ready.nearest(100.0, others) == 3
    assert ready.nearest(110.0, others) is None
    others[2] = Other(True, 9, 100.0, 3)
    assert ready.nearest(100.0, others) == 2


def test_an_engine_that_dies_while_leading_revokes_the_lease_and_hands_over(
    ready: Leadership,
) -> None:
    lead(ready)
    assert ready.engine_exited(100.5, READY_TWO) == [RevokeLease(), Transfer(2)]


def test_what_an_engine_died_of_is_in_the_log_before_another_leads(ready: Leadership) -> None:
    lead(ready)
    assert ready.engine_exited(100.5, READY_TWO, explained=False) == [RevokeLease()]
    assert ready.tick(100.6, READY_TWO, False) == [], "it is about to be known"
    assert ready.exit_explained(100.7, READY_TWO) == [Transfer(2)]
    assert ready.exit_explained(100.8, READY_TWO) == [], "once"


def test_an_end_that_cannot_be_explained_in_time_holds_nobody_up(ready: Leadership) -> None:
    lead(ready)
    ready.engine_exited(100.5, READY_TWO, explained=False)
    assert ready.tick(100.5 + EXPLAIN_S, READY_TWO, False) == [Transfer(2)]


def test_a_follower_explains_without_an_effect(ready: Leadership) -> None:
    assert ready.engine_exited(100.5, READY_TWO, explained=False) == []
    assert ready.exit_explained(100.6, READY_TWO) == []


def test_a_second_engine_of_one_term_needs_a_new_term(ready: Leadership) -> None:
    lead(ready)
    assert ready.engine_exited(100.5, NOBODY) == [RevokeLease()]
    ready.engine_started()
    assert ready.tick(101.0, NOBODY, False) == []
    (step_down,) = ready.engine_ready()
    assert isinstance(step_down, StepDown)
    assert ready.role_changed(102.0, False, 1) == [RevokeLease()], "a fresh engine is no danger"
    assert lead(ready, term=2, now=103.0) == [OpenTerm(2), ActivateEngine(2, 7)]


def test_an_engine_that_died_before_its_activation_costs_no_term(ready: Leadership) -> None:
    ready.role_changed(100.0, True, 1)
    ready.engine_exited(100.1, NOBODY)
    ready.term_opened(1, 7)
    ready.engine_started()
    assert ready.engine_ready() == [ActivateEngine(1, 7)]


def test_an_active_engine_that_lost_leadership_is_killed(ready: Leadership) -> None:
    lead(ready)
    revoke, kill = ready.role_changed(101.0, False, 2)
    assert isinstance(revoke, RevokeLease)
    assert isinstance(kill, KillEngine)
    assert ready.engine_exited(101.0, READY_TWO) == []
    assert not ready.electable


def test_a_ready_follower_keeps_its_engine_through_changes_of_leader(ready: Leadership) -> None:
    assert ready.role_changed(101.0, False, 2) == []
    assert ready.role_changed(102.0, False, 3) == []
    assert ready.electable


def test_a_transfer_that_fails_before_the_target_was_told_changes_nothing(
    ready: Leadership,
) -> None:
    lead(ready)
    assert ready.transfer_requested(100.0, READY_TWO, 2) == [Transfer(2)]
    assert ready.tick(100.0 + TRANSFER_PATIENCE_S, READY_TWO, False) == []
    assert ready.engine is EngineState.ACTIVE


def test_a_transfer_that_fails_after_the_target_was_told_ends_the_term(ready: Leadership) -> None:
    lead(ready)
    ready.transfer_requested(100.0, READY_TWO, None)
    (effect,) = ready.tick(100.0 + TRANSFER_PATIENCE_S, READY_TWO, True)
    assert isinstance(effect, StepDown)


def test_nobody_is_handed_leadership_whose_engine_is_not_ready(ready: Leadership) -> None:
    lead(ready)
    assert ready.transfer_requested(100.0, READY_TWO, 3) == []
    assert ready.transfer_requested(100.0, READY_TWO, 9) == []
