"""Whoever has a certificate says what is wrong to an engine, and an honest user notices nothing.

A client and a worker of no good: valid messages with one field wrong, messages of other sides and
states, all of it more than once, and late. ``-m slow`` goes on for a minute.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from random import Random
from typing import Any

import pytest
from distributed.comm import connect

from chaos.faults.lies import of_ours, of_upstream, one_wrong
from tests.deadlines import SCALE
from tests.engine.callers import arguments, subjects
from tests.engine.conftest import Pair, pair

#: Upstream's ``event_wait`` with a timeout that is none makes the coroutine and raises.
pytestmark = pytest.mark.filterwarnings("ignore:coroutine 'Event.wait' was never awaited")

LATE_S_MAX = 3.0 * SCALE  # of an honest task, next to them in one event loop
ANSWER_S = 0.2

#: What any client may ask of a scheduler of Dask, and has to be answered for as it asked.
RIGHTS = frozenset(
    {
        *("terminate", "restart", "restart_workers", "retire_workers", "unregister", "proxy"),
        *("broadcast", "run_function", "rebalance", "replicate", "register_scheduler_plugin"),
        *("unregister_scheduler_plugin", "register_worker_plugin", "register_nanny_plugin"),
        *("unregister_worker_plugin", "unregister_nanny_plugin", "dump_cluster_state_to_url"),
        *("benchmark_hardware", "memory_sampler_start", "amm_handler", "feed", "set_restrictions"),
    }
)


class Adversary:
    """One process of no good; ``said``: how much it has got rid of."""

    def __init__(self, both: Pair, seed: int, caller: str = "") -> None:
        """``caller``: of ``tests/engine/callers.py``; who may nothing is to ask for everything."""
        self.both = both
        self.arguments = arguments(caller) if caller else {}
        self.spared = frozenset() if caller in ("eve", "joiner") else RIGHTS
        self.rng = Random(seed)
        self.said = 0
        self._late: list[Any] = []
        self._numbers = itertools.count()

    async def act(self) -> None:
        rng = self.rng
        with contextlib.suppress(OSError, TimeoutError):
            comm = await connect(self.both.leader.address, timeout=5, **self.arguments)
            try:
                async with asyncio.timeout(5):
                    await rng.choice([self._as_client, self._as_worker, self._calls])(comm)
            except asyncio.CancelledError:
                comm.abort()
                raise
            if rng.random() < 0.2:
                self._late.append(comm)  # says something later
            else:
                comm.abort()
        if len(self._late) > 5:
            late = self._late.pop(0)
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(1):
                    await self._say(late, self._message(self.both.leader.stream_handlers))
            late.abort()

    def _message(self, handlers: Any) -> dict[str, Any]:
        chosen = {op: handler for op, handler in handlers.items() if op not in self.spared}
        message = of_ours(self.rng) if self.rng.random() < 0.4 else of_upstream(chosen, self.rng)
        return one_wrong(message, self.rng) if self.rng.random() < 0.7 else message

    async def _say(self, comm: Any, *messages: Any) -> None:
        for message in messages:
            for _ in range(self.rng.choice([1, 1, 2])):
                await comm.write([message, message] if self.rng.random() < 0.3 else [message])
                self.said += 1

    async def _heard(self, comm: Any) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_S):
                while True:
                    with contextlib.suppress(TypeError):  # it asked for serializers of no use
                        await comm.read()

    async def _as_client(self, comm: Any) -> None:
        victim = self.both.client.id
        name = self.rng.choice([f"Client-evil-{next(self._numbers)}", victim, "queue-x", ""])
        registration = {"op": "register-client", "client": name, "reply": False, "versions": {}}
        if self.rng.random() < 0.2:
            registration = one_wrong(registration, self.rng)
        await comm.write(registration)
        handlers = self.both.leader.stream_handlers
        await self._say(comm, *(self._message(handlers) for _ in range(self.rng.randrange(1, 5))))
        await self._heard(comm)

    async def _as_worker(self, comm: Any) -> None:
        registration = {
            **of_ours(Random(0)),
            "op": self.rng.choice(["register-worker", "ha-register-worker"]),
            "address": "tcp://127.0.0.1:1",
            "status": "running",
            "server_id": f"evil-{next(self._numbers)}",
            "nanny": None,
            "ha": [1, [[], [], [], [], [], [], -1, {}], {}],
            "reply": False,
        }
        await comm.write(one_wrong(registration, self.rng))
        handlers = self.both.leader.stream_handlers
        await self._say(comm, *(self._message(handlers) for _ in range(self.rng.randrange(1, 5))))
        await self._heard(comm)

    async def _calls(self, comm: Any) -> None:
        for _ in range(self.rng.randrange(1, 4)):
            message = self._message(self.both.leader.handlers)
            for _ in range(self.rng.choice([1, 2])):
                await comm.write({**message, "reply": True})
                self.said += 1
        await self._heard(comm)


async def lied_to(
    both: Pair, seconds: float, seed: int, callers: tuple[str, ...] = ("", "", "")
) -> None:
    """An honest client works meanwhile, and nothing of it is late or lost."""
    held = both.client.submit(int, 7, pure=False, key="held")
    assert await held == 7
    adversaries = [Adversary(both, seed + n, caller) for n, caller in enumerate(callers)]
    over = time.monotonic() + seconds

    async def lie(adversary: Adversary) -> None:
        while time.monotonic() < over:
            await adversary.act()

    liars = [asyncio.create_task(lie(adversary)) for adversary in adversaries]
    worst = number = 0.0
    while time.monotonic() < over:
        began = time.monotonic()
        assert await both.client.submit(abs, -number, pure=False) == number
        worst = max(worst, time.monotonic() - began)
        number += 1
    await asyncio.gather(*liars)
    for adversary in adversaries:
        for late in adversary._late:
            late.abort()
    said = sum(adversary.said for adversary in adversaries)
    assert said > 5 * seconds / SCALE, said
    assert worst < LATE_S_MAX, (worst, number)
    assert held.status == "finished"
    assert await held == 7


async def goes_on(both: Pair) -> None:
    """Under the next leader, too, which has applied all that was recorded."""
    await both.kill_leader()
    await both.take_over()
    assert await both.client.submit(int, 9, pure=False) == 9
    assert await both.client.gather(both.client.map(abs, range(5), pure=False)) == list(range(5))


@pytest.mark.parametrize("seed", [1, 2])
async def test_an_honest_user_notices_nothing_of_what_others_say(seed: int) -> None:
    async with pair(1) as both:
        await lied_to(both, 3.0, seed)
        await goes_on(both)


async def test_an_honest_user_notices_nothing_of_whoever_has_a_token_of_another_kind() -> None:
    """An observer, another subject's client, a worker that acts as a client, a node that joins."""
    async with subjects() as both:
        name, session = both.client.id, both.client._ha.id
        await lied_to(both, 3.0, 5, ("eve", "bob", "node", "joiner"))
        assert both.leader.session_of[name] == session
        assert both.leader.subject_of(name) == "alice"
        await goes_on(both)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 22))
async def test_an_honest_user_notices_nothing_of_what_others_say_for_long(seed: int) -> None:
    async with pair(1) as both:
        await lied_to(both, 15.0, seed)
        await goes_on(both)
