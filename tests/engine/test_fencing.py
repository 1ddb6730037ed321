"""The lease as an engine sees it."""

from __future__ import annotations

import asyncio

import pytest

from ha_scheduler.engine import fencing


class Written:
    """A lease that is what a test says of each look at it, and over when all was said."""

    def __init__(self, looks: str) -> None:
        self.looks = iter(looks)
        self.looked = 0

    def valid(self) -> bool:
        self.looked += 1
        return next(self.looks, "-") == "v"


@pytest.mark.parametrize(("looks", "needed"), [("vvv", 7), ("", 4), ("v---v", 9), ("-v-v-v--", 10)])
def test_leadership_is_lost_when_the_lease_was_over_all_the_time(
    looks: str, needed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second between two looks; three without a lease are too many."""
    now = 0.0

    async def a_second(_: float) -> None:
        nonlocal now
        now += 1

    monkeypatch.setattr(fencing, "monotonic", lambda: now)
    monkeypatch.setattr(fencing.asyncio, "sleep", a_second)
    lease = Written(looks)
    asyncio.run(fencing.lost(lease, 3))
    assert lease.looked == needed
