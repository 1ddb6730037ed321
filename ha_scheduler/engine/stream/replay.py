"""The event stream applied to a follower's scheduler.

Guarantee: after record ``n`` a follower has the tasks, desires, priorities, sessions and clients of
the leader that wrote record ``n``. It has no workers, so its runnable tasks wait as ``queued`` or
``no-worker``; a takeover places what workers report. Errors and scattered data wait for ``settle``,
when workers are back.

During a rebuild (before ``caught_up``) a key is forgotten only if a later graph says that the
leader made its task anew: the graph that kept a key alive may have been retired and is not
replayed. A pseudo-client holds all keys until then.

A leader may die between the release of a graph's last key and the record that retires the graph.
Its successor retires the graphs without known keys (``retire_unknown``), except those that it could
not read: another peer may be able to.
"""

from __future__ import annotations

import logging
from typing import Any

from dask._expr import LLGExpr
from distributed.protocol import deserialize
from distributed.protocol.pickle import loads
from distributed.scheduler import ClientState
from msgspec.structs import replace

from ha_scheduler.engine import gc_pauses
from ha_scheduler.engine.compat import cull, materialize_graph
from ha_scheduler.engine.exposures import READ_BYTES_PER_S, TASKS_PER_S, Opened, digest
from ha_scheduler.engine.holders import decode_holder
from ha_scheduler.engine.stream.graphs import (
    ReplayDivergedError,
    decode_graph,
    exposure_of,
    key_digest,
    keys_of,
)
from ha_scheduler.engine.stream.keys import Key, decode_key
from ha_scheduler.engine.stream.recorder import Recorder
from ha_scheduler.engine.stream.state import StreamScheduler
from ha_scheduler.engine.stream.task_errors import decode_error
from ha_scheduler.errors import SetAside
from ha_scheduler.ledger import encoding, records
from ha_scheduler.ledger.calls import unpack_payload
from ha_scheduler.ledger.records import Record
from ha_scheduler.ledger.unfit import UnknownRecordError
from ha_scheduler.protocol.engine import Exposure

logger = logging.getLogger(__name__)

_STIMULUS = "ha-replay"
_KEEPER = "ha-rebuild"  # the pseudo-client that holds every key during a rebuild
#: The leader's decisions about a graph that its tasks are made with
_MADE_WITH = (
    *("start", "ordered", "global_annotations", "submitting_task", "span_metadata"),
    *("user_priority", "actors", "fifo_timeout", "code"),
)


