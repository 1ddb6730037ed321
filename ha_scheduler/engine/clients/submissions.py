"""Graphs that clients submit, and their other requests of the stream: each is done once.

Guarantee: a graph is recorded in the event-loop step in which its tasks are made, before them. A
request (a graph, a cancellation, a fire-and-forget desire) is idempotent and acknowledged
(``ha-committed``) when its record has committed. A refused graph (lost dependencies, or it does not
unpickle) is acknowledged at once: its outcome has been reported.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from time import time
from typing import Any

from distributed.core import error_message
from distributed.protocol import serialize
from distributed.protocol.serialize import Serialized
from distributed.scheduler import Recs, TaskState
from distributed.utils import nbytes, offload

from ha_scheduler import failpoints
from ha_scheduler.engine import gc_pauses
from ha_scheduler.engine.clients.quotas import check_graph, priorities_of
from ha_scheduler.engine.clients.turns import Turn, Turns
from ha_scheduler.engine.exposures import READ_BYTES_PER_S, LeavingRefused
from ha_scheduler.engine.extensions.spans import Spans
from ha_scheduler.engine.holders import ANYBODY
from ha_scheduler.engine.step import Step
from ha_scheduler.engine.stream.graphs import (
    GraphRequest,
    content_of,
    current_request,
    encode_graph,
    encode_set_aside,
    exposure_of,
    key_digest,
)
from ha_scheduler.engine.stream.keys import Key
from ha_scheduler.engine.stream.recorder import OnCommit, Recorder
from ha_scheduler.errors import SetAside
from ha_scheduler.ledger.records import (
    GraphSubmitted,
)
from ha_scheduler.protocol.client import SEQUENCE, Committed
from ha_scheduler.protocol.codec import to_op
from ha_scheduler.protocol.keys import check_keys

logger = logging.getLogger(__name__)

_DECISIONS = (
    "annotations_by_type",
    "global_annotations",
    "submitting_task",
    "span_metadata",
    "user_priority",
    "actors",
    "fifo_timeout",
    "code",
)


HASHED_BYTES_MAX = 1024 * 1024  # within an event-loop step; more in a thread


class ClientGoneError(Exception):
    """Remote: the client left while its graph was on its way."""


class Submissions(Turns):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._turn: tuple[str, Turn | None] = "", None  # of the graph whose tasks are being made
        self._touched: list[TaskState] = []
        self._uncommitted: set[tuple[str, int]] = set()  # requests whose records are on their way

    # Graphs

    async def update_graph(
        self,
        client: str,
        expr_ser: Serialized,
        keys: set[Key],
        *args: Any,
        ha_sequence: int = 0,
        **kwargs: Any,
    ) -> None:
        """Accept a graph, idempotent by (session, sequence); acknowledged after its commit.

        One that is set aside is recorded as such, and its keys are errors.
        """
        if self.was_answered(client, ha_sequence):
            return
        failpoints.reach("graph.arrived")
        content = await _content(list(expr_ser.frames), keys)
        request = self._request(client, ha_sequence, expr_ser, content, keys)
        current_request.set(request)
        try:
            await self.exposures.step_by_step(
                super().update_graph(client, expr_ser, keys, *args, **kwargs),
                request.exposure,
                lambda: request.patience_s,
            )
        except SetAside as error:
            self._set_aside(request, client, keys, error)
        except LeavingRefused as error:
            self._report_error(client, keys, error)
        finally:
            current_request.set(None)
        if not request.recorded:
            self._acknowledge(client, ha_sequence)

    def _request(
        self, client: str, sequence: int, sent: Serialized, content: bytes, keys: Collection[Key]
    ) -> GraphRequest:
        session, frames = self.session_of.get(client, ""), list(sent.frames)
        return GraphRequest(
            session, sequence, sent.header, frames,
            exposure=exposure_of(content, keys, client, session, sequence),
            exposures=self.exposures,
            patience_s=sum(map(nbytes, frames)) / READ_BYTES_PER_S,
        )  # fmt: skip

    def _report_error(self, client: str, keys: Collection[Key], error: Exception) -> None:
        """As upstream does with what it cannot read (scheduler.py:5111)."""
        told = error_message(error)
        message = {"exception": told["exception"], "traceback": told["traceback"]}
        for key in keys:
            self.report({"op": "task-erred", "key": key, **message}, client=client)

    def _set_aside(
        self, request: GraphRequest, client: str, keys: Collection[Key], error: SetAside
    ) -> None:
        """Record that the graph was asked for and is not read; its keys are errors."""
        whole, who = f"{request.exposure.kind} {request.exposure.what}", request.exposure.client
        if whole not in str(error):  # a part of its message was set aside
            error = SetAside(f"{whole} (request {request.sequence} of {who}): {error}")
        logger.error("%s", error, extra={"action": "graph_set_aside"})
        if client not in self.clients:
            return
        graph = 0
        if self.recorder is not None:
            graph = self.recorder.next_id()
            self._append_graph(self.recorder, graph, client, request, encode_set_aside(keys))
            request.recorded = True
        self.make_set_aside(graph, client, keys, error)

    def make_set_aside(
        self, graph: int, client: str, keys: Collection[Key], error: SetAside
    ) -> None:
        """Make errors of a graph's keys, on the leader and on a follower that replays it.

        Keys that are known are another graph's as well, and stay what they are.
        """
        told = error_message(error)
        cause: dict[str, Any] = {
            "exception": Serialized(*serialize(error)),
            "traceback": None,
            "exception_text": told["exception_text"],
            "traceback_text": "",
        }
        with self.during(Step(desires_of=client, set_aside=True)):
            for key in keys:
                if key not in self.tasks:
                    ts = self.new_task(key, None, "released")
                    self._propagate_erred(ts, cause=key, **cause)
            self.client_desires_keys(keys=keys, client=client)
        self._own(graph, set(keys))

    def refuse_request(self, client: str, message: dict[str, Any], error: Exception) -> None:
        """A message of the stream cannot be handled: a graph's outcome is the error."""
        sequence, keys = message.get(SEQUENCE, 0), message.get("keys", ())
        sent = message.get("expr_ser")
        if isinstance(error, SetAside) and isinstance(sent, Serialized):
            content = content_of(list(sent.frames), keys)
            request = self._request(client, sequence, sent, content, keys)
            self._set_aside(request, client, keys, error)
            if request.recorded:
                return
        elif message["op"] == "update-graph":
            self._report_error(client, keys, error)
        self._acknowledge(client, sequence)

    def _find_lost_dependencies(self, dsk: dict[Key, Any], keys: set[Key]) -> Any:
        """As upstream's, which begins the event-loop step in which tasks are made (5061)."""
        self.pending_releases.give_way_to_graph(dsk, keys)
        return super()._find_lost_dependencies(dsk, keys)

    def _create_taskstate_from_graph(
        self, *, start: float, dsk: dict[Key, Any], keys: set[Key], client: str, **kwargs: Any
    ) -> Any:
        """Record the graph and make its tasks in one event-loop step."""
        request, turn = current_request.get(), None
        graph = 0
        if request is not None and request.session and client not in self.clients:
            # Nobody would ever release its keys.
            raise ClientGoneError(f"client {client} left before its graph was made")
        if self.recorder is not None:
            check_keys(keys | dsk.keys())  # intermediate ones came within a pickle
        if self.recorder is not None and request is not None:
            holder = self.holders.get(client, ANYBODY)
            check_graph(self, holder, dsk, request.size, priorities_of(kwargs))
            turn = self.choose_turn(client, kwargs.get("submitting_task"))
            asked = kwargs | {"turn": turn}
            graph = self._record_graph(self.recorder, request, start, dsk, keys, client, asked)
            failpoints.reach("graph.appended")
        try:
            content = request.exposure.content if request is not None else b""
            return self.make_tasks(
                graph, content, turn, start=start, dsk=dsk, keys=keys, client=client, **kwargs
            )
        except Exception:
            if self.recorder is not None and graph:
                self.recorder.retired(graph)
            raise

    def make_tasks(
        self,
        graph: int,
        content: bytes = b"",
        turn: Turn | None = None,
        *,
        dsk: dict[Key, Any],
        keys: set[Key],
        **kwargs: Any,
    ) -> Any:
        """Make a graph's tasks, on the leader and on a follower that replays it."""
        self._turn = kwargs["client"], turn
        with gc_pauses.paused(), self.during(Step(desires_of=kwargs["client"])):
            result = super()._create_taskstate_from_graph(dsk=dsk, keys=keys, **kwargs)
        if graph:
            self._own(graph, {*dsk, *keys}, content)
        return result

    def _own(self, graph: int, keys: set[Key], content: bytes = b"") -> None:
        known = {key for key in keys if key in self.tasks}
        self.graphs.add(graph, known, content)
        if not known:
            self.graphs.drop(graph)
            if self.recorder is not None:
                self.recorder.retired(graph)

    def _record_graph(
        self,
        recorder: Recorder,
        request: GraphRequest,
        start: float,
        dsk: dict[Key, Any],
        keys: set[Key],
        client: str,
        kwargs: dict[str, Any],
    ) -> int:
        spans: Spans = self.extensions["spans"]
        span_id = spans.choose_default()
        spans.use_default(span_id)
        decisions = {name: kwargs.get(name) for name in _DECISIONS}
        decisions |= {
            "turn": kwargs["turn"],
            "client": client,
            "start": start,
            "generation": self.generation,
            "last_time": self._last_time,
            "ordered": kwargs["ordered"],  # depends on the layout of sets; dear to compute again
            "span_id": span_id,
            "digest": key_digest(dsk),
            "known": dsk.keys() & self.tasks.keys(),  # tasks that stay as they are
            "found": self._found(dsk.keys() - self.tasks.keys()),
        }
        graph = recorder.next_id()
        self._append_graph(recorder, graph, client, request, encode_graph(request, keys, decisions))
        request.recorded = True
        return graph

    def _found(self, new: set[Key]) -> dict[Key, int]:
        """The tasks about to be made of which workers have results or runs, and since which run."""
        orphans = self.adoption.orphans
        found = {key: orphans.run_of(key) for key in new} if orphans else {}
        counting = {key: run for key, run in found.items() if run is not None}
        self.runs.found.update(counting)
        return counting

    def _append_graph(
        self, recorder: Recorder, graph: int, client: str, request: GraphRequest, payload: bytes
    ) -> None:
        session, sequence = request.session, request.sequence
        content = request.exposure.content
        inlined = recorder.inline(payload)
        subject = self.subject_of(client)
        self.graphs.note(graph, subject, len(payload))
        record = GraphSubmitted(graph, client, session, sequence, *inlined, content, subject)
        self.sessions.apply(record)
        recorder.append(record, on_commit=self._when_committed(client, session, sequence, "graph"))

    # Requests of the stream

    def was_answered(self, client: str, sequence: int) -> bool:
        """Whether the request is a repeated one; acknowledged if that has committed."""
        session = self.session_of.get(client, "")
        if not self.sessions.answered(session, sequence):
            return False
        self.counts.resubmitted += 1
        if (session, sequence) not in self._uncommitted:
            self._acknowledge(client, sequence)
        return True

    def answer(self, client: str, sequence: int, op: str) -> None:
        """A request took effect and is recorded."""
        session = self.session_of.get(client, "")
        if self.recorder is None or not session or not sequence:
            return
        committed = self._when_committed(client, session, sequence, op)
        self.sessions.record(session, sequence)
        self.recorder.answered(client, session, sequence, committed)

    def _when_committed(self, client: str, session: str, sequence: int, op: str) -> OnCommit:
        self._uncommitted.add((session, sequence))

        def committed() -> None:
            failpoints.reach(f"{op}.committed")
            self._uncommitted.discard((session, sequence))
            self._acknowledge(client, sequence)

        return committed

    def _acknowledge(self, client: str, sequence: int) -> None:
        comm = self.client_comms.get(client)
        if sequence and comm is not None and not comm.closed():
            comm.send(to_op(Committed((sequence,))))

    def _set_priorities(self, *args: Any, **kwargs: Any) -> None:
        """As upstream's, or by turns; then hand out what workers already have of this graph."""
        adoption, tasks, (client, turn) = self.adoption, kwargs["tasks"], self._turn
        new = [ts for ts in tasks if not ts.priority] if turn is not None else []
        super()._set_priorities(*args, **kwargs)
        self.take_turns(client, turn, new)
        if adoption.orphans or adoption.claims:
            restored = adoption.orphans.take(tasks, adoption.claims)
            self._after_graph(tasks, restored)

    def _after_graph(self, tasks: set[TaskState], restored: list[TaskState]) -> None:
        """After the transitions of this step, settle claims and free what nobody needs."""
        self._touched.extend(tasks)

        def settle() -> None:
            touched, self._touched = self._touched, []
            self.adoption.finish_claims(touched, f"ha-claims-{time()}")
            unneeded: Recs = {
                ts.key: "released"
                for ts in restored
                if ts.state == "memory" and not ts.waiters and not ts.who_wants
            }
            self.transitions(unneeded, f"ha-orphans-{time()}")

        self.loop.add_callback(settle)


async def _content(frames: list[Any], keys: Collection[Key]) -> bytes:
    if sum(map(nbytes, frames)) <= HASHED_BYTES_MAX:
        return content_of(frames, keys)
    return await offload(content_of, frames, keys)
