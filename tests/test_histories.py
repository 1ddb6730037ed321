"""The checker of histories finds what a register cannot have done."""

from __future__ import annotations

import pytest

from tests.histories import Operation, is_that_of_a_register


def write(start: float, end: float, value: int) -> Operation:
    return Operation(start, end, True, value)


def read(start: float, end: float, value: int) -> Operation:
    return Operation(start, end, False, value)


@pytest.mark.parametrize(
    "history",
    [
        [],
        [read(0, 1, 0)],
        [write(0, 1, 1), read(2, 3, 1)],
        [write(0, 5, 1), read(1, 2, 0), read(3, 4, 1)],
        [write(0, 5, 1), write(0, 5, 2), read(6, 7, 1), read(8, 9, 1)],
    ],
)
def test_what_a_register_does_is_found_possible(history: list[Operation]) -> None:
    assert is_that_of_a_register(history, 0)


@pytest.mark.parametrize(
    "history",
    [
        [write(0, 1, 1), read(2, 3, 0)],  # a write that was answered is gone
        [write(0, 5, 1), read(1, 2, 1), read(3, 4, 0)],  # what was read is taken back
        [write(0, 5, 1), write(0, 5, 2), read(6, 7, 1), read(8, 9, 2)],  # a write was done late
        [read(0, 1, 7)],  # nobody wrote it
        [write(0, 1, 1), write(2, 3, 2), read(4, 5, 1)],  # a write was done twice
    ],
)
def test_what_it_cannot_do_is_found_impossible(history: list[Operation]) -> None:
    assert not is_that_of_a_register(history, 0)
