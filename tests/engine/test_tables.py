"""Every replicated table, whoever declares it: its rows are on all engines, until they go."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Any

import pytest
from distributed.diagnostics.plugin import SchedulerPlugin
from distributed.protocol.pickle import dumps

from ha_scheduler.engine.scheduler import Scheduler
from ha_scheduler.engine.stream.keys import encode_key
from ha_scheduler.engine.workers.operations import WorkerOperation
from ha_scheduler.ledger.records import ValueDeleted, ValueSet
from ha_scheduler.ledger.unfit import UnknownRecordError
from tests.engine.conftest import KeptLog, follow, leading, new_scheduler, rebuild


@dataclass(frozen=True)
class Row:
    """One row of a table. ``keys``: those of the owner, where ``apply`` gives rows another form."""

    key: Any
    value: Any
    keys: Callable[[Scheduler], Container[Any]] | None = None


def of_extension(name: str, attribute: str) -> Callable[[Scheduler], Container[Any]]:
    return lambda engine: getattr(engine.extensions[name], attribute)  # type: ignore[no-any-return]


def pairs(of: Callable[[Scheduler], Any]) -> Callable[[Scheduler], Container[Any]]:
    """The keys of a dict of dicts."""
    return lambda engine: {(one, two) for one, inner in of(engine).items() for two in inner}


def items(engine: Scheduler) -> Container[Any]:
    queues = engine.extensions["queues"].queues
    return {(name, number) for name, queue in queues.items() for number in queue.items}


PLACE = ("session", 1, 1)
NOTHING_LEARNT = {"bandwidth": 1, "bandwidth_types": {}, "prefixes": {}}

#: By the space of the table. One that has no row here fails the first test.
ROWS = {
    "actor": Row("key", "tcp://worker"),
    "absence": Row("Client-1", (1.0, 2.0, True)),
    "session-taken": Row("Client-1", 3),
    "attempts": Row("key", (1, 2, 3)),
    "trials": Row("key", (3, "tcp://127.0.0.1:1")),
    "cancelled": Row(("client", 1), (("key",), 1, None, None), pairs(lambda e: e._notices)),
    "dataset": Row("name", (("key",), None, "data"), of_extension("publish", "datasets")),
    "departure": Row("worker", ("tcp://worker", "retire", True, True)),
    "dismissed": Row("worker", (1, "close")),
    "event": Row("name", True, of_extension("events", "_events")),
    "event-waiter": Row(("session", 1), ("other", 1)),
    "memory-sampler": Row("key", ("name", "process", 1.0)),
    "metadata": Row("key", "value"),
    "multi-lock": Row("id", (1, ("lock",), 1, None)),
    "nanny-plugin": Row("name", b"pickled", lambda e: e.nanny_plugins),
    "queue": Row("name", (0, 1), of_extension("queues", "queues")),
    "queue-item": Row(("other", 1), {"type": "msgpack", "value": 1}, items),
    "restrictions": Row("key", ("tcp://worker",)),
    "scaling-goal": Row("owner", ("load", 0, 5, 5.0, False, "alice")),
    "scaling-signal": Row("owner", ("idling", 1, 1.0)),
    "scheduler-plugin": Row("name", bytes(dumps(SchedulerPlugin()))),
    "scheduler-plugin-state": Row("name", bytes(dumps(1))),
    "semaphore": Row("name", (1, None, True), of_extension("semaphores", "max_leases")),
    "semaphore-closed": Row("other", True, of_extension("semaphores", "_closed")),
    "semaphore-lease": Row(
        ("name", "id"), True, pairs(lambda e: e.extensions["semaphores"].leases)
    ),
    "shuffle": Row("id", b"pickled"),
    "shuffle-members": Row("id", {"tcp://worker": "worker"}),
    "statistics": Row("statistics", NOTHING_LEARNT),
    "switch": Row("amm", True),
    "task-metadata": Row("name", "owner"),
    "task-metadata-item": Row(("other", "key"), ({}, "memory")),
    "task-metadata-keys": Row(("another", 1), ("key",)),
    "task-stream": Row("task-stream", True),
    "topic-event": Row(("topic", 1), (1, 1.0, 200, "message")),
    "variable": Row(
        "name", {"type": "msgpack", "value": 1}, of_extension("variables", "variables")
    ),
    "worker": Row("tcp://worker", "name", lambda e: e.aliases.values()),
    "worker-operation": Row(PLACE, WorkerOperation("restart", {})),
    "worker-operation-outcome": Row((PLACE, "worker"), "OK"),
    "worker-plugin": Row("name", b"pickled", lambda e: e.worker_plugins),
}


def known(engine: Scheduler) -> set[str]:
    """The tables whose row this engine has, and that has it in its owner's form if there is one."""
    found = set()
    for table in engine.tables:
        row = ROWS[table.space]
        if row.key in table.rows and (row.keys is None or row.key in row.keys(engine)):
            found.add(table.space)
    return found


async def test_each_table_has_a_row_here() -> None:
    assert {table.space for table in new_scheduler().tables} == ROWS.keys()


@pytest.mark.parametrize(
    "record",
    [
        ValueSet("of-tomorrow", encode_key("key"), bytes(dumps(1)), 0, 0, 1),
        ValueDeleted("of-tomorrow", encode_key("key")),
    ],
)
async def test_a_row_of_a_table_that_is_not_known_is_refused_by_name(
    record: ValueSet | ValueDeleted,
) -> None:
    with pytest.raises(UnknownRecordError, match=r"'of-tomorrow' .* upgrade this peer"):
        new_scheduler().replay.apply(record)


async def write_all(leader: Scheduler) -> None:
    rows = [(table, ROWS[table.space]) for table in leader.tables]
    leader.transactions.note(*(table.set(row.key, row.value) for table, row in rows))
    await leader.transactions.settled()


async def test_a_row_is_with_followers_and_in_a_rebuild_until_it_is_deleted() -> None:
    log = KeptLog()
    async with leading(log, workers=0) as (leader, *_):
        await write_all(leader)
        assert known(follow(log.records)) == ROWS.keys()
        assert known(rebuild(log.records)) == ROWS.keys()
        for table in leader.tables:
            leader.transactions.note(table.delete(ROWS[table.space].key))
        await leader.transactions.settled()
        assert known(follow(log.records)) == set()
        assert known(rebuild(log.records)) == set()


async def test_a_restart_deletes_the_rows_of_the_tables_that_say_so_and_of_no_others() -> None:
    log = KeptLog()
    async with leading(log, workers=0) as (leader, client, _):
        await write_all(leader)
        await client.restart()
        void = {table.space for table in leader.tables if table.void_on_restart}
        assert void == {"attempts", "metadata", "shuffle", "shuffle-members", "trials"}
        assert known(follow(log.records)) == ROWS.keys() - void
        assert known(rebuild(log.records)) == ROWS.keys() - void
