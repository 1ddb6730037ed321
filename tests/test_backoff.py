"""How long is waited before the next attempt."""

from __future__ import annotations

import asyncio

from ha_scheduler.backoff import Backoff


def test_the_ceiling_doubles_up_to_its_bound_and_begins_anew_when_reset() -> None:
    backoff = Backoff(0.1, 0.5, uniform=lambda low, high: high)
    assert [backoff.next_s() for _ in range(5)] == [0.1, 0.2, 0.4, 0.5, 0.5]
    backoff.reset()
    assert backoff.next_s() == 0.1


def test_a_pause_is_between_half_of_the_ceiling_and_the_ceiling() -> None:
    bounds: list[tuple[float, float]] = []

    def low(*drawn: float) -> float:
        bounds.append((drawn[0], drawn[1]))
        return drawn[0]

    backoff = Backoff(0.1, 1.0, growth=1.5, uniform=low)
    assert backoff.next_s() == 0.05
    backoff.next_s()
    assert [round(high, 3) for _, high in bounds] == [0.1, 0.15]
    assert all(low * 2 == high for low, high in bounds)


async def test_news_ends_a_pause() -> None:
    news = asyncio.Event()
    pause = asyncio.ensure_future(Backoff(60, 60).pause(news))
    await asyncio.sleep(0)
    assert not pause.done()
    news.set()
    await asyncio.wait_for(pause, 1)
    await asyncio.wait_for(Backoff(0.001, 0.001).pause(asyncio.Event()), 1)
    await asyncio.wait_for(Backoff(0.001, 0.001).pause(), 1)
