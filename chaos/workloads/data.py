"""Workloads of data that stays: published datasets, scattered data, actors, and keys given up."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from distributed import wait

from chaos.workloads.base import Workload, one_client
from chaos.workloads.session import Session
from chaos.workloads.tasks import counted, failing

PUBLISH_RATE, SCATTER_RATE, INCREMENT_RATE, CHURN_RATE = 3.0, 3.0, 10.0, 10.0
KEPT_MAX = 8  # datasets, and scattered values
ACTORS = 3
FORGOTTEN_S_MAX = 15.0  # for keys that nobody wants to be gone


def publish_and_scatter(session: Session) -> None:
    """Datasets are read by name by another client; scattered values are used by tasks."""
    published: dict[str, int] = {}
    scattered: list[tuple[Any, int]] = []
    number = 0
    while session.pace(PUBLISH_RATE):
        number += 1
        match session.random.choice(("publish", "read", "scatter", "use")):
            case "publish":
                _publish(session, published, f"{session.name}-set-{number}", number)
            case "read" if published:
                name = session.random.choice(list(published))
                session.call("read", name, partial(_read, session, name), None, published[name])
            case "scatter":
                _scatter(session, scattered, number)
            case "use" if scattered:
                future, value = session.random.choice(scattered)
                key = f"{session.name}-use-{number}"
                used = session.client.submit(_first, future, key=key, pure=False)
                session.compute("use", key, used, expected=value)


def _publish(session: Session, published: dict[str, int], name: str, value: int) -> None:
    key = f"{name}-data"
    where = str(session.directory)
    future = session.client.submit(counted, where, key, 0.0, value, key=key, pure=False)
    publish = partial(session.client.publish_dataset, future, name=name)
    type, _ = session.call("publish", name, publish)
    if type == "ok":
        published[name] = value
    if len(published) > KEPT_MAX:
        old = next(iter(published))
        del published[old]
        session.call("unpublish", old, partial(session.client.unpublish_dataset, old))


def _read(session: Session, name: str) -> Any:
    return session.client.get_dataset(name).result(session.settings.deadline_s)


def _scatter(session: Session, scattered: list[tuple[Any, int]], value: int) -> None:
    found: list[Any] = []

    def scatter() -> None:
        found.append(session.client.scatter([value], hash=False, broadcast=True)[0])

    session.call("scatter", f"{session.name}-scattered-{value}", scatter)
    scattered += [(future, value) for future in found]
    del scattered[:-KEPT_MAX]


def _first(value: Any) -> Any:
    return value


class Counter:
    """An actor: it knows how often it was asked."""

    def __init__(self) -> None:
        self.count = 0

    def increment(self) -> int:
        self.count += 1
        return self.count


def actors(session: Session) -> None:
    """Each increment that was answered is counted once, and none is forgotten."""
    patience = session.settings.deadline_s
    made = [
        session.client.submit(Counter, actor=True, key=f"{session.name}-actor-{n}", pure=False)
        for n in range(ACTORS)
    ]
    counters = [future.result(patience) for future in made]
    asked, answered = [0] * ACTORS, [0] * ACTORS
    while session.pace(INCREMENT_RATE):
        n = session.random.randrange(ACTORS)
        asked[n] += 1
        type, count = session.call(
            "increment",
            f"{session.name}-actor-{n}",
            partial(_increment, counters[n], patience),
            expected={"between": [answered[n] + 1, asked[n]]},
        )
        if type == "ok":  # of a call that nobody knows the end of, the next answer tells
            asked[n] = answered[n] = count


def _increment(counter: Any, timeout_s: float) -> Any:
    return counter.increment().result(timeout_s)


def churn(session: Session) -> None:
    """Keys are cancelled, released, retried; at the end the cell knows none of them any more."""
    futures: list[Any] = []
    number = 0
    while session.pace(CHURN_RATE):
        number += 1
        key = f"{session.name}-churn-{number}"
        match session.random.choice(("keep", "keep", "cancel", "release", "fail")):
            case "cancel":
                future = _long(session, key)
                session.call("cancel", key, partial(_cancel, session, future), None, "cancelled")
            case "release":
                _long(session, key).release()
            case "fail":
                where = str(session.directory)
                future = session.client.submit(failing, where, key, key=key, pure=False)
                session.call("fail", key, partial(_error, session, future), None, "error")
            case _:
                where = str(session.directory)
                futures.append(
                    session.submit(
                        key, counted, where, key, 0.0, number, expected=number, pure=False
                    )
                )
        del futures[:-KEPT_MAX]
    session.wait_below(1, session.settings.deadline_s)
    futures.clear()
    future = None  # ours, or its key is wanted
    session.call("forget", f"{session.name}-all", partial(_left, session), None, [])


def _long(session: Session, key: str) -> Any:
    where, seconds = str(session.directory), session.random.uniform(0, 1)
    return session.client.submit(counted, where, key, seconds, 0, key=key, pure=False)


def _cancel(session: Session, future: Any) -> str:
    session.client.cancel([future])
    return str(future.status)


def _error(session: Session, future: Any) -> str:
    wait(future, session.settings.deadline_s)
    return str(future.status)


def _left(session: Session) -> list[str]:
    """Keys of this process whose results the cell still holds once it had time to forget."""
    deadline = time.monotonic() + FORGOTTEN_S_MAX
    while True:
        held = [key for key in map(str, session.client.who_has()) if key.startswith(session.name)]
        if not held or time.monotonic() > deadline:
            return held
        time.sleep(0.2)


PUBLISH = Workload(
    "publish-scatter",
    "datasets that are read by name, and scattered values that tasks use",
    publish_and_scatter,
)
ACTOR = Workload(
    "actors",
    "counters with state on a worker; each answer says how often they were asked",
    actors,
    counted=False,
    undecided=("OutcomeUnknown",),
)
CHURN = Workload(
    "churn", "keys that are cancelled, released and fail; none may stay behind", churn, one_client
)
