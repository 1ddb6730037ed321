"""What clients want, recorded as it happens.

Guarantee: each change of intent (a key desired or released, an error, scattered data; a graph,
``submissions.py``) is appended to the event stream in the event-loop step of the change, before its
consequences. On a follower ``recorder`` is None, and the same methods apply records and write none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

from distributed.core import error_message
from distributed.scheduler import ClientState, Recs, TaskState

from ha_scheduler import failpoints
from ha_scheduler.engine.clients.submissions import Submissions
from ha_scheduler.engine.step import Step
from ha_scheduler.engine.stream.keys import Key, check_client, encode_key
from ha_scheduler.engine.stream.pending_releases import FIRE_AND_FORGET
from ha_scheduler.engine.stream.recorder import Recorder, key_parts
from ha_scheduler.engine.stream.task_errors import encode_error
from ha_scheduler.engine.stream.transactions import take_call
from ha_scheduler.ledger.records import (
    ClientLeft,
    Erred,
    Retried,
    Scattered,
    ScatteredForgotten,
)
from ha_scheduler.protocol.client import FireAndForget
from ha_scheduler.protocol.keys import check_keys, key_fault


class Intents(Submissions):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._scatter_committed: asyncio.Event | None = None  # of the latest scattering
        self._retry_committed: asyncio.Event | None = None  # of the latest retry
        #: What was scattered for a client that has not resumed yet
        self._kept_for: dict[str, set[Key]] = {}

    # Desires

    def client_desires_keys(self, keys: Collection[Key], client: str) -> None:
        """A client, or a pseudo-client, wants keys."""
        if self.recorder is not None:
            check_client(client)
            keys = self._fit(keys, client)
        self.pending_releases.give_way(keys)
        if client == FIRE_AND_FORGET:
            keys = [key for key in keys if self._is_ahead(key)]
        if self.recorder is not None and client != self.step.desires_of:
            self._record_desires(self.recorder, keys, client)
        super().client_desires_keys(keys=keys, client=client)

    def _fit(self, keys: Collection[Key], client: str) -> Collection[Key]:
        """Without those that cannot be the key of a task; the client is told."""
        faults = {key: fault for key in keys if key not in self.tasks and (fault := key_fault(key))}
        for key, fault in faults.items():
            told = error_message(ValueError(f"the key {fault}"))
            about = {name: told[name] for name in ("exception", "traceback")}
            self.report({"op": "task-erred", "key": key, **about}, client=client)
        return [key for key in keys if key not in faults] if faults else keys

    def ha_fire_and_forget(self, client: str, message: FireAndForget) -> None:
        """A client with a journal wants keys computed, even after it is gone."""
        failpoints.reach("fire-and-forget.arrived")
        if not self.was_answered(client, message.ha_sequence):
            self.client_desires_keys(keys=message.keys, client=FIRE_AND_FORGET)
            self.answer(client, message.ha_sequence, "fire-and-forget")

    def _is_ahead(self, key: Key) -> bool:
        """Whether the outcome is still to come; a later desire would hold the result for ever."""
        ts = self.tasks.get(key)
        return ts is not None and ts.state in ("waiting", "queued", "no-worker", "processing")

    def _record_desires(self, recorder: Recorder, keys: Collection[Key], client: str) -> None:
        cs = self.clients.get(client)
        for key in keys:
            ts = self.tasks.get(key)
            if ts is not None and (cs is None or ts not in cs.wants_what):
                recorder.desired(self.graphs.graph_of(key), client, key)

    def _client_releases_keys(
        self, keys: Collection[Key], cs: ClientState, recommendations: Recs
    ) -> None:
        """A client, or a pseudo-client, releases keys."""
        recorder = self.recorder
        if recorder is not None and not self.step.releases:
            wanted = [key for key in keys if self.tasks.get(key) in cs.wants_what]
            committed = self.pending_releases.keep(wanted, cs)
            for key in wanted[:-1]:
                recorder.released(self.graphs.graph_of(key), cs.client_key, key)
            for key in wanted[-1:]:
                recorder.released(self.graphs.graph_of(key), cs.client_key, key, committed)
        super()._client_releases_keys(keys=keys, cs=cs, recommendations=recommendations)

    def _remove_key(self, key: Key) -> None:
        """A key is forgotten, and what is kept of its task; its graph may be retired."""
        super()._remove_key(key)
        self.replay.forget(key)
        self.runs.forget(key)
        recorder = self.recorder
        retired, living = self.graphs.forget(key)
        if recorder is not None:
            for change in self.tables.forget_task(key):
                self.transactions.note(change)
            for graph in retired:
                recorder.retired(graph)
            for graph in living:
                recorder.forgotten(graph, key)
        if self.scattered and key in self.scattered:
            self.scattered.discard(key)
            if recorder is not None:
                recorder.append(ScatteredForgotten((encode_key(key),)))

    def remove_client(self, client: str, stimulus_id: str | None = None) -> None:
        if client in self.clients and self.recorder is not None:
            cs = self.clients[client]
            committed = self.pending_releases.keep([ts.key for ts in cs.wants_what], cs)
            self.recorder.append(ClientLeft(client, self.recorder.next_id()), committed)
        with self.during(Step(releases=True)):  # ClientLeft says it all
            super().remove_client(client=client, stimulus_id=stimulus_id)
        self.calls.abandon(self.session_of.pop(client, ""))
        self.holders.pop(client, None)
        self._kept_for.pop(client, None)
        self.sessions.apply(ClientLeft(client))
        if self.recorder is not None:
            self.calls.ended()

    # Outcomes and data

    def _propagate_erred(self, ts: TaskState, *, cause: Key | None = None, **kwargs: Any) -> Any:
        """Record the error, of the blamed task only."""
        result = super()._propagate_erred(ts, cause=cause, **kwargs)
        recorded = self.step.set_aside  # with the graph
        if self.recorder is not None and ts.exception_blame is ts and not recorded:
            payload = encode_error(ts)
            self.recorder.append(Erred(self.graphs.graph_of(ts.key), encode_key(ts.key), payload))
            self.retried.discard(ts.key)
        return result

    def stimulus_retry(self, keys: Collection[Key], client: str | None = None) -> Any:
        """As upstream's; what was set aside is not run, and stays an error."""
        keys = [key for key in keys if not self._is_set_aside(key)]
        retried = super().stimulus_retry(keys=keys, client=client)
        recorder = self.recorder
        if recorder is not None:
            self.retried.update(retried)
            records = [
                Retried(graph, (encode_key(key),))
                for key in retried
                for graph in self.graphs.graphs_of(key)  # the error is filed under one of them
            ]
            for record in records[:-1]:
                recorder.append(record)
            if records:
                committed = self._retry_committed = asyncio.Event()
                recorder.append(records[-1], on_commit=committed.set)
        return retried

    def _is_set_aside(self, key: Key) -> bool:
        ts = self.tasks.get(key)
        blamed = ts.exception_blame if ts is not None else None
        return blamed is not None and blamed.run_spec is None

    async def retry_asked(self, keys: Collection[Key], client: str | None = None) -> Any:
        """A client's request: errors are withdrawn, and that has committed."""
        call = take_call()
        retried = self.stimulus_retry(keys=keys, client=client)
        self.transactions.answer(call, answer=list(retried))
        await self.transactions.settled()
        if self._retry_committed is not None:
            await self._retry_committed.wait()
        return retried

    async def scatter(self, data: dict[Key, Any], *args: Any, **kwargs: Any) -> Any:
        """As upstream's, answered after the commit. Raises ``ValueError`` for unfit keys."""
        check_keys(data)
        result = await super().scatter(data, *args, **kwargs)
        if self._scatter_committed is not None:
            await self._scatter_committed.wait()
        return result

    async def update_data_asked(self, **data: Any) -> None:
        """A client has scattered straight to workers: answered after the commit."""
        self.update_data(**data)
        if self._scatter_committed is not None:
            await self._scatter_committed.wait()

    def update_data(
        self, *, who_has: dict[Key, list[str]], nbytes: dict[Key, int], client: str | None = None
    ) -> None:
        """Data was scattered: only its holders can bring it back."""
        if self.recorder is not None:
            check_keys(who_has)
            committed = self._scatter_committed = asyncio.Event()
            *parts, last = key_parts(who_has) if who_has else [()]
            for part in parts:
                self.recorder.append(Scattered(client or "", part))
            self.recorder.append(Scattered(client or "", last), on_commit=committed.set)
        self.scattered.update(who_has)
        if client in self._kept_for:
            self._kept_for[client].update(who_has)
        super().update_data(who_has=who_has, nbytes=nbytes, client=client)