class Replay:
    """Applies records, and keeps what waits for a takeover."""

    def __init__(self, scheduler: StreamScheduler) -> None:
        self._scheduler = scheduler
        self._blobs: dict[tuple[int, int], list[bytes]] = {}
        self._rebuilding = True
        self._unretired: set[int] = set()  # graphs of the ledger
        self.errors: dict[Key, dict[str, Any]] = {}

    def read(self, data: bytes) -> None:
        """Apply the record, unless engines ended of it: then every engine passes over it.

        Raises what ends this engine. An error that is not due to this host is told as the record's.
        """
        record = encoding.decode(data)
        exposure = Exposure(digest([data]), "record", type(record).__name__)
        of_this_host: Exception | None = None
        try:
            with self._scheduler.exposures.open(exposure, fatal=True):
                try:
                    self.apply(record)
                except (ReplayDivergedError, UnknownRecordError) as error:
                    of_this_host = error
        except SetAside as error:
            logger.error("%s", error, extra={"action": "record_set_aside"})
        if of_this_host is not None:
            raise of_this_host

    def apply(self, record: Record) -> None:
        """Apply one committed record. Raises ``ReplayDivergedError``."""
        if isinstance(record, records.Called) and record.blob_parts:
            record = replace(
                record, payload=self._blob(record.term, record.blob, record.blob_parts)
            )
        self._scheduler.sessions.apply(record)
        self._scheduler.exposures.cases.apply(record)
        match record:
            case records.TermStarted():
                self._blobs.clear()
            case records.BlobPart(term, blob, _, data):
                self._blobs.setdefault((term, blob), []).append(data)
            case records.GraphSubmitted():
                self._graph(record)
            case records.GraphsRetired(graphs, upto):
                self._scheduler.runs.advance(upto)
                for graph in graphs:
                    self._retire(graph)
            case records.Desired(_, client, keys):
                self._desired(client, [decode_key(key) for key in keys])
            case records.Released(_, client, keys, upto):
                self._scheduler.runs.advance(upto)
                self._released(client, [decode_key(key) for key in keys])
            case records.Forgotten(_, keys):
                for key in keys:
                    self._forgotten(decode_key(key))
            case records.Erred(_, key, payload):
                self._erred(decode_key(key), payload)
            case records.Retried(_, keys):
                for key in keys:
                    self.errors.pop(decode_key(key), None)
                    self._scheduler.retried.add(decode_key(key))
            case _:
                self._of_the_cluster(record)

    def _of_the_cluster(self, record: Record) -> None:
        scheduler = self._scheduler
        match record:
            case records.ClientJoined(client, session, subject, scopes):
                self._client(client)
                if session:
                    scheduler.session_of[client] = session
                if subject:
                    scheduler.holders[client] = decode_holder(subject, scopes)
            case records.ClientLeft(client, upto):
                scheduler.runs.advance(upto)
                scheduler.remove_client(client=client, stimulus_id=_STIMULUS)
            case (
                records.SessionAdvanced() | records.SessionRestored() | records.Answered()
                | records.CallsOpened() | records.CallsEnded() | records.AnswerDropped()
                | records.EngineEnded() | records.CaseRestored() | records.CaseReleased()
            ):  # fmt: skip
                pass  # applied to the sessions, or the quarantine, already
            case records.Called(payload=payload):
                for change in unpack_payload(payload)[0]:
                    self._of_the_cluster(encoding.decode(change))
            case records.Scattered(client, keys):
                self._scattered(client, [decode_key(key) for key in keys])
            case records.ScatteredForgotten(keys):
                for key in keys:
                    self._forget_scattered(decode_key(key))
            case records.ValueSet(space, name, value, blob, parts, term):
                scheduler.tables.apply(space, name, value or self._blob(term, blob, parts))
            case records.ValueDeleted(space, name):
                scheduler.tables.apply(space, name, None)
            case records.Restarted():
                self._restarted()
            case _:
                raise TypeError(record)

    def caught_up(self) -> None:
        """The rebuild is complete: forget the keys that only it kept."""
        self._rebuilding = False
        scheduler = self._scheduler
        keeper = scheduler.clients.get(_KEEPER)
        if keeper is not None:
            keys = [ts.key for ts in keeper.wants_what]
            scheduler.client_releases_keys(keys=keys, client=_KEEPER, stimulus_id=_STIMULUS)
            del scheduler.clients[_KEEPER]
        scheduler.rebuilt()

    def forget(self, key: Key) -> None:
        self.errors.pop(key, None)
        self._scheduler.retried.discard(key)

    # Graphs

    def _graph(self, record: records.GraphSubmitted) -> None:
        payload = record.payload or self._blob(record.graph >> 32, record.blob, record.blob_parts)
        keys, body = keys_of(payload)
        self._scheduler.graphs.note(record.graph, record.subject, len(payload))
        content = record.content or digest([body])
        who = (record.client, record.session, record.sequence)
        exposure = exposure_of(content, keys, *who)
        try:
            patience_s = len(body) / READ_BYTES_PER_S
            with self._scheduler.exposures.open(exposure, patience_s, apart=True) as opened:
                if not body:
                    raise SetAside(f"{exposure.kind} {exposure.what} was set aside; send it again")
                self._read_graph(record, keys, body, opened)
        except SetAside as error:
            self._set_aside(record, keys, error)

    @gc_pauses.paused()  # until what it makes is spared
    def _read_graph(
        self, record: records.GraphSubmitted, keys: list[Key], body: memoryview, opened: Opened
    ) -> None:
        scheduler = self._scheduler
        try:
            form, decisions = decode_graph(body)
            dsk, by_type = self._materialise(form, set(keys))
        except Exception:
            # The leader could: a module that was uploaded to it alone, or another environment here.
            # Its keys are unknown to us, and their clients will be told so if we ever lead.
            logger.exception(
                "Graph %x cannot be read here; install on all peers what its client uses.",
                record.graph,
                extra={"action": "graph_unreadable"},
            )
            return
        opened.progress(len(dsk) / TASKS_PER_S)
        if key_digest(dsk) != decisions["digest"]:
            raise ReplayDivergedError(
                f"this engine made other tasks of graph {record.graph:#x} than its leader did; "
                "install the same versions of Python, Dask and of the user's packages on all peers"
            )
        self._client(record.client)
        if self._rebuilding:
            self._forget_former(dsk.keys() - decisions["known"])
        # What the decisions depended on.
        scheduler.generation = decisions["generation"]
        scheduler._last_time = decisions["last_time"]
        scheduler.extensions["spans"].use_default(decisions["span_id"])
        self._know_inputs(dsk)
        self._make_tasks(record, set(keys), dsk, by_type, decisions)
        scheduler.runs.found.update(decisions["found"])
        if len(dsk) >= gc_pauses.LARGE_TASKS:
            gc_pauses.spare_present()
        self._keep_graph(record.graph)

    def _keep_graph(self, graph: int) -> None:
        scheduler = self._scheduler
        self._unretired.add(graph)
        if self._rebuilding:
            keys = list(scheduler.graphs.keys_of(graph))
            scheduler.client_desires_keys(keys=keys, client=_KEEPER)

    def _set_aside(self, record: records.GraphSubmitted, keys: list[Key], error: SetAside) -> None:
        """Engines ended of this graph: its keys are errors, here as on every engine."""
        logger.error("%s", error, extra={"action": "graph_set_aside"})
        self._client(record.client)
        self._scheduler.make_set_aside(record.graph, record.client, keys, error)
        self._keep_graph(record.graph)

    def _forget_former(self, new: set[Key]) -> None:
        """The leader made these tasks anew, so it had forgotten their keys and all dependents."""
        tasks = self._scheduler.tasks
        former: dict[Key, None] = {}
        stack = [key for key in new if key in tasks]
        while stack:
            key = stack.pop()
            if key not in former:
                former[key] = None
                stack.extend(ts.key for ts in tasks[key].dependents)
        if former:
            self._released(_KEEPER, list(former))

    def _know_inputs(self, dsk: dict[Key, Any]) -> None:
        """Unknown inputs of a graph are scattered data that was forgotten since."""
        scheduler = self._scheduler
        for spec in dsk.values():
            for key in spec.dependencies:
                if key not in dsk and key not in scheduler.tasks:
                    scheduler.new_task(key, None, "memory")
                    scheduler.scattered.add(key)

    def _make_tasks(
        self,
        record: records.GraphSubmitted,
        keys: set[Key],
        dsk: dict[Key, Any],
        by_type: Any,
        decisions: dict[str, Any],
    ) -> None:
        try:
            self._scheduler.make_tasks(
                record.graph,
                record.content,
                decisions["turn"],
                dsk=dsk,
                keys=keys,
                client=record.client,
                annotations_by_type=by_type,
                stimulus_id=_STIMULUS,
                **{name: decisions[name] for name in _MADE_WITH},
            )
        except Exception:
            # As on the leader, which told the client and retires the graph.
            logger.warning(
                "Graph %x cannot be made into tasks.",
                record.graph,
                exc_info=True,
                extra={"action": "graph_refused"},
            )

    @staticmethod
    def _materialise(form: tuple[Any, ...], keys: set[Key]) -> tuple[Any, Any]:
        if form[0] == "materialised":
            dsk, by_type = loads(form[1])
            return dsk, by_type
        expr = deserialize(*form[1:])
        dsk, by_type = materialize_graph(expr=expr, validate=False)
        if isinstance(expr, LLGExpr):
            dsk = cull(dsk, keys)
        return dsk, by_type

    def _blob(self, term: int, blob: int, parts: int) -> bytes:
        data = self._blobs.pop((term, blob), [])
        if len(data) != parts:
            raise ReplayDivergedError(
                f"blob {blob} of term {term} has {len(data)} of its {parts} parts: the event "
                "stream that reached this engine has a hole; replace this peer's data directory"
            )
        return b"".join(data)

    def _retire(self, graph: int) -> None:
        """The leader knows none of the graph's keys any more."""
        scheduler = self._scheduler
        for key in list(scheduler.graphs.keys_of(graph)):
            ts = scheduler.tasks.get(key)
            if ts is not None and scheduler.graphs.graph_of(key) == graph:
                for cs in list(ts.who_wants or ()):
                    self._released(cs.client_key, [key])
        scheduler.graphs.drop(graph)
        self._unretired.discard(graph)

    def _forgotten(self, key: Key) -> None:
        """The leader forgot the key: withdraw desires that older graphs imply."""
        ts = self._scheduler.tasks.get(key)
        for cs in list(ts.who_wants or ()) if ts is not None else ():
            if cs.client_key != _KEEPER:
                self._released(cs.client_key, [key])

    # Outcomes

    def _erred(self, key: Key, payload: bytes) -> None:
        """A fire-and-forget task is released as it fails, perhaps before this record."""
        if key in self._scheduler.tasks:
            self.errors[key] = decode_error(payload)
            self._scheduler.retried.discard(key)

    # Desires

    def _client(self, client: str) -> None:
        scheduler = self._scheduler
        if client not in scheduler.clients:
            scheduler.clients[client] = ClientState(client)

    def _desired(self, client: str, keys: list[Key]) -> None:
        tasks = self._scheduler.tasks
        known = [key for key in keys if key in tasks]
        self._scheduler.client_desires_keys(keys=known, client=client)

    def _released(self, client: str, keys: list[Key]) -> None:
        if client in self._scheduler.clients:
            self._scheduler.client_releases_keys(keys=keys, client=client, stimulus_id=_STIMULUS)
        for key in keys:
            if key not in self._scheduler.tasks:
                self.errors.pop(key, None)

    def _restarted(self) -> None:
        """``Client.restart``: all desires and all data are void."""
        scheduler = self._scheduler
        for client, cs in list(scheduler.clients.items()):
            keys = [ts.key for ts in cs.wants_what]
            scheduler.client_releases_keys(keys=keys, client=client, stimulus_id=_STIMULUS)
        for key in list(scheduler.scattered):
            self._forget_scattered(key)
        self.errors.clear()
        self._scheduler.retried.clear()
        self._unretired.clear()

    # Scattered data: in memory somewhere, but only the holders can say where

    def _scattered(self, client: str, keys: list[Key]) -> None:
        scheduler = self._scheduler
        for key in keys:
            ts = scheduler.tasks.get(key) or scheduler.new_task(key, None, "memory")
            ts.state = "memory"
            scheduler.scattered.add(key)
        if client:
            self._desired(client, keys)

    def _forget_scattered(self, key: Key) -> None:
        """The leader forgot scattered data, and nobody wants it.

        Its dependents may be finished there and never are here, where they would be forgotten with
        their input. So it stays until ``settle``.
        """
        scheduler = self._scheduler
        ts = scheduler.tasks.get(key)
        if ts is None or key not in scheduler.scattered:
            scheduler.scattered.discard(key)
            return
        self._forgotten(key)
        if key in scheduler.scattered and not (ts.dependents or ts.who_wants):
            scheduler.transitions({key: "forgotten"}, _STIMULUS)

    def retire_unknown(self, recorder: Recorder) -> None:
        """Retire the graphs without known keys; nobody else would."""
        for graph in self._unretired:
            if not self._scheduler.graphs.keys_of(graph):
                recorder.retired(graph)
        self._unretired.clear()
