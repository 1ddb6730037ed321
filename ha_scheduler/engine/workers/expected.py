"""The workers that a new leader expects: whom it calls, and how long each is awaited.

Guarantee: a worker of the ledger is taken for gone when its address refuses the connection, or when
nothing came of it for ``worker-ttl``; never for being slow.

Order: most come by themselves; who does not is called.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from time import time
from typing import Any

from ha_scheduler.engine.fencing import FencedComm
from ha_scheduler.engine.stream.tables import DELETED, Deleted, Table
from ha_scheduler.engine.takeover.scattered import ScatteredData
from ha_scheduler.engine.takeover.unseen_deaths import UnseenDeaths
from ha_scheduler.engine.workers.placement import Placement
from ha_scheduler.engine.workers.probe import WorkerSilent, call, until_gone
from ha_scheduler.engine.workers.retirement import Retirement
from ha_scheduler.protocol.codec import to_op
from ha_scheduler.protocol.worker import LeaderCalled

logger = logging.getLogger(__name__)

WORKERS = "worker"  # address of one that a new leader must expect, and may call → its name

COMING_SECONDS = 0.1  # after the last that came, the others are called
CALL_SECONDS = 2.0  # how long a leader tries to reach one worker


class ExpectedWorkers(Retirement, ScatteredData, Placement, UnseenDeaths):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.recorded_workers: dict[str, Any] = {}
        self._worker_rows = self.tables.add(
            Table(
                WORKERS, self.recorded_workers, apply=self._apply_worker, lead=self._inherit_workers
            )
        )
        self.inherited_workers: list[str] = []  # those of an earlier leader
        self._unreachable: set[str] = set()  # awaited ones whose host may be gone as well
        self._latest: dict[str, FencedComm] = {}  # by address: the registration under way, if any

    def _apply_worker(self, address: str, name: Any | Deleted) -> None:
        if name is not DELETED:
            self.aliases[name] = address  # restrictions may name it
            return
        for known in [known for known, at in self.aliases.items() if at == address]:
            del self.aliases[known]

    def _inherit_workers(self) -> None:
        self.inherited_workers = list(self.recorded_workers)
        self.aliases.clear()  # workers bring their own

    async def call_workers(self, expected: list[str], address: str) -> None:
        """Tell the workers of the ledger who leads that do not come by themselves.

        Most do: a daemon has told them, and each connection is a TLS handshake. One that refuses
        the connection is gone. One that does not answer is awaited: until the window is over if its
        host may be gone as well, and else until it is certainly gone.
        """
        await self.recovery.stalled(COMING_SECONDS)
        away = [w for w in expected if w in self.recovery.awaited and w not in self._latest]
        await asyncio.gather(*(self._call_worker(worker, address) for worker in away))

    async def _call_worker(self, worker: str, address: str) -> None:
        message = to_op(LeaderCalled(self.term, address, self.cell.leader, self.cell.cell_id))
        presented = getattr(self.rpc(worker), message.pop("op"))(**message)
        try:
            await call(worker, presented, CALL_SECONDS)
        except WorkerSilent as error:
            logger.info("Worker %s.", error, extra={"action": "worker_silent"})
            await self._watch_silent(worker)
        except TimeoutError:
            logger.info(
                "Nothing came from %s within %.1f s.",
                worker,
                CALL_SECONDS,
                extra={"action": "worker_unreachable"},
            )
            self._unreachable.add(worker)
            self._place_what_waited([worker])
        except OSError:
            self._died(worker)

    async def _watch_silent(self, worker: str) -> None:
        if await until_gone(worker, lambda: worker in self.recovery.awaited):
            self._died(worker)

    def _place_what_waited(self, workers: Iterable[str]) -> None:
        """These workers are not waited for any more."""
        if self.spoke(workers):
            stimulus_id = f"ha-waited-{time()}"
            self._place_unrunnable(stimulus_id)
            self.stimulus_queue_slots_maybe_opened(stimulus_id=stimulus_id)

    def _died(self, worker: str) -> None:
        if worker not in self.workers:
            self.worker_died(worker)
        self._forget_expected(worker)

    def _forget_expected(self, worker: str) -> None:
        logger.info("Worker %s is gone.", worker, extra={"action": "worker_gone"})
        if worker in self.workers:
            self.recovery.settled(worker)
            return
        self.end_departures_at(worker)
        self.transactions.note(self._worker_rows.delete(worker))
        self._will_not_report(worker)

    def _will_not_report(self, worker: str) -> None:
        self.departed.append(worker)
        self.recovery.settled(worker)
        if self.recovery.is_open:
            self.look_after_held(f"ha-gone-{time()}")
            self._place_what_waited([worker])

    # Silent workers

    def expect_silent(self) -> None:
        """The window is over: what the awaited workers may have is to wait for them."""
        self.silent = set(self.recovery.awaited - self._unreachable)

    def expect_late(self, missing: Iterable[str]) -> None:
        """Expect workers that did not report in time for as long as a worker may be silent.

        A later leader waits for them, too.
        """
        if self.worker_ttl:
            loop = asyncio.get_running_loop()
            for worker in missing:
                loop.call_later(self.worker_ttl, self._give_up, worker)

    def _give_up(self, worker: str) -> None:
        if worker not in self.workers:
            self._died(worker)
