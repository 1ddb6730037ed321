"""Threads that coordinate while leaders fall, and what must be true of all that they saw.

An item is got once, and of each producer in the order in which it was put. One thread at a time
holds the lock. The variable reads as one register: the history is linearizable (``histories.py``).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from itertools import chain, count, pairwise
from random import Random

from distributed import Lock, Queue, Variable

from tests.histories import History, is_that_of_a_register
from tests.system.conftest import DEADLINE_S, wait_until

N_PRODUCERS = 2
N_ONWARD = 5  # times that the lock must be taken after a blow, until the next one may fall
PAUSE_S_MAX = 0.3  # between two calls of a thread; the search for an order costs a square of them


class Crowd:
    """Producers, consumers, writers, readers and holders of a lock, all by the default client."""

    def __init__(self, name: str, seed: int) -> None:
        self._queue, self._variable = Queue(name, maxsize=5), Variable(name)
        self._name = name
        self._random = Random(seed)
        self._enough = threading.Event()
        self._drained = threading.Event()
        self._produced = [0] * N_PRODUCERS
        self._received: list[list[tuple[int, int]]] = [[] for _ in range(N_PRODUCERS)]
        self._held: list[tuple[float, float]] = []
        self._register = History()
        self._failures: list[BaseException] = []
        self._sources: list[threading.Thread] = []  # producers and writers
        self._others: list[threading.Thread] = []

    def start(self) -> None:
        self._variable.set(0)
        for number in range(N_PRODUCERS):
            self._begin(self._sources, partial(self._produce, number))
            self._begin(self._sources, partial(self._write, number))
            self._begin(self._others, partial(self._consume, self._received[number]))
            self._begin(self._others, self._read)
            self._begin(self._others, self._exclude)

    def goes_on(self) -> None:
        """Returns when the crowd has done something since."""
        before = len(self._held)
        wait_until(
            lambda: self._failures or len(self._held) > before + N_ONWARD, "the crowd goes on"
        )
        assert not self._failures

    def finish(self) -> None:
        """Stop, when what was put has been got."""
        self._enough.set()
        self._join(self._sources)
        total = sum(self._produced)
        wait_until(
            lambda: self._failures or sum(map(len, self._received)) >= total, "all items were got"
        )
        self._drained.set()
        self._join(self._others)
        assert not self._failures

    def check(self) -> None:
        """What was seen is what one scheduler that never fell could have shown."""
        items = [(producer, n) for producer, many in enumerate(self._produced) for n in range(many)]
        assert sorted(chain(*self._received)) == items, "each item is got once"
        for received in self._received:
            for producer in range(N_PRODUCERS):
                numbers = [n for who, n in received if who == producer]
                assert numbers == sorted(numbers), "first in, first out"
        held = sorted(self._held)
        assert all(end <= start for (_, end), (start, _) in pairwise(held)), "one holder at a time"
        assert is_that_of_a_register(self._register.operations, 0)

    def abandon(self) -> None:
        """The test is over, perhaps because it failed: let the threads end."""
        self._enough.set()
        self._drained.set()

    def _begin(self, threads: list[threading.Thread], call: Callable[[], None]) -> None:
        thread = threading.Thread(target=self._guarded, args=(call,), daemon=True)
        thread.start()
        threads.append(thread)

    def _join(self, threads: list[threading.Thread]) -> None:
        for thread in threads:
            thread.join(DEADLINE_S)
        assert not any(thread.is_alive() for thread in threads)

    def _pause(self) -> None:
        time.sleep(self._random.uniform(0, PAUSE_S_MAX))

    def _guarded(self, call: Callable[[], None]) -> None:
        try:
            call()
        except BaseException as error:
            self._failures.append(error)

    def _produce(self, producer: int) -> None:
        while not self._enough.is_set():
            self._queue.put((producer, self._produced[producer]), timeout=DEADLINE_S)
            self._produced[producer] += 1
            self._pause()

    def _consume(self, received: list[tuple[int, int]]) -> None:
        while True:
            try:
                received.append(tuple(self._queue.get(timeout=1)))
            except TimeoutError:
                if self._drained.is_set():
                    return

    def _exclude(self) -> None:
        lock = Lock(self._name)
        while not self._enough.is_set():
            assert lock.acquire(timeout=DEADLINE_S)
            since = time.monotonic()
            time.sleep(self._random.uniform(0, PAUSE_S_MAX / 10))
            self._held.append((since, time.monotonic()))
            lock.release()

    def _write(self, writer: int) -> None:
        for value in count(writer + 1, N_PRODUCERS):
            if self._enough.is_set():
                return
            self._register.write(value, self._variable.set)
            self._pause()

    def _read(self) -> None:
        while not self._enough.is_set():
            self._register.read(self._variable.get)
            self._pause()
