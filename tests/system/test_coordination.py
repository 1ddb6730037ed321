"""Coordination through the death of leaders: real processes, killed at moments that a test names.

A leader's engine ends itself with SIGKILL when a call has *arrived* (nothing is recorded), when its
record is *appended* (whether it commits, it will not know), or when it has *committed* (and nobody
was told). Whatever the moment, the call is answered, and has been done once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from distributed import Event, Lock, MultiLock, Queue, Semaphore, Variable

from client_replay import Client
from tests.system.conftest import DEADLINE_S, Scene, every_moment, reached, wait_until

pytestmark = pytest.mark.system


def in_background(call: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(call()))
    thread.start()
    return thread, results


def finished(background: tuple[threading.Thread, list[Any]]) -> Any:
    thread, results = background
    thread.join(DEADLINE_S)
    assert not thread.is_alive(), "it waits for ever"
    return results[0]


@every_moment
def test_an_item_is_put_once(scene: Scene, moment: str) -> None:
    queue = Queue(f"put-{moment}")
    scene.through_a_death("queue_put", moment, lambda: queue.put("item"))
    assert queue.qsize() == 1
    assert queue.get(timeout=DEADLINE_S) == "item"


@every_moment
def test_an_item_is_got_once(scene: Scene, moment: str) -> None:
    queue = Queue(f"get-{moment}")
    for n in range(3):
        queue.put(n)
    assert scene.through_a_death("queue_get", moment, queue.get) == 0
    assert queue.get(batch=True) == [1, 2]


@every_moment
def test_a_future_in_a_queue_is_kept(scene: Scene, moment: str) -> None:
    queue = Queue(f"future-{moment}")
    with Client(scene.cluster, set_as_default=False) as other:
        future = other.submit(pow, 2, 10, key=f"future-{moment}")
        future.result(timeout=DEADLINE_S)
        Queue(queue.name, client=other).put(future)
    got = scene.through_a_death("queue_get", moment, queue.get)
    assert got.result(timeout=DEADLINE_S) == 1024


@every_moment
def test_a_queue_is_opened_once(scene: Scene, moment: str) -> None:
    first = Queue(f"open-{moment}")
    second = scene.through_a_death("queue_create", moment, lambda: Queue(first.name))
    first.put(1)
    scene.through_a_death("queue_release", moment, lambda: closed(scene, first, moment))
    assert second.get(timeout=DEADLINE_S) == 1


def closed(scene: Scene, queue: Queue, moment: str) -> None:
    queue.close()
    reached(scene.tokens / f"queue_release.{moment}")


@every_moment
def test_a_variable_is_set_once(scene: Scene, moment: str) -> None:
    variable = Variable(f"v-{moment}")
    variable.set("before")
    scene.through_a_death("variable_set", moment, lambda: variable.set("after"))
    assert scene.through_a_death("variable_get", "arrived", variable.get) == "after"


@every_moment
def test_a_lock_is_taken_and_given_back_once(scene: Scene, moment: str) -> None:
    lock, other = Lock(f"lock-{moment}"), Lock(f"lock-{moment}")
    assert scene.through_a_death("semaphore_acquire", moment, lock.acquire)
    assert not other.acquire(blocking=False)
    scene.through_a_death("semaphore_release", moment, lock.release)
    assert other.acquire(timeout=DEADLINE_S)
    other.release()


@every_moment
def test_a_semaphore_has_as_many_leases_as_it_had(scene: Scene, moment: str) -> None:
    name = f"semaphore-{moment}"
    semaphore = scene.through_a_death(
        "semaphore_register", moment, lambda: registered(Semaphore(2, name))
    )
    assert semaphore.acquire()
    assert scene.through_a_death("semaphore_acquire", moment, semaphore.acquire)
    assert semaphore.get_value() == 2
    assert not semaphore.acquire(timeout=0.1)
    semaphore.release()
    semaphore.release()
    scene.through_a_death("semaphore_close", moment, semaphore.close)


def registered(semaphore: Semaphore) -> Semaphore:
    semaphore.register()
    return semaphore


@every_moment
def test_several_locks_are_taken_and_given_back_together(scene: Scene, moment: str) -> None:
    one = MultiLock([f"x-{moment}", f"y-{moment}"])
    other = MultiLock([f"y-{moment}", f"z-{moment}"])
    assert scene.through_a_death("multi_lock_acquire", moment, one.acquire)
    assert not other.acquire(timeout=0.1)
    scene.through_a_death("multi_lock_release", moment, one.release)
    assert other.acquire(timeout=DEADLINE_S)
    other.release()


@every_moment
def test_an_event_that_is_set_lets_go_who_waits(scene: Scene, moment: str) -> None:
    event = Event(f"e-{moment}")
    waiting = in_background(lambda: event.wait(DEADLINE_S))
    wait_until(waiting[0].is_alive, "it waits")
    scene.through_a_death("event_set", moment, event.set)
    assert finished(waiting)
    assert event.is_set()
    scene.through_a_death("event_clear", moment, event.clear)
    assert not event.is_set()


@every_moment
def test_a_dataset_is_published_once(scene: Scene, moment: str) -> None:
    name = f"d-{moment}"
    held = [scene.client.submit(pow, 2, 10, key=f"published-{moment}")]
    scene.through_a_death(
        "publish_put", moment, lambda: scene.client.publish_dataset(held[0], name=name)
    )
    held.clear()
    assert scene.client.get_dataset(name).result(timeout=DEADLINE_S) == 1024
    scene.through_a_death("publish_delete", moment, lambda: scene.client.unpublish_dataset(name))
    assert name not in scene.client.list_datasets()


@every_moment
def test_metadata_is_set_once(scene: Scene, moment: str) -> None:
    keys = [f"m-{moment}", "key"]
    scene.through_a_death("set_metadata", moment, lambda: scene.client.set_metadata(keys, 1))
    assert scene.client.get_metadata(keys) == 1


@every_moment
@pytest.mark.parametrize("op", ["ha-open-calls", "log_event"])
def test_the_first_call_of_a_process_is_done_once(scene: Scene, op: str, moment: str) -> None:
    topic = f"first-{op}-{moment}"
    with Client(scene.cluster, set_as_default=False) as fresh:
        scene.through_a_death(op, moment, lambda: fresh.log_event(topic, "once"))
    assert [message for _, message in scene.client.get_events(topic)] == ["once"]


def test_waits_go_on_and_end_in_time(scene: Scene) -> None:
    empty, full = Queue("empty"), Queue("full", maxsize=1)
    variable, event, lock = Variable("unset"), Event("clear"), Lock("held")
    full.put(0)
    lock.acquire()
    mine = Lock("held")
    waits = {
        "get": in_background(lambda: empty.get(timeout=DEADLINE_S)),
        "put": in_background(lambda: full.put(1, timeout=DEADLINE_S)),
        "variable": in_background(lambda: variable.get(timeout=DEADLINE_S)),
        "event": in_background(lambda: event.wait(timeout=DEADLINE_S)),
        "lock": in_background(lambda: mine.acquire(timeout=DEADLINE_S)),
        "late": in_background(lambda: Event("never").wait(timeout=5)),
    }
    for _ in range(2):
        scene.cluster.leader.kill_engine()
        scene.client.submit(int, pure=False).result(timeout=DEADLINE_S)
    assert all(thread.is_alive() for name, (thread, _) in waits.items() if name != "late")
    empty.put("item")
    assert full.get() == 0
    variable.set("value")
    event.set()
    lock.release()
    results = {name: finished(wait) for name, wait in waits.items()}
    mine.release()
    assert results == {
        "get": "item",
        "put": None,
        "variable": "value",
        "event": True,
        "lock": True,
        "late": False,
    }


def coordinate(name: str) -> Any:
    """Inside a task, with the worker's client and with the worker's own connection."""
    Event(f"inside-{name}").set()
    Event(f"go-{name}").wait()
    with Lock(f"lock-{name}"), Semaphore(2, f"semaphore-{name}"):
        item = Queue(f"in-{name}").get()
        Variable(f"v-{name}").set(item)
        Queue(f"out-{name}").put(item)
    return item


@every_moment
@pytest.mark.parametrize(
    "op", ["queue_get", "queue_put", "variable_set", "semaphore_acquire", "semaphore_release"]
)
def test_a_task_coordinates_through_the_death_of_the_leader(
    scene: Scene, op: str, moment: str
) -> None:
    name = f"{op}-{moment}"
    inbox, outbox = Queue(f"in-{name}"), Queue(f"out-{name}")
    inbox.put("item")
    task = scene.client.submit(coordinate, name, pure=False)
    assert Event(f"inside-{name}").wait(DEADLINE_S)

    def let_it_go_on() -> Any:
        Event(f"go-{name}").set()
        return task.result(timeout=DEADLINE_S)

    assert scene.through_a_death(op, moment, let_it_go_on) == "item"
    assert Variable(f"v-{name}").get(timeout=DEADLINE_S) == "item"
    assert outbox.get(batch=True) == ["item"]
    assert inbox.qsize() == 0
    lock = Lock(f"lock-{name}")
    assert lock.acquire(timeout=DEADLINE_S)
    lock.release()


def test_everything_is_there_after_the_whole_cell_was_down(scene: Scene) -> None:
    queue, lock = Queue("down"), Lock("down")
    long = b"x" * 2_000_000
    queue.put("item")
    queue.put(long)
    assert lock.acquire()
    Variable("down").set(1)
    Event("down").set()
    scene.client.set_metadata(["down"], 2)
    for peer in scene.cluster.peers:
        peer.kill()
    for peer in scene.cluster.peers:
        peer.start()
    assert [queue.get(timeout=DEADLINE_S), queue.get(timeout=DEADLINE_S)] == ["item", long]
    assert not Lock("down").acquire(timeout=0.1)
    lock.release()
    assert Variable("down").get(timeout=DEADLINE_S) == 1
    assert Event("down").is_set()
    assert scene.client.get_metadata(["down"]) == 2
