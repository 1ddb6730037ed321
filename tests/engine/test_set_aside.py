"""What has ended engines is not read again: its keys are errors, on this leader and on the next."""

from __future__ import annotations

import pickle
import sys
from typing import Any

import pytest

from ha_scheduler.engine.exposures import LeavingRefused, digest
from ha_scheduler.errors import SetAside
from ha_scheduler.ledger import records as r
from ha_scheduler.protocol.engine import Exposure
from tests.engine.conftest import KeptLog, Pair, eventually, follow, leading, pair, rebuild


def inc(x: int) -> int:
    return x + 1


class Leaves:
    """Asks the process that unpickles it to exit."""

    def __reduce__(self) -> Any:
        return sys.exit, (7,)


def two_deaths(content: bytes) -> list[r.Record]:
    """What a daemon tells of a content that two engines ended of."""
    exposure = Exposure(content, "graph", "of x")
    return [
        r.EngineEnded(1, "a", 3, True, "SIGSEGV", 1, (exposure,)),
        r.EngineEnded(2, "b", 4, False, "exit status 77", 2, (exposure,)),
    ]


def graphs_of(both: Pair) -> list[r.GraphSubmitted]:
    return [record for record in both.log.records if isinstance(record, r.GraphSubmitted)]


def condemn(both: Pair, record: r.GraphSubmitted) -> None:
    """As if the cell learnt now that this graph ends engines."""
    for death in two_deaths(record.content):
        both.log.records.append(death)
        both.leader.replay.apply(death)


async def set_aside_at_once(both: Pair) -> Any:
    """A future of a graph that is known to end engines when it comes."""
    await both.client.submit(inc, 1, key="x", pure=False)
    condemn(both, graphs_of(both)[-1])
    await eventually(lambda: "x" not in both.leader.tasks)
    return both.client.submit(inc, 1, key="x", pure=False)


async def test_the_client_is_told_what_ended_which_engines_and_others_go_on() -> None:
    async with pair() as both:
        future = await set_aside_at_once(both)
        error = await future.exception()
        assert isinstance(error, SetAside)
        assert isinstance(error, RuntimeError)
        for part in ("graph of x", "SIGSEGV on a (term 3)", "exit status 77 on b (term 4)"):
            assert part in str(error)
        assert both.client.id in str(error)
        assert await both.client.submit(inc, 2, pure=False) == 3
        both.leader.validate_state()


async def test_its_journal_has_its_answer() -> None:
    async with pair() as both:
        await (await set_aside_at_once(both)).exception()
        await eventually(lambda: len(both.client._ha.journal) == 0)


@pytest.mark.parametrize("rebuilt", [False, True])
async def test_it_is_an_error_under_the_next_leader_as_well(rebuilt: bool) -> None:
    async with pair() as both:
        future = await set_aside_at_once(both)
        await future.exception()
        await both.kill_leader()
        await both.take_over(rebuilt=rebuilt)
        await eventually(lambda: both.client._ha.connected_before)
        assert await both.client.submit(inc, 5, pure=False) == 6
        assert future.status == "error"
        assert both.leader.tasks["x"].state == "erred"


async def test_what_depends_on_it_is_an_error_with_the_same_reason() -> None:
    async with pair() as both:
        future = await set_aside_at_once(both)
        dependent = both.client.submit(inc, future)
        assert isinstance(await dependent.exception(), SetAside)
        both.leader.validate_state()


async def test_it_is_forgotten_when_nobody_wants_it_any_more() -> None:
    async with pair() as both:
        future = await set_aside_at_once(both)
        await future.exception()
        graph = graphs_of(both)[-1].graph
        del future
        await eventually(lambda: "x" not in both.leader.tasks)
        await eventually(
            lambda: any(
                isinstance(each, r.GraphsRetired) and graph in each.graphs
                for each in both.log.records
            )
        )
        assert "x" not in follow(both.log.records).tasks
        assert "x" not in rebuild(both.log.records).tasks


async def test_its_bytes_are_not_kept() -> None:
    async with pair() as both:
        await (await set_aside_at_once(both)).exception()
        read, aside = graphs_of(both)[-2:]
        assert read.content == aside.content
        assert len(aside.payload) < 100 < len(read.payload)


async def test_a_retry_of_it_changes_nothing() -> None:
    async with pair() as both:
        future = await set_aside_at_once(both)
        await future.exception()
        await both.client.retry([future])
        assert isinstance(await future.exception(), SetAside)
        both.leader.validate_state()


async def test_what_replays_die_of_is_skipped_by_every_engine_and_its_keys_are_errors() -> None:
    async with pair() as both:
        future = both.client.submit(inc, 1, key="x")
        assert await future == 2
        condemn(both, graphs_of(both)[-1])
        for engine in (rebuild(both.log.records),):
            assert engine.tasks["x"].state == "erred"
        await both.kill_leader()
        await both.take_over(rebuilt=True)
        assert await both.client.submit(inc, 5, pure=False) == 6
        await eventually(lambda: future.status == "error")
        assert isinstance(await future.exception(), SetAside)


async def test_a_released_content_is_read_again() -> None:
    async with pair() as both:
        await (await set_aside_at_once(both)).exception()
        await eventually(lambda: "x" not in both.leader.tasks)
        both.leader.replay.apply(r.CaseReleased(graphs_of(both)[-1].content))
        assert await both.client.submit(inc, 1, key="x", pure=False) == 2


async def test_an_unmodified_client_is_told_as_well() -> None:
    log = KeptLog()
    async with leading(log) as (scheduler, client, _):
        future = client.submit(inc, 1, key="x", pure=False)
        await future
        (graph,) = (each for each in log.records if isinstance(each, r.GraphSubmitted))
        for death in two_deaths(graph.content):
            scheduler.replay.apply(death)
        del future
        await eventually(lambda: "x" not in scheduler.tasks)
        again = client.submit(inc, 1, key="x", pure=False)
        assert isinstance(await again.exception(), SetAside)


async def test_who_asks_the_scheduler_to_exit_is_told_that_it_goes_on() -> None:
    async with pair() as both:
        error = await both.client.submit(inc, Leaves(), pure=False).exception()
        assert isinstance(error, LeavingRefused)
        assert "SystemExit(7)" in str(error)
        assert await both.client.submit(inc, 1, pure=False) == 2


def test_the_error_is_the_same_after_a_journey() -> None:
    error = SetAside("graph of x was set aside")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (SetAside, str(error))


def test_a_digest_tells_where_one_part_ends() -> None:
    assert digest([b"ab", b"c"]) != digest([b"a", b"bc"])
    assert digest([b"ab"]) == digest([memoryview(b"ab")])


async def test_a_content_is_the_same_when_a_user_sends_it_again_by_hand() -> None:
    log = KeptLog()
    async with leading(log) as (_, client, _):
        for x in (1, 1, 2):
            await client.submit(inc, x, pure=False)
        graphs = [each for each in log.records if isinstance(each, r.GraphSubmitted)]
        one, again, other = (graph.content for graph in graphs)
        assert one == again
        assert one != other
