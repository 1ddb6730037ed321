"""Threads that coordinate: producers, consumers, writers, readers, holders of locks and leases.

What must be true of all that they saw is in ``checkers/linearizability``. Each thread pauses
between two calls: the search for an order costs a multiple of what is open at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count
from random import Random

from distributed import Lock, Queue, Semaphore, Variable

from chaos.checkers.linearizability.checker import QUEUE_CAPACITY, SEMAPHORE_LIMIT
from chaos.scenario import Scenario
from chaos.workloads.base import Workload
from chaos.workloads.session import Session

N_PRODUCERS = 2
NAMES = 2  # variables
PAUSE_S_MAX = 0.3  # between two calls of a thread
HELD_S_MAX = 0.03
GET_TIMEOUT_S = 1
SETTLED_S = 3.0  # other processes may still produce so long after this one was told to stop


class Crowd:
    """``N_PRODUCERS`` of each kind, and who excludes whom."""

    def __init__(self, session: Session, name: str = "crowd") -> None:
        self._session = session
        self._name = name
        self._clock = time.monotonic
        client = session.client
        self._queue = Queue(name, client=client, maxsize=QUEUE_CAPACITY)
        self._variables = [Variable(f"{name}-{n}", client=client) for n in range(NAMES)]
        self._semaphore = Semaphore(SEMAPHORE_LIMIT, name=f"{name}-leases")  # a lock is one, too
        self.failures: list[BaseException] = []
        self._threads: list[threading.Thread] = []

    def start(self, first: bool = True) -> None:
        """Begin; ends with ``session.stopping``. ``first``: who gives the variables a value."""
        for variable in self._variables:
            if first:
                variable.set(0)
            else:
                variable.get(timeout=self._session.settings.deadline_s)
        for number in range(N_PRODUCERS):
            for act in (self._produce, self._consume, self._write, self._read, self._exclude):
                self._begin(partial(act, number))
            self._begin(partial(self._lease, number))

    def join(self, timeout_s: float) -> None:
        """Raises ``TimeoutError`` if a call does not end, and what ended a thread."""
        deadline = self._clock() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - self._clock()))
        if self.failures:
            raise self.failures[0]
        if any(thread.is_alive() for thread in self._threads):
            raise TimeoutError(f"after {timeout_s:g} s a call has not ended")

    def _begin(self, act: Callable[[], None]) -> None:
        thread = threading.Thread(target=self._guarded, args=(act,), daemon=True)
        thread.start()
        self._threads.append(thread)

    def _guarded(self, act: Callable[[], None]) -> None:
        try:
            act()
        except BaseException as error:
            self.failures.append(error)

    def _rounds(self, kind: str, number: int) -> Iterator[Random]:
        """One for each call, with the thread's own random numbers."""
        random = Random(f"{self._session.settings.seed} {self._session.name} {kind} {number}")
        while not self._session.stopping.wait(random.uniform(0, PAUSE_S_MAX)):
            yield random

    def _produce(self, number: int) -> None:
        session, names = self._session, count()
        for _ in self._rounds("produce", number):
            item = f"{session.name}.{number}.{next(names)}"
            put = partial(self._queue.put, item, timeout=session.settings.deadline_s)
            session.call("put", f"queue:{self._name}", put, item)

    def _consume(self, number: int) -> None:
        session, last = self._session, 0.0
        while True:
            get = partial(self._queue.get, timeout=GET_TIMEOUT_S)
            type, _ = session.call("get", f"queue:{self._name}", get, refused=(TimeoutError,))
            if not session.stopping.is_set():
                last = self._clock()
            elif type != "ok" and self._clock() > last + SETTLED_S:
                return
            if type == "info":
                time.sleep(PAUSE_S_MAX)  # whoever knows no queue says so at once

    def _write(self, number: int) -> None:
        values = count(1)
        for random in self._rounds("write", number):
            variable = random.choice(self._variables)
            value = f"{self._session.name}.{number}.{next(values)}"
            self._session.call(
                "set", f"variable:{variable.name}", partial(variable.set, value), value
            )

    def _read(self, number: int) -> None:
        for random in self._rounds("read", number):
            variable = random.choice(self._variables)
            get = partial(variable.get, timeout=self._session.settings.deadline_s)
            self._session.call("get", f"variable:{variable.name}", get)

    def _exclude(self, number: int) -> None:
        lock, key = Lock(self._name), f"lock:{self._name}"
        patience = self._session.settings.deadline_s
        for random in self._rounds("exclude", number):
            holder = f"{self._session.name}.{number}"
            with self._held(
                key, holder, partial(lock.acquire, timeout=patience), lock.release
            ) as held:
                if held:
                    time.sleep(random.uniform(0, HELD_S_MAX))

    def _lease(self, number: int) -> None:
        key, patience = f"semaphore:{self._name}", self._session.settings.deadline_s
        semaphore = self._semaphore
        numbers = count()
        for random in self._rounds("lease", number):
            holder = f"{self._session.name}.{number}.{next(numbers)}"
            acquire = partial(semaphore.acquire, timeout=patience)
            with self._held(key, holder, acquire, semaphore.release) as held:
                if held:
                    time.sleep(random.uniform(0, HELD_S_MAX))

    @contextmanager
    def _held(
        self, key: str, holder: str, acquire: Callable[[], bool], release: Callable[[], object]
    ) -> Iterator[bool]:
        def must() -> bool:
            if not acquire():
                raise BlockingIOError("not acquired in time")
            return True

        type, _ = self._session.call("acquire", key, must, holder, refused=(BlockingIOError,))
        yield type == "ok"
        if type == "ok":
            self._session.call("release", key, lambda: release() and None, holder)


def drive(session: Session) -> None:
    crowd = Crowd(session)
    crowd.start(first=session.settings.role == "0")
    session.stopping.wait()
    crowd.join(session.settings.deadline_s + SETTLED_S)


def two_clients(scenario: Scenario) -> Sequence[str]:
    """Two processes at least, or there is nobody to be excluded."""
    return tuple(map(str, range(max(2, min(scenario.clients, 3)))))


COORDINATION = Workload(
    "coordination",
    "a queue, variables, a lock and a semaphore, used by several processes at once",
    drive,
    two_clients,
    counted=False,
)
