"""What is measured, drawn or looked up around a failover."""

from __future__ import annotations

from distributed.diagnostics import MemorySampler

from tests.engine.conftest import eventually, pair, run


def test_a_sampler_of_memory_goes_on_under_the_next_leader() -> None:
    async def test() -> None:
        async with pair(1) as both:
            sampler = MemorySampler()
            async with sampler.sample("peak", client=both.client, interval=0.01):
                await both.kill_leader()
                first = await both.take_over()
                ((_, samples),) = first.extensions["memory_sampler"].samples.items()
                await eventually(lambda: len(samples) > 1)
            assert len(sampler.samples["peak"]) > 1
            assert not first.extensions["memory_sampler"].recorded

    run(test)


def test_a_sampler_of_a_client_that_is_gone_is_not_begun_again() -> None:
    async def test() -> None:
        async with pair(1) as both:
            start = both.client.scheduler.memory_sampler_start
            await start(client="Client-gone", measure="process", interval=60)
            await both.kill_leader()
            leader = await both.take_over()
            extension = leader.extensions["memory_sampler"]
            assert not extension.samples
            assert not extension.recorded

    run(test)
