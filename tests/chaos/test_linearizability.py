"""The search for an order finds one where there is one, and none where there is none."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos.checkers.linearizability.checker import judge_object, never_got, without_unseen
from chaos.checkers.linearizability.models import Fifo, Leases, Mutex, Register
from chaos.checkers.linearizability.search import Call, Model, explain

NEVER = math.inf


def write(start: float, end: float, value: Any) -> Call:
    return Call("set", value, None, start, end)


def read(start: float, end: float, value: Any) -> Call:
    return Call("get", None, value, start, end)


def put(start: float, end: float, value: Any) -> Call:
    return Call("put", value, None, start, end)


def get(start: float, end: float, value: Any = None) -> Call:
    return Call("get", None, value, start, end)


def take(start: float, end: float, who: str) -> Call:
    return Call("acquire", who, True, start, end)


def give(start: float, end: float, who: str) -> Call:
    return Call("release", who, None, start, end)


@pytest.mark.parametrize(
    "history",
    [
        [],
        [read(0, 1, 0)],
        [write(0, 1, 1), read(2, 3, 1)],
        [write(0, 5, 1), read(1, 2, 0), read(3, 4, 1)],
        [write(0, 5, 1), write(0, 5, 2), read(6, 7, 1), read(8, 9, 1)],
        [write(0, NEVER, 1), read(2, 3, 0), read(4, 5, 1)],  # it happened late
        [write(0, NEVER, 1), read(2, 3, 0), read(8, 9, 0)],  # it never happened
        [read(0, NEVER, 7)],  # nobody knows what was read
    ],
)
def test_what_a_register_does_is_found_possible(history: list[Call]) -> None:
    assert explain(Register(0), history).outcome == "linearizable"


@pytest.mark.parametrize(
    "history",
    [
        [write(0, 1, 1), read(2, 3, 0)],  # a write that was answered is gone
        [write(0, 5, 1), read(1, 2, 1), read(3, 4, 0)],  # what was read is taken back
        [write(0, 5, 1), write(0, 5, 2), read(6, 7, 1), read(8, 9, 2)],  # a write was done late
        [read(0, 1, 7)],  # nobody wrote it
        [write(0, 1, 1), write(2, 3, 2), read(4, 5, 1)],  # a write was done twice
        [write(0, NEVER, 1), read(2, 3, 1), read(4, 5, 0)],  # what happened late is taken back
    ],
)
def test_what_a_register_cannot_do_is_found_impossible(history: list[Call]) -> None:
    assert explain(Register(0), history).outcome == "impossible"


@pytest.mark.parametrize(
    "history",
    [
        [put(0, 1, 1), put(2, 3, 2), get(4, 5, 1), get(6, 7, 2)],
        [get(0, 5, 1), put(1, 2, 1)],  # it waited
        [put(0, 5, 1), put(0, 5, 2), get(6, 7, 2), get(6, 7, 1)],
        [put(0, NEVER, 1), get(2, 3, 1)],
        [put(0, 1, 1), get(2, NEVER), put(3, 4, 2), get(5, 6, 2)],  # the open one got the first
        [put(0, 1, 1), put(2, 3, 2), put(3, 9, 3), get(4, 5, 1)],  # the third waited for room
    ],
)
def test_what_a_queue_of_two_does_is_found_possible(history: list[Call]) -> None:
    assert explain(Fifo(2), history).outcome == "linearizable"


@pytest.mark.parametrize(
    "history",
    [
        [put(0, 1, 1), put(2, 3, 2), get(4, 5, 2)],  # out of order, or the first is lost
        [put(0, 1, 1), get(2, 3, 1), get(4, 5, 1)],  # got twice
        [get(0, 1, 1), put(2, 3, 1)],  # got before it was put
        [put(0, 1, 1), put(2, 3, 2), put(4, 5, 3), get(6, 7, 1)],  # there was no room
    ],
)
def test_what_a_queue_of_two_cannot_do_is_found_impossible(history: list[Call]) -> None:
    assert explain(Fifo(2), history).outcome == "impossible"


@pytest.mark.parametrize(
    ("model", "history", "possible"),
    [
        (Mutex(), [take(0, 1, "a"), give(2, 3, "a"), take(0, 4, "b")], True),
        (Mutex(), [take(0, 1, "a"), take(2, 3, "b"), give(4, 5, "a")], False),
        (Mutex(), [take(0, 1, "a"), give(2, NEVER, "a"), take(3, 9, "b")], True),
        (Mutex(), [take(0, NEVER, "a"), take(1, 2, "b"), give(3, 4, "b")], True),
        (Leases(2), [take(0, 1, "a"), take(0, 1, "b"), give(2, 3, "a"), take(2, 4, "c")], True),
        (Leases(2), [take(0, 1, "a"), take(0, 1, "b"), take(2, 4, "c"), give(5, 6, "a")], False),
    ],
)
def test_who_holds_what_at_once(model: Model, history: list[Call], possible: bool) -> None:
    assert (explain(model, history).outcome == "linearizable") == possible


def by_all_orders(model: Model, history: Sequence[Call]) -> bool:
    """The definition, taken at its word: every subset of the open calls in every order."""
    known = [call for call in history if call.known]
    unknown = [call for call in history if not call.known]
    for count in range(len(unknown) + 1):
        for some in itertools.combinations(unknown, count):
            for order in itertools.permutations([*known, *some]):
                if any(b.end < a.start for a, b in itertools.combinations(order, 2)):
                    continue
                states = {model.initial}
                for call in order:
                    states = {after for state in states for after in model.after(state, call)}
                if states:
                    return True
    return False


_MOMENTS = st.tuples(st.integers(0, 9), st.sampled_from([1, 3, 6, NEVER]))
_REGISTER_CALLS = st.builds(
    lambda f, value, moment: Call(f, value, value, moment[0], moment[0] + moment[1]),
    st.sampled_from(["set", "get"]),
    st.integers(0, 2),
    _MOMENTS,
)
_QUEUE_CALLS = st.builds(
    lambda f, value, moment: Call(f, value, value, moment[0], moment[0] + moment[1]),
    st.sampled_from(["put", "get"]),
    st.integers(0, 2),
    _MOMENTS,
)


@given(st.lists(_REGISTER_CALLS, max_size=5))
def test_the_search_agrees_with_the_definition_of_a_register(history: list[Call]) -> None:
    assert (explain(Register(0), history).outcome == "linearizable") == by_all_orders(
        Register(0), history
    )


@given(st.lists(_QUEUE_CALLS, max_size=5))
def test_the_search_agrees_with_the_definition_of_a_queue(history: list[Call]) -> None:
    assert (explain(Fifo(2), history).outcome == "linearizable") == by_all_orders(Fifo(2), history)


def register_history(seed: int, count: int) -> list[Call]:
    """What a true register answered to several clients: each call takes effect within it."""
    random, value, now, calls = Random(seed), 0, 0.0, []
    for number in range(count):
        now += random.uniform(0, 1)
        start, end = now - random.uniform(0, 3), now + random.uniform(0, 3)
        if random.random() < 0.4:
            value = number
            calls.append(write(start, end, value))
        else:
            calls.append(read(start, end, value))
    return calls


def test_a_thousand_calls_are_explained_soon() -> None:
    assert explain(Register(0), register_history(7, 1000), 200_000).outcome == "linearizable"


def test_one_answer_changed_among_a_thousand_is_found_and_named() -> None:
    calls = register_history(7, 1000)
    wrong = next(n for n, call in enumerate(calls) if n > 500 and call.f == "get")
    calls[wrong] = read(calls[wrong].start, calls[wrong].end, "nobody wrote this")
    found = explain(Register(0), calls)
    assert found.outcome == "impossible"
    assert found.stuck_at == calls[wrong]


def test_open_writes_that_nobody_read_do_not_slow_the_search_down() -> None:
    calls = register_history(7, 300)
    calls += [write(call.start, NEVER, f"open {n}") for n, call in enumerate(calls[::5])]
    assert len(without_unseen(calls)) == 300
    calls += [read(calls[-1].start + 9, calls[-1].start + 10, "open 3")]
    assert len(without_unseen(calls)) == 302
    assert explain(Register(0), without_unseen(calls)).outcome == "linearizable"


def test_a_search_that_gives_up_does_not_say_that_it_found_nothing() -> None:
    assert explain(Register(0), register_history(7, 100), 20).outcome == "unknown"


def test_a_finding_names_the_call_that_cannot_be() -> None:
    finding = judge_object("variable:v", [write(0, 1, 1), read(2, 3, 0)])
    assert finding is not None
    assert finding.verdict == "violation"
    assert "variable:v" in finding.text
    assert "get(None) = 0" in finding.text


def test_what_nobody_got_in_the_end_is_lost() -> None:
    history = {"queue:q": [put(0, 1, "x"), put(2, 3, "y"), get(4, 5, "x")]}
    assert list(never_got(history)) == ["queue:q: ['y'] were put and nobody got them"]
    history["queue:q"].append(get(6, NEVER))
    assert not list(never_got(history))
