"""P2P shuffles that go on under a new leader.

Guarantee: a run and the processes that take part are in the event stream before any of them learns
of it. So a new leader answers for the run under its id, and transferred data stays with the
workers; if one of the processes is gone, even if another has its address, the shuffle starts anew.
Run ids of a later term are higher than earlier ones, as workers require (hazards 7 and 8). A worker
is told to end a run that is over.

Order of a takeover: output tasks are marked before anything is placed; reports are adopted; each
run goes on or starts anew; workers end what is over, and only then work.

Where an output task may run is not recorded: on the wrong worker it asks to be restricted and is
scheduled again (shuffle/_core.py, ``_ensure_output_worker``). A worker's complaint of a run that is
over is no error of the user's: the shuffle starts anew, at most ``ANEW_MAX`` times.
"""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from time import time
from typing import Any

from distributed.protocol.pickle import dumps
from distributed.scheduler import Msgs
from distributed.shuffle._core import SchedulerShuffleState, ShuffleId, barrier_key, id_from_key
from distributed.shuffle._exceptions import P2PConsistencyError
from distributed.shuffle._scheduler_plugin import ShuffleSchedulerPlugin

from ha_scheduler import failpoints
from ha_scheduler.engine.base import SchedulerBase
from ha_scheduler.engine.stream.tables import Table
from ha_scheduler.engine.takeover.shuffle_errors import FAILED, OVERTAKEN, shuffles_of

logger = logging.getLogger(__name__)

SHUFFLES = "shuffle"  # shuffle id → pickled run spec
MEMBERS = "shuffle-members"  # shuffle id → its ``Members``

ANEW_MAX = 3  # times that one shuffle starts anew because a worker complained
#: Where a transition ends that matters to upstream's plugin (shuffle/_scheduler_plugin.py:463).
_ENDS = frozenset({"released", "erred", "forgotten"})

_GOING_ON = frozenset({"waiting", "queued", "no-worker", "processing", "memory"})

#: What a worker says of its runs: the shuffle, the run, and whether it goes on there.
ReportedRuns = Iterable[tuple[ShuffleId, int, bool]]

Members = dict[str, str]  # the ids of the processes that take part, by address


