"""How many workers each owner should have: the policy alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ha_scheduler.engine.scaling.policy import (
    WORKERS_MAX,
    Goal,
    Owned,
    Policy,
    Signal,
    ends_soon,
    shares,
    signal,
)


def share(
    goals: dict[str, Goal], owned: dict[str, Owned], needed: int, unowned: int = 0
) -> dict[str, int]:
    return shares(goals, owned, dict.fromkeys(goals, needed), unowned)


NOTHING = Owned(0, 0)


def test_what_the_cell_needs_is_asked_for_once() -> None:
    goals = {"a": Goal(maximum=4), "b": Goal(maximum=10)}
    assert share(goals, {"a": NOTHING, "b": NOTHING}, needed=6) == {"a": 4, "b": 2}


def test_who_has_workers_keeps_them_before_another_is_asked() -> None:
    goals = {"a": Goal(), "b": Goal()}
    assert share(goals, {"a": NOTHING, "b": Owned(5, 0)}, needed=5) == {"a": 0, "b": 5}


def test_workers_of_nobody_count() -> None:
    assert share({"a": Goal()}, {"a": NOTHING}, needed=5, unowned=3) == {"a": 2}


def test_bounds_hold_whatever_is_needed() -> None:
    assert share({"a": Goal(minimum=2, maximum=3)}, {"a": NOTHING}, needed=0) == {"a": 2}
    assert share({"a": Goal(minimum=2, maximum=3)}, {"a": NOTHING}, needed=9) == {"a": 3}


def test_a_fixed_policy_wants_its_minimum() -> None:
    goal = Goal(Policy.FIXED, minimum=3)
    assert share({"a": goal}, {"a": Owned(7, 0)}, needed=9) == {"a": 3}


def test_others_are_not_kept_waiting_for_an_owner_that_is_away() -> None:
    goals = {"a": Goal(minimum=2), "b": Goal()}
    wanted = share(goals, {"a": Owned(1, 0, present=False), "b": NOTHING}, needed=5)
    assert wanted == {"a": 2, "b": 4}


def test_a_worker_that_ends_soon_has_another_come_in_its_place() -> None:
    (wanted,) = share({"a": Goal()}, {"a": Owned(1, 1)}, needed=2).values()
    assert wanted == 2
    assert signal(wanted, Owned(1, 1)) is Signal.DURESS


def test_signals() -> None:
    assert signal(2, Owned(1, 0)) is Signal.DURESS
    assert signal(2, Owned(3, 0)) is Signal.IDLING
    assert signal(2, Owned(2, 1)) is Signal.CONTENT


def test_a_short_lived_worker_is_not_replaced_as_it_comes() -> None:
    assert ends_soon(left_s=59, lifetime_s=3600, replace_before_s=60)
    assert not ends_soon(left_s=30, lifetime_s=30, replace_before_s=60)
    assert ends_soon(left_s=9, lifetime_s=30, replace_before_s=60)


@pytest.mark.parametrize(
    "bounds", [(-1, 3), (3, 2), (0, WORKERS_MAX + 1), (WORKERS_MAX + 1, WORKERS_MAX + 1)]
)
def test_bounds_that_make_no_sense_are_refused(bounds: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="in order"):
        Goal(Policy.LOAD, *bounds)


@pytest.mark.parametrize("duration", [0.0, -1.0, float("nan"), float("inf")])
def test_a_target_duration_is_a_time(duration: float) -> None:
    with pytest.raises(ValueError, match="target duration"):
        Goal(target_duration_s=duration)


small = st.integers(0, 12)
goals = st.builds(
    lambda policy, low, more: Goal(policy, low, low + more), st.sampled_from(Policy), small, small
)
owned = st.builds(Owned, small, small, st.booleans())


@given(st.dictionaries(st.sampled_from("abcd"), st.tuples(goals, owned)), small, small)
def test_no_share_is_out_of_bounds_and_no_more_than_needed_is_given(
    owners: dict[str, tuple[Goal, Owned]], needed: int, unowned: int
) -> None:
    of = {name: goal for name, (goal, _) in owners.items()}
    wanted = share(of, {name: has for name, (_, has) in owners.items()}, needed, unowned)
    assert wanted.keys() == of.keys()
    for name, goal in of.items():
        assert goal.minimum <= wanted[name] <= goal.maximum
    beyond = sum(wanted[name] - goal.minimum for name, goal in of.items())
    assert beyond <= max(0, needed - unowned)
