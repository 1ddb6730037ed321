"""Workers that were told to go: to retire, or to restart. What a leader began, the next finishes.

Guarantee: a retirement whose leader died is carried through by the next one, whether whoever asked
for it asks again or not; so is the restart of a worker. After ``restart`` has been answered nothing
of before is there, under any leader, and no worker is touched before that is certain: its first
record makes everything void at once, its last one is awaited before a worker is killed or a client
is told. Killed before the first has committed, it did not happen; after it, the next leader kills
the workers that are still those of before.

Order: a row is written when a departure begins and deleted when the worker is gone or stays. A
worker is known by the id of its process: another one at its address is none that must go.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable
from time import time
from typing import Any

from distributed.core import Status
from distributed.protocol.pickle import dumps

from ha_scheduler import failpoints
from ha_scheduler.engine.fencing import LeaseLike, hold
from ha_scheduler.engine.graphs import INLINE_BYTES_MAX
from ha_scheduler.engine.recorder import Recorder
from ha_scheduler.engine.values import DEPARTURES, Values, value_set
from ha_scheduler.ledger.calls import pack_payload
from ha_scheduler.ledger.records import Called, Restarted, encode

logger = logging.getLogger(__name__)

#: Address of the worker, "retire" or "restart"; of a retirement: close it then, remove it then
Departure = tuple[str, str, bool, bool]


class Departures:
    """The part of our Scheduler that sees departures through; a mixin before upstream's class."""

    # Of the class that this is mixed into
    recorder: Recorder | None
    lease: LeaseLike
    values: Values
    workers: dict[str, Any]
    departures: dict[str, Departure]  # by id of the worker's process
    _inherited: set[str]  # those that a former leader began
    _resumed: set[asyncio.Task[None]]
    _carried_through: dict[str, Any]  # what became of retirements that were resumed, by address
    _restarting = False  # within the step in which ``restart`` makes everything void
    _void: asyncio.Event | None = None  # set when the last record of that step has committed
    _releases_implied: bool

    # Retirements

    async def retire_workers(
        self, workers: list[str] | None = None, *, names: list[Any] | None = None, **how: Any
    ) -> dict[str, Any]:
        """As upstream's; who asks again is told what was carried through without him."""
        retired = await super().retire_workers(workers, names=names, **how)  # type: ignore[misc]
        wanted = {str(name) for name in names or ()}
        before = {
            address: info
            for address, info in self._carried_through.items()
            if address in (workers or ()) or str(info["name"]) in wanted
        }
        return {**before, **retired}

    def _track_retire_worker(
        self, ws: Any, policy: Any, prev_status: Any, **how: Any
    ) -> Coroutine[Any, Any, Any]:
        """As upstream's, which gives a worker that cannot retire the status that it had before.

        One that was retiring under an earlier leader works again then, rather than never more.
        Called in the step in which the status changes (scheduler.py:7601), awaited later.
        """
        if prev_status == Status.closing_gracefully:
            prev_status = Status.running
        self._begin_departure(ws, (ws.address, "retire", how["close"], how["remove"]))
        self.values.write_soon(DEPARTURES, ws.server_id)
        tracked = super()._track_retire_worker(  # type: ignore[misc]
            ws, policy, prev_status=prev_status, **how
        )
        return self._until_it_ended(ws.server_id, tracked)

    async def _until_it_ended(self, worker_id: str, tracked: Coroutine[Any, Any, Any]) -> Any:
        try:
            return await tracked
        finally:
            self._end_departure(worker_id)

    # Restarts

    async def restart(self, **how: Any) -> Any:
        """As upstream's, as a barrier: see this module."""
        await hold(self.lease)  # what a leader of the past would do to workers cannot be undone
        failpoints.reach("restart.arrived")
        if self.recorder is not None:
            self._make_void(self.recorder)
        self._restarting = self._releases_implied = True
        try:
            return await super().restart(**how)  # type: ignore[misc]
        finally:
            self._restarting = self._releases_implied = False

    def _make_void(self, recorder: Recorder) -> None:
        """One record: nothing of before is there, and every worker is to restart."""
        rows = []
        for ws in self.workers.values():
            departure = _restart_of(ws)
            self._begin_departure(ws, departure)
            row = value_set(recorder, DEPARTURES, ws.server_id, bytes(dumps(departure)))
            rows.append(encode(row))
        payload = pack_payload((encode(Restarted("")), *rows), b"")
        blob = parts = 0
        if len(payload) > INLINE_BYTES_MAX:
            blob, parts = recorder.append_blob(payload)
            payload = b""
        recorder.append(Called("", 0, 0, payload, blob, parts, recorder.term))

    def end_of_everything(self) -> None:
        """The last record of what ``restart`` makes void."""
        if self.recorder is not None:
            committed = self._void = asyncio.Event()
            self.recorder.append(Restarted(""), on_commit=committed.set)

    def report(self, msg: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        """As upstream's; of a restart clients hear when it is certain."""
        if not (self._restarting and msg.get("op") == "restart"):
            super().report(msg, *args, **kwargs)  # type: ignore[misc]

    async def restart_workers(self, workers: list[str] | None = None, **how: Any) -> Any:
        """As upstream's, once it is certain that the next leader would do it as well."""
        everything, self._restarting, self._releases_implied = self._restarting, False, False
        await hold(self.lease)
        chosen = [a for a in (self.workers if workers is None else workers) if a in self.workers]
        leaving = {a: self.workers[a].server_id for a in chosen}
        for address in chosen:
            self._begin_departure(self.workers[address], _restart_of(self.workers[address]))
        failpoints.reach("restart.appended")
        await asyncio.gather(*(self.values.write(DEPARTURES, id_) for id_ in leaving.values()))
        if everything and self._void is not None:
            await self._void.wait()
        failpoints.reach("restart.committed")
        if everything:
            super().report({"op": "restart"})  # type: ignore[misc]
        try:
            return await super().restart_workers(workers, **how)  # type: ignore[misc]
        finally:
            for id_ in leaving.values():
                self._end_departure(id_)

    # What the ledger knows of them

    def _begin_departure(self, ws: Any, departure: Departure) -> None:
        self._inherited.discard(ws.server_id)
        self._carried_through.pop(ws.address, None)  # that was another worker
        self.departures[ws.server_id] = departure

    def _end_departure(self, worker_id: str) -> None:
        self._inherited.discard(worker_id)
        if self.departures.pop(worker_id, None) is not None:
            self.values.write_soon(DEPARTURES, worker_id)

    def end_departures_at(self, address: str) -> None:
        """Nobody is at this address any more who could go."""
        for worker_id in [i for i, (at, *_) in self.departures.items() if at == address]:
            self._end_departure(worker_id)

    # At a takeover

    def inherit_departures(self) -> None:
        """This engine is about to lead: what is under way is what a former leader began."""
        self._inherited = set(self.departures)

    def resume_departures(self, addresses: Iterable[str]) -> None:
        """These workers have come: those that were about to go do so."""
        for address in addresses:
            ws = self.workers.get(address)
            if ws is not None and ws.server_id in self._inherited:
                self._inherited.discard(ws.server_id)
                task = asyncio.create_task(self._resume(ws, self.departures[ws.server_id]))
                self._resumed.add(task)
                task.add_done_callback(self._resumed.discard)

    async def _resume(self, ws: Any, departure: Departure) -> None:
        address, kind, close, remove = departure
        logger.info(
            "Worker %s goes on to %s.", address, kind, extra={"action": "departure-resumed"}
        )
        try:
            if kind == "retire":
                retired = await self.retire_workers([address], close_workers=close, remove=remove)
                self._carried_through.update(retired)
            else:
                await self.restart_workers(
                    [address],
                    wait_for_workers=False,
                    on_error="return",
                    stimulus_id=f"ha-restart-{time()}",
                )
        except Exception:
            logger.exception(
                "Worker %s did not %s; ask for it again.",
                address,
                kind,
                extra={"action": "departure-failed"},
            )


def _restart_of(ws: Any) -> Departure:
    return ws.address, "restart", False, False
