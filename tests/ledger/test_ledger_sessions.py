"""Goal: an answered request stays answered, in little space. Method: a set of numbers as model."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ha_scheduler.ledger.sessions import RANGES_MAX, Answers, Sessions

_steps = st.lists(st.tuples(st.booleans(), st.integers(1, 30)), max_size=60)


@given(_steps)
def test_answers_are_those_of_a_set_of_numbers(steps: list[tuple[bool, int]]) -> None:
    answers, numbers = Answers(), set[int]()
    for is_floor, number in steps:
        answers = answers.advance(number) if is_floor else answers.record(number)
        numbers |= set(range(1, number + 1)) if is_floor else {number}
    assert {n for n in range(32) if answers.answered(n)} == numbers
    assert list(answers.bounds) == sorted(answers.bounds)
    assert all(b - a > 1 for a, b in zip(answers.bounds[1::2], answers.bounds[2::2], strict=False))


@given(st.permutations(list(range(1, 15))))
def test_answers_to_everything_are_a_floor_alone(order: list[int]) -> None:
    answers = Answers()
    for number in order:
        answers = answers.record(number)
    assert answers == Answers(14)


def test_the_lowest_of_too_many_holes_is_closed() -> None:
    answers = Answers()
    for n in range(RANGES_MAX):
        answers = answers.record(3 + 2 * n)
    beyond = 3 + 2 * RANGES_MAX
    answers = answers.record(beyond)
    assert answers.answered(beyond)
    assert len(answers.bounds) <= 2 * RANGES_MAX
    assert not answers.answered(4)


def test_a_request_without_a_number_is_never_answered() -> None:
    sessions = Sessions()
    sessions.record("s", 0)
    sessions.advance("s", 5)
    assert not sessions.answered("s", 0)
