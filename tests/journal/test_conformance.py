"""The journal over each of its keepers: what it keeps, in which order, until when, how much."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from client_replay import JournalFull
from client_replay.journal.disk import DiskKeeper
from client_replay.journal.file import Identity
from client_replay.journal.journal import Journal

Make = Callable[..., Journal]


@pytest.fixture(params=["memory", "disk"])
def new(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """Makes a journal with the keeper of the parameter."""
    made: list[Journal] = []

    def make(**limits: int) -> Journal:
        keeper = None
        if request.param == "disk":
            path = tmp_path / f"{len(made)}.journal"
            keeper = DiskKeeper.create(path, Identity("session", "client"), 1 << 20)
        made.append(Journal(keeper, **limits))
        return made[-1]

    yield make
    for journal in made:
        journal.close()


def wait_until(condition: Callable[[], bool], within_s: float = 5.0) -> bool:
    deadline = time.monotonic() + within_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()


def graph(*keys: str) -> dict[str, Any]:
    return {"op": "update-graph", "keys": set(keys)}


def cancellation(*keys: str) -> dict[str, Any]:
    return {"op": "cancel-keys", "keys": list(keys)}


def test_numbers_start_at_one_and_are_on_the_message(new: Make) -> None:
    journal = new()
    first, second = graph("x"), graph("y")
    assert (journal.append(first, 10), journal.append(second, 5)) == (1, 2)
    assert (first["ha_sequence"], second["ha_sequence"]) == (1, 2)
    assert (len(journal), journal.nbytes, journal.last) == (2, 15, 2)


def test_pending_is_what_is_not_committed_in_the_order_of_submission(new: Make) -> None:
    journal = new()
    for key in "abcd":
        journal.append(graph(key), 1)
    journal.committed([3, 1, 1, 99])
    assert [entry.sequence for entry in journal.pending()] == [2, 4]
    assert journal.nbytes == 2
    assert journal.get(3) is None


@pytest.mark.parametrize(
    ("committed", "floor"), [([], 0), ([1], 1), ([2], 0), ([1, 2], 2), ([1, 2, 3], 3), ([3, 1], 1)]
)
def test_the_floor_is_below_the_first_that_is_open(
    new: Make, committed: list[int], floor: int
) -> None:
    journal = new()
    for key in "abc":
        journal.append(graph(key), 1)
    journal.committed(committed)
    assert journal.floor == floor


def test_a_committed_graph_is_not_held_on_to(new: Make) -> None:
    class Large(dict[str, Any]):
        """A dict to which a weak reference can be made."""

    import gc
    import weakref

    journal = new()
    message = Large(graph("x"))
    gone = weakref.ref(message)
    journal.append(message, 1)
    del message
    journal.committed([1])
    journal.wait_until_kept()
    assert wait_until(lambda: gc.collect() >= 0 and gone() is None)


def test_bytes_are_limited_and_the_error_says_what_to_do(new: Make) -> None:
    journal = new(bytes_max=10)
    journal.append(graph("x"), 6)
    with pytest.raises(JournalFull, match="smaller graphs"):
        journal.append(graph("y"), 5)
    assert journal.last == 1
    journal.committed([1])
    assert journal.append(graph("y"), 5) == 2


def test_entries_are_limited(new: Make) -> None:
    journal = new(entries_max=1)
    journal.append(graph("x"), 1)
    with pytest.raises(JournalFull, match=r"client\.map"):
        journal.append(graph("y"), 1)


def test_a_cancellation_keeps_its_place_among_the_graphs(new: Make) -> None:
    journal = new()
    for message in (graph("x"), cancellation("x"), graph("x")):
        journal.append(message, 1)
    journal.committed([1])
    assert [entry.message["op"] for entry in journal.pending()] == ["cancel-keys", "update-graph"]
    assert [entry.sequence for entry in journal.pending()] == [2, 3]


def test_forgetting_uses_no_number_again(new: Make) -> None:
    journal = new()
    journal.append(graph("x"), 1)
    journal.forget()
    assert (len(journal), journal.nbytes, journal.floor) == (0, 0, 1)
    assert journal.append(graph("y"), 1) == 2


def test_the_keys_of_graphs_after_a_number_are_known(new: Make) -> None:
    journal = new()
    journal.append(graph("x"), 1)
    journal.append(graph("y", "z"), 1)
    journal.append(cancellation("x"), 1)
    assert journal.submitted_after(1) == {"y", "z"}
    assert journal.submitted_after(0) == {"x", "y", "z"}
    journal.committed([2])
    assert journal.submitted_after(1) == set()


def test_many_threads_get_each_number_once(new: Make) -> None:
    journal = new()
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


def test_what_is_kept_may_be_sent_and_what_is_not_waits(new: Make) -> None:
    journal = new()
    told = threading.Event()
    journal.on_kept = told.set
    first = journal.append(graph("x"), 1)
    journal.wait_until_kept()
    assert journal.is_kept(first)
    assert [entry.sequence for entry in journal.up_to(journal.last_kept)] == [1]
    assert not journal.lasts or told.wait(5)


def test_a_full_journal_has_room_again_when_something_commits(new: Make) -> None:
    journal = new(bytes_max=10)
    journal.append(graph("x"), 6)
    assert not journal.wait_for_room(5, 0.01)
    waiting = threading.Thread(target=lambda: got.append(journal.wait_for_room(5, 10)))
    got: list[bool] = []
    waiting.start()
    journal.committed([1])
    waiting.join()
    assert got == [True]


def test_a_graph_that_never_fits_is_refused_whatever_commits(new: Make) -> None:
    journal = new(bytes_max=10)
    with pytest.raises(JournalFull, match=r"never fits.*journal-limit"):
        journal.append(graph("x"), 11)


def test_an_end_that_is_said_twice_is_one(new: Make) -> None:
    journal = new()
    journal.append(graph("x"), 1)
    journal.close()
    journal.close()
    journal.leave()
