"""Contexts of clients within each other, as of programs that ask a cluster for its client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from distributed import get_client

from client_replay import Client
from ha_scheduler.comm.directory import forget_directories
from tests.worker.scripted_leader import ScriptedLeader

pytestmark = pytest.mark.filterwarnings("default")


def one_within_itself(make: Callable[[], Client]) -> None:
    client = make()
    with client:
        with client as inner:
            assert get_client() is inner is client
        assert client.status == "running"
        with client:
            assert get_client() is client
        assert get_client() is client
    assert client.status == "closed"


def two_within_each_other(make: Callable[[], Client]) -> None:
    with make() as outer:
        with make() as inner:
            with outer:
                assert get_client() is outer
            assert get_client() is inner
        assert inner.status == "closed"
        assert get_client() is outer
    assert outer.status == "closed"


def one_that_is_closed_within(make: Callable[[], Client]) -> None:
    with make() as client, client:
        client.close()
    assert client.status == "closed"


@pytest.mark.parametrize(
    "use", [one_within_itself, two_within_each_other, one_that_is_closed_within]
)
async def test_contexts_may_be_within_each_other(
    use: Callable[[Callable[[], Client]], None],
) -> None:
    forget_directories()
    leader = await ScriptedLeader().open()
    address = f"ha://127.0.0.1:{leader.port}"
    await asyncio.to_thread(use, lambda: Client(address, timeout=5))
    await leader.die()
