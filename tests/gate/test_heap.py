"""When the memory of a crowd is given back."""

from __future__ import annotations

from collections.abc import Callable

from ha_scheduler.gate.heap import CROWD_MIN, Heap


class Port:
    """Connections come and go; ``pass_time`` lets what is due happen."""

    def __init__(self) -> None:
        self.trimmed: list[int] = []
        self.now = 0
        self._due: list[Callable[[], None]] = []
        self.heap = Heap(
            lambda _, due: self._due.append(due), lambda: self.trimmed.append(self.now)
        )

    def hold(self, *counts: int) -> None:
        for self.now in counts:
            self.heap.held(self.now)

    def pass_time(self) -> None:
        due, self._due = self._due, []
        for call in due:
            call()


def test_the_heap_is_trimmed_once_a_crowd_has_gone() -> None:
    port = Port()
    port.hold(*range(8192), *range(8192, -1, -1))
    assert port.trimmed == []
    port.pass_time()
    port.pass_time()
    assert port.trimmed == [0]


def test_a_crowd_that_goes_slowly_costs_a_few_trims() -> None:
    port = Port()
    for count in (8192, *range(8191, -1, -1)):
        port.hold(count)
        port.pass_time()
    assert port.trimmed == [4096, 2048, 1024, 512, 256, 128, 64]


def test_few_connections_that_come_and_go_are_no_crowd() -> None:
    port = Port()
    for _ in range(50):
        port.hold(CROWD_MIN - 1, 0)
        port.pass_time()
    assert port.trimmed == []


def test_a_crowd_that_stays_is_not_trimmed() -> None:
    port = Port()
    for _ in range(50):
        port.hold(CROWD_MIN * 4, CROWD_MIN * 3)
        port.pass_time()
    assert port.trimmed == []


def test_the_next_crowd_is_trimmed_as_the_first() -> None:
    port = Port()
    for _ in range(3):
        port.hold(CROWD_MIN * 4, 0)
        port.pass_time()
    assert port.trimmed == [0, 0, 0]
