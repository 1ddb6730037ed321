"""Each handler, attribute and method of ``distributed`` has one answer: what a failover does to it.

The names are those of the installed release, so one that has more of them fails here until each has
been thought about and has a row in ``docs/handlers.md`` or ``docs/api.md``.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

import distributed
import pytest
from distributed import scheduler as upstream
from distributed.core import Server
from distributed.http.scheduler.api import routes as api
from tornado.routing import PathMatches, RuleRouter

from client_replay.calls import rpc
from ha_scheduler.engine.scheduler import Scheduler
from tests.tables import DOCS, Row, table

PAGE = "handlers.md"
KEPT = ("recorded", "reported", "restated", "recomputed", "lost", "nothing")
MESSAGES = ("Messages of a client", "Messages of a worker")
#: Classes of which each public method and attribute has an answer.
WITH_METHODS = (
    *("Client", "Future", "as_completed", "Actor", "ActorFuture"),
    *("Queue", "Variable", "Lock", "Semaphore", "MultiLock", "Event"),
)
STATE = ("State of the scheduler", "State of tasks, clients and workers", "State of extensions")


@pytest.fixture(scope="module")
def scheduler() -> Any:
    """Upstream's, as it is made; nobody connects to it."""

    async def make() -> Any:
        made = distributed.Scheduler(dashboard_address=":0")
        await made.close()
        return made

    return asyncio.run(make())


def names(rows: Iterable[Row]) -> list[str]:
    return [name for row in rows for name in row.names]


def assert_each_once(rows: Iterable[Row], living: Iterable[str]) -> None:
    """Each living name has one row, and each row is of living names."""
    told, living = Counter(names(rows)), set(living)
    assert sorted(living - set(told)) == [], "these have no row"
    assert sorted(set(told) - living) == [], "these rows are of nothing"
    assert [name for name, times in told.items() if times > 1] == []


def test_each_message_of_a_stream_has_an_answer(scheduler: Any) -> None:
    rows = [row for title in MESSAGES for row in table(PAGE, title)]
    assert_each_once(rows, scheduler.stream_handlers)


def test_each_request_has_an_answer(scheduler: Any) -> None:
    assert_each_once(table(PAGE, "Requests"), scheduler.handlers)


def test_each_message_and_request_of_our_own_has_an_answer(scheduler: Any) -> None:
    async def of_ours() -> set[str]:
        ours = Scheduler(dashboard_address=":0")
        ours.http_server.stop()
        return {*ours.handlers, *ours.stream_handlers}

    own = asyncio.run(of_ours()) - set(scheduler.handlers) - set(scheduler.stream_handlers)
    own |= {"queue_release", "variable_delete"}  # upstream's are messages alone
    rows = table(PAGE, "Messages and requests of our own")
    assert_each_once(rows, own)
    assert [row.names for row in rows if not row.tests] == []


def test_each_request_is_repeated_as_its_row_says() -> None:
    """``client_replay/calls/rpc.py``: nothing is sent once only because nobody thought of it."""
    classes = {"repeated": rpc.REPEATABLE, "numbered": rpc.NUMBERED, "never": rpc.ONCE}
    rows = [(row.names, row.cells["again"]) for row in table(PAGE, "Requests")]
    assert [ops for ops, again in rows if not again.startswith(tuple(classes))] == []
    own = table(PAGE, "Messages and requests of our own")
    rows += [(row.names, row.cells["said again"]) for row in own]
    said = {word: set[str]() for word in classes}
    for ops, again in rows:
        for word in classes:
            if again.startswith(word):
                said[word] |= set(ops)
    assert said == {word: set(members) for word, members in classes.items()}
    assert not rpc.READ_ONLY & rpc.IDEMPOTENT


def test_each_attribute_of_the_scheduler_has_an_answer(scheduler: Any) -> None:
    async def of_the_base() -> set[str]:
        server = Server({})
        return set(vars(server))

    own = set(vars(scheduler)) - asyncio.run(of_the_base())
    living = own | set(upstream.SchedulerState.__slots__)
    assert_each_once(table(PAGE, "State of the scheduler"), living)


def test_each_attribute_of_tasks_clients_and_workers_has_an_answer() -> None:
    living = {
        f"{kind.__name__}.{slot}"
        for kind in (upstream.TaskState, upstream.ClientState, upstream.WorkerState)
        for slot in kind.__slots__
    }
    assert_each_once(table(PAGE, "State of tasks, clients and workers"), living)


def test_each_attribute_of_an_extension_has_an_answer(scheduler: Any) -> None:
    living = {
        f"{name}.{attribute}"
        for name, extension in scheduler.extensions.items()
        for attribute in vars(extension)
    }
    assert_each_once(table(PAGE, "State of extensions"), living)


API = ("Client", "Futures", "Coordination objects", "Functions, and what tasks use", "Classes")


def test_each_public_name_has_an_answer() -> None:
    living = set(distributed.__all__)
    kinds = {name: getattr(distributed, name) for name in distributed.__all__}
    for name in WITH_METHODS:
        living |= {f"{name}.{method}" for method in dir(kinds[name]) if method[0] != "_"}
    rows = [row for title in API for row in table("api.md", title)]
    assert_each_once(rows, living)


def test_an_answer_about_a_public_name_has_a_test() -> None:
    rows = [row for title in API for row in table("api.md", title)]
    concerned = [r for r in rows if not r.cells["when the leader dies"].startswith("nothing")]
    assert [row.names for row in concerned if not row.tests] == []


def paths(router: Any) -> Iterable[str]:
    for rule in router.rules:
        if isinstance(rule.matcher, PathMatches):
            yield rule.matcher.regex.pattern.removesuffix("$")
        elif isinstance(rule.target, RuleRouter):
            yield from paths(rule.target)


def test_each_route_has_an_answer(scheduler: Any) -> None:
    living = {*paths(scheduler.http_application.default_router), *(path for path, *_ in api)}
    rows = table(PAGE, "HTTP routes")
    ours = {"/ha/scaling", "the pages of the dashboard"}
    assert_each_once(rows, {*living, *ours})


def test_each_hazard_has_an_answer_and_those_that_the_code_names_are_among_them() -> None:
    rows = table(PAGE, "Hazards")
    assert names(rows) == [str(number) for number in range(1, 32)]
    assert [row.names for row in rows if not row.tests] == []
    code = "".join(p.read_text() for p in (DOCS.parent / "ha_scheduler").rglob("*.py"))
    mentioned = set(re.findall(r"[Hh]azards? (\d+)(?: and (\d+))?", code))
    assert {number for pair in mentioned for number in pair if number} <= set(names(rows))


@pytest.mark.parametrize("title", [*MESSAGES, "Requests", *STATE])
def test_an_answer_says_how_it_is_kept_and_which_test_has_seen_it(title: str) -> None:
    for row in table(PAGE, title):
        kept = row.cells["kept"]
        assert kept.startswith(KEPT), row.names
        if kept.startswith("lost"):
            assert kept.startswith(("lost: ", "lost, ")), f"{row.names}: why?"
        if not kept.startswith(("nothing", "lost")):
            assert row.tests, row.names
