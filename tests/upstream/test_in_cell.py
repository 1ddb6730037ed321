"""Which tests are run against a cell, and when its leader dies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.upstream.blow import DELAY_SECONDS_MAX, MESSAGES_MAX, TRIES_MAX, moment
from tests.upstream.in_cell import unfit


def gen_cluster(**kwargs: Any) -> Callable[[Any], Any]:
    """As far as ``unfit`` sees it, upstream's."""
    return lambda function: function


@gen_cluster(client=True)
async def _uses_the_client(c: Any, s: Any, a: Any, b: Any) -> None:
    assert await c.submit(len, s.address) == a.data
    s.validate_state()


@gen_cluster(client=True)
async def _looks_inside(c: Any, s: Any, a: Any, b: Any) -> None:
    assert not s.tasks


def _takes_the_fixture(client: Any) -> None:
    assert client


def _makes_its_own() -> None:
    assert LocalCluster()  # type: ignore[name-defined] # noqa: F821


def test_a_test_that_uses_client_workers_and_addresses_is_run() -> None:
    assert unfit(_uses_the_client) == ""
    assert unfit(_takes_the_fixture) == ""


def test_a_test_that_looks_into_the_scheduler_is_not() -> None:
    assert unfit(_looks_inside) == "looks into the scheduler: tasks"


def test_a_test_that_makes_a_scheduler_of_its_own_is_not() -> None:
    assert unfit(_makes_its_own) == "takes no cluster, or makes its own"


def test_the_moment_of_a_blow_depends_on_seed_and_test_alone() -> None:
    assert moment(7, "test_a", 0, 0) == moment(7, "test_a", 0, 0)
    assert len({moment(seed, "test_a", 0, 0) for seed in range(50)}) == 50


def test_any_message_may_be_the_last_of_a_leader() -> None:
    drawn = [moment(seed, "test_a", 0, 0) for seed in range(5_000)]
    assert {blow.after for blow in drawn} == set(range(1, MESSAGES_MAX + 1))
    assert {blow.victim for blow in drawn} == {"engine", "peer"}
    assert all(0 <= blow.delay_s <= DELAY_SECONDS_MAX for blow in drawn)


def test_a_test_that_was_over_is_struck_within_the_messages_it_had() -> None:
    again = [moment(seed, "test_a", 1, 6).after for seed in range(200)]
    assert set(again) == set(range(1, 7))
    assert moment(0, "test_a", TRIES_MAX - 1, 6).after == 1
