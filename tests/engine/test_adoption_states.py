"""Whatever state a leader was in, the one that its successor adopts is valid and runs to the end.

Hypothesis decides what is submitted, what arrives when, what finishes, and when the leader dies;
the cell without a network (``model.py``) does it. All along, schedulers and workers validate each
transition; the adopted state is validated as a whole before anything is scheduled from it. At each
takeover an engine that followed and one that was started on the ledger stand at the same place.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.model import (
    Leader,
    Log,
    ModelClient,
    ModelWorker,
    follow,
    rebuild,
    settle_loop,
    standing,
)

STEPS_BEFORE_KILL_MAX = 100
STEPS_DURING_OUTAGE_MAX = 12
STEPS_TO_THE_END_MAX = 5_000
LOOKS_MAX = 10  # for what a worker misses: more do not bring it about
KINDS = ("good", "good", "good", "bad", "flaky")


class Play:
    """One cell, and the hand that moves it."""

    def __init__(self, choose: random.Random) -> None:
        self.choose = choose
        self.runs: Counter[str] = Counter()
        self.workers = [ModelWorker(number, self.runs) for number in range(3)]
        self.clients = [ModelClient(number) for number in range(2)]
        self.term = 1
        self.log = Log([])
        self.keys: list[str] = []
        self.inputs: dict[str, list[str]] = {}
        self.graphs: dict[str, list[str]] = {}  # the keys of the graph of each
        self.calm = choose.random() < 0.3  # nothing that makes a task run again: see ``check_runs``
        self.kinds = (*KINDS, "actor") if self.calm else KINDS  # none is lost with its worker
        self.moves = self._draw_moves()
        self.idle_during_outage = choose.random() < 0.5
        self.lost_data = False  # a worker died: scattered data may be told as lost
        self.registrations: list[asyncio.Task[Any]] = []

    # The first leader, and each next one

    async def begin(self) -> None:
        self.leader = Leader()
        self.leader.replay.caught_up()
        self.leader.lead(1, self.log)
        await self._join_all()
        await self.run_to_the_end()  # a cell knows its clients

    async def _join_all(self) -> None:
        for worker in self._shuffled(self.workers):
            if not self.calm and self.choose.random() < 0.1:
                self.leader.recovery._open()  # the window is over: who comes now is late
            self.registrations.append(worker.join(self.leader, self.term))
            await settle_loop()
        for client in self._shuffled(self.clients):
            client.join(self.leader)
        await asyncio.gather(*self.registrations)
        self.registrations.clear()

    def kill(self) -> None:
        """The leader is no more; some of what it had not yet known to be committed may be."""
        leader, log = self.leader, self.log
        if self.choose.random() < 0.5:
            leader.recorder.flush()
        leader.recorder = None
        kept = self.choose.randint(log.committed, len(log.records))
        self.log = Log(log.records[:kept])
        for worker in self.workers:
            worker.lose_leader()
        for client in self.clients:
            client.wire.abort()

    def kill_worker(self) -> None:
        """A worker dies with the leader."""
        self.workers.remove(self.choose.choice(self.workers))
        self.lost_data = True

    async def take_over(self) -> None:
        self.term += 1
        standbys = [follow(self.log.records), rebuild(self.log.records)]
        follower, rebuilt = map(standing, standbys)
        assert follower == rebuilt
        self.leader = self.choose.choice(standbys)
        self.leader.lead(self.term, self.log)
        for address in self.leader.recovery.awaited - {w.address for w in self.workers}:
            self.leader._forget_expected(address)
        await self._join_all()
        await settle_loop()
        self.leader.validate_state()

    # What may happen while a leader leads

    def _draw_moves(self) -> list[Any]:
        """What happens how often: another mixture in each play.

        In some threads are slow, in others the wires, in others again clients change their minds.
        """
        moves = [self.submit, self.flush, self.commit, self.scatter]
        moves += [self.deliver] * self.choose.choice((2, 8, 16))
        moves += [self.work] * self.choose.choice((1, 3, 6))
        if not self.calm:
            unrest = [
                self.release, self.resubmit, self.balance, self.reconnect, self.retry,
                self.give_back, self.put_off,
            ]  # fmt: skip
            for move in unrest:
                moves += [move] * self.choose.choice((0, 1, 3))
        return moves

    async def step(self) -> None:
        await self.choose.choice(self.moves)()
        await settle_loop()

    async def submit(self) -> None:
        client = self.choose.choice(self.clients)
        tasks: dict[str, list[str]] = {}
        earlier = [k for k, state in client.states.items() if state != "cancelled"]
        for _ in range(self.choose.randint(1, 5)):
            key = f"{self.choose.choice(self.kinds)}-{len(self.keys)}"
            candidates = [*earlier, *tasks]
            count = min(len(candidates), self.choose.choice((0, 1, 1, 2, 3)))
            tasks[key] = self.choose.sample(candidates, count)
            self.keys.append(key)
        self.inputs.update(tasks)
        self.graphs.update({key: list(tasks) for key in tasks})
        wanted = {k for k in tasks if self.choose.random() < 0.5} or {next(iter(tasks))}
        wanted.update(key for key in tasks if key.startswith("actor"))
        client.submit(tasks, wanted, self._annotations())

    def _annotations(self) -> dict[str, Any]:
        annotations: dict[str, Any] = {"retries": 2}
        kind = self.choose.randrange(6)
        if kind == 0:
            annotations["priority"] = self.choose.randint(-2, 2)
        elif kind == 1:
            annotations["workers"] = [self.choose.choice(self.workers).address]
            annotations["allow_other_workers"] = True
        elif kind == 2:
            annotations["resources"] = {"R": 1}
        return annotations

    async def release(self) -> None:
        client = self.choose.choice(self.clients)
        if client.states:
            client.release(self.choose.choice(sorted(client.states)))

    async def flush(self) -> None:
        self.leader.recorder.flush()

    async def commit(self) -> None:
        self.log.commit(self.choose.randint(self.log.committed, len(self.log.records)))

    async def balance(self) -> None:
        self.leader.extensions["stealing"].balance()
        self.leader.extensions["amm"].run_once()

    async def scatter(self) -> None:
        client, worker = self.choose.choice(self.clients), self.choose.choice(self.workers)
        if client.id not in self.leader.clients or self.choose.random() < 0.7:
            return
        key = f"data-{len(self.keys)}"
        self.keys.append(key)
        self.inputs[key] = []
        worker.hold(key)
        self.leader.update_data(who_has={key: [worker.address]}, nbytes={key: 1}, client=client.id)
        client.states[key] = "finished"
        self.leader.recorder.flush()
        self.log.commit(len(self.log.records))  # it is answered when it has committed

    async def retry(self) -> None:
        erred = [ts for ts in self.leader.tasks.values() if ts.state == "erred"]
        failed = sorted(ts.key for ts in erred)
        # With two inputs that failed, upstream's own validation fails (scheduler.py:2139).
        diamond = any(sum(d.state == "erred" for d in ts.dependencies) > 1 for ts in erred)
        # Upstream forgets such a task, and then looks at it (scheduler.py:5544).
        lost = any(ts.has_lost_dependencies for ts in erred)
        if failed and not (diamond or lost) and self.choose.random() < 0.3:
            self.leader.stimulus_retry([self.choose.choice(failed)])

    async def reconnect(self) -> None:
        """A worker loses its connection and joins again."""
        worker = self.choose.choice(self.workers)
        if self.choose.random() < 0.7:
            return
        worker.lose_leader()
        self.leader.stream_comms[worker.address].abort()
        ws = self.leader.workers[worker.address]
        self.leader.handle_worker_status_change("paused", ws, "lost")
        for _ in range(self.choose.randint(0, 3)):
            await self.work()
        if self.choose.random() < 0.3:  # for so long that it is taken for dead
            await self.leader.remove_worker(worker.address, stimulus_id="dead", close=False)
            self.lost_data = True
            for _ in range(self.choose.randint(0, 10)):
                await self.deliver() or await self.work()
        await worker.join(self.leader, self.term)
        self.leader.validate_state()

    async def resubmit(self) -> None:
        """A client wants again what it has released, which may be running yet, or cancelled."""
        client = self.choose.choice(self.clients)
        released = [k for k in self.graphs if k not in client.states and not self._on_data(k)]
        if released:
            key = self.choose.choice(released)
            tasks = {k: self.inputs[k] for k in self.graphs if k in {key, *self._all_inputs(key)}}
            client.submit(tasks, {key}, {"retries": 2})

    def _on_data(self, key: str) -> bool:
        return any(i.startswith("data") for i in self._all_inputs(key))

    async def give_back(self) -> None:
        """A task raises ``Reschedule``."""
        moves = [(w, key) for w in self.workers for key in w.executing]
        if moves and self.choose.random() < 0.3:
            worker, key = self.choose.choice(moves)
            worker.give_back(key)

    async def put_off(self) -> None:
        """A worker has too many transfers to serve another."""
        asking = [worker for worker in self.workers if worker.gathers]
        if asking:
            self.choose.choice(asking).be_put_off()

    async def deliver(self) -> bool:
        """One message of some wire."""
        moves: list[Any] = []
        for worker in self.workers:
            wire = self.leader.stream_comms.get(worker.address)
            if wire is not None and wire.queue:
                moves.append((worker.handle, wire, {}))
            if worker.wire.queue:
                moves.append((self.leader.handle, worker.wire, {"worker": worker.address}))
        for client in self.clients:
            wire = self.leader.client_comms.get(client.id)
            if wire is not None and wire.queue:
                moves.append((client.handle, wire, {}))
            if client.wire.queue:
                moves.append((self.leader.handle, client.wire, {"client": client.id}))
        if not moves:
            return False
        handle, wire, sender = self.choose.choice(moves)
        result = handle(wire.queue.popleft(), **sender)
        if result is not None:
            await result
        return True

    async def work(self) -> bool:
        """A thread or a transfer of some worker gets on."""
        moves: list[Any] = []
        for worker in self.workers:
            moves += [(worker.finish, key) for key in worker.executing]
            for key in worker.executing:
                state = worker.state.tasks[key].state
                if key not in worker.seceded and state == "executing":
                    moves.append((worker.secede, key))
            moves += [(worker.ask_again, busy) for busy in worker.busy]
            if worker.gathers:
                moves.append((worker.receive, self._worker_at(worker.gathers[0].worker)))
        if not moves:
            return False
        move, argument = self.choose.choice(moves)
        move(argument)
        return True

    def _worker_at(self, address: str) -> ModelWorker | None:
        return next((w for w in self.workers if w.address == address), None)

    def _shuffled(self, things: list[Any]) -> list[Any]:
        return self.choose.sample(things, len(things))

    # The end

    async def run_to_the_end(self) -> None:
        looks = 0
        for _ in range(STEPS_TO_THE_END_MAX):
            await settle_loop()
            if await self.deliver() or await self.work():
                continue
            self.leader.recorder.flush()
            if self.log.committed < len(self.log.records):
                self.log.commit(len(self.log.records))
                continue
            missing = [w for w in self.workers if w.state.missing_dep_flight]
            looks += 1
            if not missing or looks > LOOKS_MAX:
                return
            # An orphan may wait for what nobody makes.
            self.leader.adoption.orphans.expire("the-end")
            for worker in missing:
                worker.look_for_missing()
        raise AssertionError("the cell does not come to rest")

    def _all_inputs(self, key: str) -> set[str]:
        direct = set(self.inputs[key])
        return direct.union(*map(self._all_inputs, direct))

    def fails(self, key: str) -> bool:
        """Whether a task, or one that it needs, always fails."""
        return key.startswith("bad") or any(map(self.fails, self.inputs[key]))

    def needs_data(self, key: str) -> bool:
        """Whether a key is scattered data, or of a graph that needs some: that is refused whole."""
        inputs = {i for k in self.graphs.get(key, ()) for i in self.inputs[k]}
        return key.startswith("data") or any(
            self.needs_data(i) for i in inputs - set(self.graphs[key])
        )

    def check_runs(self) -> None:
        """No task that succeeded ran again, but for inputs of one that failed.

        Those are released when it fails, and nobody may know any more that it did.
        """
        spoilt = {i for key in self.inputs if self.fails(key) for i in self._all_inputs(key)}
        again = [k for k, n in self.runs.items() if n > 1 and k.startswith(("good", "actor"))]
        again = [key for key in again if key not in spoilt]
        assert not (self.calm and again), again

    def check_outcomes(self) -> None:
        self.leader.validate_state()
        for client in self.clients:
            for key, state in client.states.items():
                if self.lost_data and state == "cancelled" and self.needs_data(key):
                    continue
                assert state == ("error" if self.fails(key) else "finished"), (key, state)
                if state == "finished":
                    holders = self.leader.tasks[key].who_has
                    assert holders, key
                    for ws in holders:
                        worker = self._worker_at(ws.address).state
                        assert {**worker.data, **worker.actors}[key] == key

    async def release_all(self) -> None:
        for client in self.clients:
            for key in list(client.states):
                client.release(key)
        await self.run_to_the_end()
        self.leader.adoption.orphans.expire("the-end")
        await self.run_to_the_end()

    def check_nothing_is_left(self) -> None:
        assert not self.leader.tasks
        assert not self.leader.graphs._live
        for worker in self.workers:
            assert not worker.state.tasks, worker.state.tasks
            assert not worker.state.actors
            assert not worker.executing


async def _play(choose: random.Random, failovers: int) -> None:
    play = Play(choose)
    await play.begin()
    for _ in range(failovers):
        for _ in range(choose.randint(0, STEPS_BEFORE_KILL_MAX)):
            await play.step()
        if choose.random() < 0.3:  # else work is hardly ever all done
            await play.run_to_the_end()
        play.kill()
        if not play.calm and len(play.workers) > 1 and choose.random() < 0.25:
            play.kill_worker()
        if not play.idle_during_outage:
            for _ in range(choose.randint(0, STEPS_DURING_OUTAGE_MAX)):
                await play.work()
        await play.take_over()
    await play.run_to_the_end()
    play.check_outcomes()
    play.check_runs()
    await play.release_all()
    play.check_nothing_is_left()


# Always the same plays, but if more are asked for: about one in a thousand meets accounts of
# upstream's that its own validation does not accept (``needs_what`` of lost or discarded data).
@settings(
    max_examples=int(os.environ.get("DASK_HA_TEST_SEEDS", 60)),
    derandomize="DASK_HA_TEST_SEEDS" not in os.environ,
    deadline=None,
)
@given(st.randoms(use_true_random=False), st.integers(1, 3))
def test_any_state_of_a_leader_is_adopted_and_runs_to_its_results(
    choose: random.Random, failovers: int
) -> None:
    asyncio.run(_play(choose, failovers))