class Shuffles(ShuffleSchedulerPlugin):
    scheduler: SchedulerBase

    def __init__(self, scheduler: SchedulerBase) -> None:
        super().__init__(scheduler)
        self.recorded: dict[ShuffleId, bytes] = {}
        self.members: dict[ShuffleId, Members] = {}
        self._specs = scheduler.tables.add(
            Table(
                SHUFFLES,
                self.recorded,
                lead=self.prepare,
                settle=self.restore,
                void_on_restart=True,
            )
        )
        self._members = scheduler.tables.add(Table(MEMBERS, self.members, void_on_restart=True))
        self._heard: dict[str, ReportedRuns] = {}  # by worker, until ``end_strays``
        #: Those that have begun anew, and how often because a worker complained.
        self._begun_anew: Counter[ShuffleId] = Counter()
        self._runs = itertools.count(1)

    # What workers ask

    async def get_or_create(  # type: ignore[override]  # a handler may be a coroutine
        self, shuffle_id: Any, key: Any, worker: str
    ) -> Any:
        """As upstream's, after the run and the worker's part in it have committed."""
        failpoints.reach("shuffle_get_or_create.arrived")
        answer = super().get_or_create(shuffle_id, key, worker)
        await self.scheduler.transactions.settled()
        failpoints.reach("shuffle_get_or_create.committed")
        return answer

    async def get(self, id: Any, worker: str) -> Any:  # type: ignore[override]
        """As upstream's, after the worker's part in it has committed."""
        answer = super().get(id, worker)
        await self.scheduler.transactions.settled()
        return answer

    async def barrier(self, id: Any, run_id: int, consistent: bool) -> None:
        """As upstream's. Raises ``P2PConsistencyError`` for a run that is over."""
        failpoints.reach("shuffle_barrier.arrived")
        self._require(id, run_id)
        await super().barrier(id, run_id, consistent)
        failpoints.reach("shuffle_barrier.done")

    def restrict_task(self, id: Any, run_id: int, key: Any, worker: str) -> Any:
        """As upstream's. Raises ``P2PConsistencyError`` for a run that is over."""
        failpoints.reach("shuffle_restrict_task.arrived")
        self._require(id, run_id)
        answer = super().restrict_task(id, run_id, key, worker)
        failpoints.reach("shuffle_restrict_task.done")
        return answer

    def _require(self, shuffle_id: ShuffleId, run_id: int) -> None:
        # Upstream's KeyError reaches the user as a RuntimeError, which ``overtaken`` cannot tell
        # from a failure of the data's.
        run = self.active_shuffles.get(shuffle_id)
        if run is None or run.run_id != run_id:
            raise P2PConsistencyError(f"run {run_id} of shuffle {shuffle_id} is over")

    # What is recorded

    def _create(self, shuffle_id: Any, key: Any, worker: str) -> Any:
        run_spec = super()._create(shuffle_id, key, worker)
        state = self.active_shuffles[shuffle_id]
        self._shuffles[shuffle_id].discard(state)  # its hash is its run id
        object.__setattr__(run_spec, "run_id", self.scheduler.term << 32 | next(self._runs))
        self._shuffles[shuffle_id].add(state)
        # In this order: no run is known without its members.
        members = self._ids(state.participating_workers)
        self.scheduler.transactions.note(self._members.set(shuffle_id, members))
        self.scheduler.transactions.note(self._specs.set(shuffle_id, bytes(dumps(run_spec))))
        return run_spec

    def _get(self, id: Any, worker: str) -> Any:
        run_spec = super()._get(id, worker)
        present = self.members[id] | self._ids((worker,))
        if present != self.members[id]:
            self.scheduler.transactions.note(self._members.set(id, present))
        return run_spec

    def _ids(self, addresses: Iterable[str]) -> Members:
        workers = self.scheduler.workers
        return {address: workers[address].server_id for address in addresses if address in workers}

    def _clean_on_scheduler(self, id: Any, stimulus_id: str) -> None:
        super()._clean_on_scheduler(id, stimulus_id)
        self._forget(id)

    def _forget(self, shuffle_id: ShuffleId) -> None:
        if shuffle_id in self.recorded:
            self.scheduler.transactions.note(self._specs.delete(shuffle_id))
        if shuffle_id in self.members:
            self.scheduler.transactions.note(self._members.delete(shuffle_id))

    def _set_restriction(self, ts: Any, worker: str) -> None:
        """As upstream's, without recording it as a client's.

        Its end would have to be recorded too, or the task stays bound to that worker for ever under
        a new leader.
        """
        annotations = ts.annotations = ts.annotations or {}
        if "shuffle_original_restrictions" not in annotations:
            annotations["shuffle_original_restrictions"] = ts.worker_restrictions
            ts.worker_restrictions = {worker}

    def _unset_restriction(self, ts: Any) -> None:
        if ts.annotations and "shuffle_original_restrictions" in ts.annotations:
            ts.worker_restrictions = ts.annotations.pop("shuffle_original_restrictions")

    # A takeover

    def prepare(self) -> None:
        """Before anything is placed: output tasks of runs that go on must not be queued."""
        for shuffle_id in self.recorded:
            barrier = self.scheduler.tasks.get(barrier_key(shuffle_id))
            for task in barrier.dependents if barrier is not None else ():
                task._queueable = False

    def hear(self, reports: Mapping[str, ReportedRuns]) -> None:
        """What joining workers report of their runs."""
        self._heard.update(reports)

    def restore(self) -> None:
        """The reports are adopted: each run goes on or starts anew."""
        stimulus_id = f"ha-shuffles-{time()}"
        told = {shuffle_id for runs in self._heard.values() for shuffle_id, _, _ in runs}
        known = list(dict.fromkeys((*self.recorded, *self.members, *sorted(told))))
        for shuffle_id in known:
            awaited = shuffle_id in self.recorded and self._is_awaited(shuffle_id)
            if not (awaited and self._revive(shuffle_id)):
                self._forget(shuffle_id)
        for shuffle_id in known:
            if shuffle_id in self.active_shuffles:
                if not self._is_whole(shuffle_id):
                    self._begin_anew(shuffle_id, stimulus_id)
            elif self._has_leftovers(shuffle_id):
                self._begin_anew(shuffle_id, stimulus_id)

    def _is_awaited(self, shuffle_id: ShuffleId) -> bool:
        barrier = self.scheduler.tasks.get(barrier_key(shuffle_id))
        return barrier is not None and barrier.state in _GOING_ON

    def _revive(self, shuffle_id: ShuffleId) -> bool:
        """Whether it goes on; it begins anew if what was recorded of it cannot be read here."""
        recorded = self.recorded[shuffle_id]
        try:
            run_spec = self.scheduler.exposures.read("shuffle", shuffle_id, recorded)
        except Exception:  # pickle runs the code of users
            logger.warning(
                "Shuffle %s cannot be read here, and begins anew.",
                shuffle_id,
                exc_info=True,
                extra={"action": "shuffle_unreadable"},
            )
            return False
        state: SchedulerShuffleState[Any] = SchedulerShuffleState(
            run_spec=run_spec, participating_workers=set(self.members[shuffle_id])
        )
        self.active_shuffles[shuffle_id] = state
        self._shuffles[shuffle_id].add(state)
        return True

    def _is_whole(self, shuffle_id: ShuffleId) -> bool:
        """Whether each process that takes part is here and has not ended the run."""
        workers = self.scheduler.workers
        run_id = self.active_shuffles[shuffle_id].run_id
        for address, server_id in self.members[shuffle_id].items():
            ws = workers.get(address)
            if ws is None or ws.server_id != server_id:
                return False
            if any(
                told == shuffle_id and ended >= run_id and not goes_on
                for told, ended, goes_on in self._heard.get(address, ())
            ):
                return False
        return True

    def _has_leftovers(self, shuffle_id: ShuffleId) -> bool:
        """Whether there are results of a needed run that an earlier leader ended."""
        if not self._is_awaited(shuffle_id):
            return False
        barrier = self.scheduler.tasks[barrier_key(shuffle_id)]
        return barrier.state in ("processing", "memory") or any(
            task.state == "memory" for task in barrier.dependencies
        )

    def _begin_anew(self, shuffle_id: ShuffleId, stimulus_id: str) -> None:
        logger.warning(
            "Shuffle %s starts anew: not all that took part in it goes on.",
            shuffle_id,
            extra={"action": "shuffle_restarted"},
        )
        self._begun_anew.setdefault(shuffle_id, 0)
        state = self.active_shuffles.get(shuffle_id)
        if state is not None:
            self._fail_on_workers(state, f"{state} starts anew")
            self._clean_on_scheduler(shuffle_id, stimulus_id)
        self._restart_shuffle(shuffle_id, self.scheduler, stimulus_id=stimulus_id)

    def end_strays(self) -> None:
        """End runs that are over on workers that still have them."""
        worker_msgs: Msgs = {}
        for address, runs in self._heard.items():
            for shuffle_id, run_id, goes_on in runs:
                active = self.active_shuffles.get(shuffle_id)
                if goes_on and (active is None or active.run_id != run_id):
                    worker_msgs.setdefault(address, []).append(
                        {
                            "op": "shuffle-fail",
                            "shuffle_id": shuffle_id,
                            "run_id": run_id,
                            "message": f"run {run_id} of shuffle {shuffle_id} is over",
                        }
                    )
        self._heard.clear()
        self.scheduler.send_all({}, worker_msgs)

    # What workers complain of

    def overtaken(self, ts: Any, exception_text: str, stimulus_id: str) -> bool:
        """A task failed. Whether its run is over: then its shuffle starts anew.

        So it does, within the same limit, if a transfer failed while members were lost.
        """
        ids = [shuffle_id for shuffle_id in shuffles_of(ts) if self._is_awaited(shuffle_id)]
        failed = exception_text.startswith(FAILED) and any(map(self._was_interrupted, ids))
        if not (failed or exception_text.startswith(OVERTAKEN)):
            return False
        if not ids or any(self._begun_anew[shuffle_id] >= ANEW_MAX for shuffle_id in ids):
            return False
        self._begun_anew.update(ids)
        for shuffle_id in ids:
            self._begin_anew(shuffle_id, stimulus_id)
        return True

    def _was_interrupted(self, shuffle_id: ShuffleId) -> bool:
        """Whether it lost a leader or a member, so that a transfer may have failed."""
        active = self.active_shuffles.get(shuffle_id)
        adopted = active is not None and active.run_id >> 32 < self.scheduler.term
        begun_anew = shuffle_id in self._begun_anew or len(self._shuffles[shuffle_id]) > 1
        return adopted or begun_anew

    def transition(self, key: Any, start: Any, finish: Any, *args: Any, **kwargs: Any) -> None:
        if finish not in _ENDS:
            return  # as upstream's, which is called here for each transition of any task
        super().transition(key, start, finish, *args, **kwargs)
        shuffle_id = id_from_key(key) if self._begun_anew and finish == "forgotten" else None
        if shuffle_id is not None:
            self._begun_anew.pop(shuffle_id, None)
