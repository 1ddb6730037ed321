"""Where the next leader places what was ready to run when the former one died."""

from __future__ import annotations

import threading

from tests.engine.conftest import eventually, pair

PATIENCE_S = 30.0
gate = threading.Event()


def block(_: object = None) -> bytes:
    assert gate.wait(PATIENCE_S)
    return b"x" * 1_000_000


async def test_tasks_that_became_ready_while_nobody_led_run_where_their_inputs_are() -> None:
    """Not all on the worker that happens to be the first to join."""
    gate.clear()
    async with pair() as both:
        client, addresses = both.client, [worker.address for worker in both.workers]
        # More than four, or else whoever uses them may run anywhere (``is_rootish``).
        inputs = [
            client.submit(block, key=f"input-{n}", workers=[addresses[n % 2]]) for n in range(6)
        ]
        users = [
            [client.submit(block, data, key=f"user-{n}-{m}") for m in range(3)]
            for n, data in enumerate(inputs)
        ]
        await eventually(lambda: len(both.leader.tasks) == 24)
        await eventually(lambda: all(len(worker.state.tasks) == 3 for worker in both.workers))
        await both.kill_leader()
        gate.set()
        await eventually(lambda: all(len(worker.data) == 3 for worker in both.workers))
        gate.clear()
        leader = await both.take_over()
        for n, futures in enumerate(users):
            placed = {leader.tasks[future.key].processing_on.address for future in futures}
            assert placed == {addresses[n % 2]}
        gate.set()
        await client.gather([future for futures in users for future in futures])
