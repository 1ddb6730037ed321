"""What the ledger could not hold is an error of whoever asks for it, and of nobody else.

The leader is not changed by it: the next one, which knows the records alone, is as the leader was.
"""

from __future__ import annotations

from typing import Any

import pytest
from dask.typing import Key
from distributed import Variable

from ha_scheduler.engine.stream import tables
from ha_scheduler.engine.stream.keys import encode_key
from ha_scheduler.ledger.admission import check
from ha_scheduler.ledger.encoding import encode
from ha_scheduler.ledger.records import NAME_CHARS_MAX, TASK_KEY_BYTES_MAX
from tests.engine.conftest import Pair, pair

LONG = "k" * (TASK_KEY_BYTES_MAX + 1)
UNFIT: list[Key] = [LONG, ("x", LONG), "lone \ud800 surrogate", 2**70, ("x", 2**70)]


def inc(number: int) -> int:
    return number + 1


async def the_next_leader_agrees(both: Pair) -> None:
    """And it goes on: with what the client has, and with more."""
    for record in both.log.records:
        check(encode(record))
    await both.kill_leader()
    await both.take_over()
    assert await both.client.submit(inc, 41) == 42


@pytest.mark.parametrize("key", UNFIT, ids=lambda key: repr(key)[:20])
async def test_a_task_whose_key_no_record_can_hold_fails_alone(key: Key) -> None:
    async with pair() as both:
        before = both.client.submit(inc, 1)
        with pytest.raises(ValueError, match="the key"):
            await both.client.get({"top": (inc, key), key: (inc, 1)}, "top", sync=False)
        assert await before == 2
        assert await both.client.submit(inc, 2) == 3
        await the_next_leader_agrees(both)


async def test_a_name_of_a_variable_that_is_too_long_is_refused_and_nothing_is_set() -> None:
    async with pair() as both:
        await Variable("kept", client=both.client).set(1)
        with pytest.raises(ValueError, match="the key"):
            await Variable("v" * 400_000, client=both.client).set(1)
        assert await Variable("kept", client=both.client).get() == 1
        await the_next_leader_agrees(both)
        assert await Variable("kept", client=both.client).get() == 1


async def test_a_value_that_is_too_large_is_refused_and_the_former_one_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tables, "VALUE_BYTES_MAX", 1000)
    async with pair() as both:
        variable = Variable("v", client=both.client)
        await variable.set("small")
        with pytest.raises(ValueError, match="keep large data on workers"):
            await variable.set("large" * 1000)
        assert await variable.get() == "small"
        await the_next_leader_agrees(both)
        assert await variable.get() == "small"


async def test_a_dataset_with_too_long_a_name_is_refused_and_others_are_published() -> None:
    async with pair() as both:
        future = both.client.submit(inc, 1)
        with pytest.raises(ValueError, match="may have"):
            await both.client.publish_dataset(future, name="d" * (NAME_CHARS_MAX + 1))
        await both.client.publish_dataset(future, name="d")
        await the_next_leader_agrees(both)
        assert await both.client.list_datasets() == ("d",)


async def test_data_with_too_long_a_key_is_not_scattered() -> None:
    async with pair() as both:
        with pytest.raises(ValueError, match="may have"):
            await both.client.scatter({LONG: 1})
        assert await both.client.scatter({"short": 1})
        await the_next_leader_agrees(both)


async def test_a_desire_for_too_long_a_key_makes_no_task() -> None:
    async with pair() as both:
        await both.client.submit(inc, 0)  # its stream is open
        both.leader.client_desires_keys(keys=[LONG], client=both.client.id)
        assert await both.client.submit(inc, 1) == 2
        assert LONG not in both.leader.tasks
        await the_next_leader_agrees(both)


@pytest.mark.parametrize(
    "key",
    ["lone \ud800 surrogate", 2**70, object()],
    ids=["surrogate", "large number", "object"],
)
def test_a_key_that_cannot_be_encoded_leaves_nothing_in_front_of_the_next(key: Any) -> None:
    with pytest.raises((ValueError, OverflowError, TypeError)):
        encode_key(key)
    assert encode_key("x") == b"\xa1x"
