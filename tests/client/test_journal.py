"""The journal: what it keeps, in which order, until when, and how much of it."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from client_replay.journal.journal import Journal, JournalFull


def graph(*keys: str) -> dict[str, Any]:
    return {"op": "update-graph", "keys": set(keys)}


def cancellation(*keys: str) -> dict[str, Any]:
    return {"op": "cancel-keys", "keys": list(keys)}


def test_numbers_start_at_one_and_are_on_the_message() -> None:
    journal = Journal()
    first, second = graph("x"), graph("y")
    assert (journal.append(first, 10), journal.append(second, 5)) == (1, 2)
    assert (first["ha_sequence"], second["ha_sequence"]) == (1, 2)
    assert (len(journal), journal.nbytes, journal.last) == (2, 15, 2)


def test_pending_is_what_is_not_committed_in_the_order_of_submission() -> None:
    journal = Journal()
    for key in "abcd":
        journal.append(graph(key), 1)
    journal.committed([3, 1, 1, 99])
    assert [entry.sequence for entry in journal.pending()] == [2, 4]
    assert journal.nbytes == 2
    assert journal.get(3) is None


@pytest.mark.parametrize(
    ("committed", "floor"), [([], 0), ([1], 1), ([2], 0), ([1, 2], 2), ([1, 2, 3], 3), ([3, 1], 1)]
)
def test_the_floor_is_below_the_first_that_is_open(committed: list[int], floor: int) -> None:
    journal = Journal()
    for key in "abc":
        journal.append(graph(key), 1)
    journal.committed(committed)
    assert journal.floor == floor


def test_a_committed_graph_is_not_held_on_to() -> None:
    class Large(dict[str, Any]):
        """A dict to which a weak reference can be made."""

    import gc
    import weakref

    journal = Journal()
    message = Large(graph("x"))
    gone = weakref.ref(message)
    journal.append(message, 1)
    del message
    journal.committed([1])
    gc.collect()
    assert gone() is None


def test_bytes_are_limited_and_the_error_says_what_to_do() -> None:
    journal = Journal(bytes_max=10)
    journal.append(graph("x"), 6)
    with pytest.raises(JournalFull, match="smaller graphs"):
        journal.append(graph("y"), 5)
    assert journal.last == 1
    journal.committed([1])
    assert journal.append(graph("y"), 5) == 2


def test_entries_are_limited() -> None:
    journal = Journal(entries_max=1)
    journal.append(graph("x"), 1)
    with pytest.raises(JournalFull, match=r"client\.map"):
        journal.append(graph("y"), 1)


def test_a_cancellation_keeps_its_place_among_the_graphs() -> None:
    journal = Journal()
    for message in (graph("x"), cancellation("x"), graph("x")):
        journal.append(message, 1)
    journal.committed([1])
    assert [entry.message["op"] for entry in journal.pending()] == ["cancel-keys", "update-graph"]
    assert [entry.sequence for entry in journal.pending()] == [2, 3]


def test_forgetting_uses_no_number_again() -> None:
    journal = Journal()
    journal.append(graph("x"), 1)
    journal.forget()
    assert (len(journal), journal.nbytes, journal.floor) == (0, 0, 1)
    assert journal.append(graph("y"), 1) == 2


def test_the_keys_of_graphs_after_a_number_are_known() -> None:
    journal = Journal()
    journal.append(graph("x"), 1)
    journal.append(graph("y", "z"), 1)
    journal.append(cancellation("x"), 1)
    assert journal.submitted_after(1) == {"y", "z"}
    assert journal.submitted_after(0) == {"x", "y", "z"}
    journal.committed([2])
    assert journal.submitted_after(1) == set()


def test_many_threads_get_each_number_once() -> None:
    journal = Journal()
    got: list[int] = []

    def submit() -> None:
        got.extend(journal.append(graph("x"), 1) for _ in range(200))

    threads = [threading.Thread(target=submit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == list(range(1, 1601))
    assert [entry.sequence for entry in journal.pending()] == sorted(got)
