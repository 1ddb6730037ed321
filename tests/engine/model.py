"""A cell without a network: an engine's scheduler, upstream's worker state machine, and clients.

Everything but the wires is real: the scheduler is ours, a worker is a ``WorkerState`` whose
instructions are carried out when the test says so, and reports by ``report_of``. Each wire is
a queue, from which the test delivers when it likes, and which a kill empties. So the state at a
kill may be any that a leader can come into, and nothing takes time.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter, deque
from collections.abc import Iterable
from typing import Any, ClassVar

from dask._expr import LLGExpr
from dask._task_spec import Task
from distributed import worker_state_machine as machine
from distributed.protocol import serialize, to_serialize
from distributed.protocol.serialize import Serialized
from distributed.worker_state_machine import WorkerState
from tornado.web import Application

from ha_scheduler.engine.scheduler import Scheduler
from ha_scheduler.engine.stream.recorder import OnCommit
from ha_scheduler.ledger.encoding import decode, encode
from ha_scheduler.ledger.fold import fold
from ha_scheduler.ledger.rebuild import rebuild as rebuild_ledger
from ha_scheduler.ledger.records import Record
from ha_scheduler.protocol.client import Hello, Resume, request
from ha_scheduler.protocol.codec import to_op
from ha_scheduler.protocol.worker import Joining, RegisterWorker
from ha_scheduler.worker.report import report_of
from ha_scheduler.worker.runs import RunTracker
from tests.twins.tables import MemoryTables

EVENTS = {
    "compute-task": machine.ComputeTaskEvent,
    "free-keys": machine.FreeKeysEvent,
    "remove-replicas": machine.RemoveReplicasEvent,
    "acquire-replicas": machine.AcquireReplicasEvent,
    "steal-request": machine.StealRequestEvent,
    "refresh-who-has": machine.RefreshWhoHasEvent,
    "cancel-compute": machine.CancelComputeEvent,
    "remove-worker": machine.RemoveWorkerEvent,
}

METRICS = {
    "bandwidth": {"total": 1e8, "workers": {}, "types": {}},
    "digests_total_since_heartbeat": {},
    "memory": 0,
    "spilled_bytes": {"memory": 0, "disk": 0},
}


def no_op(*inputs: Any) -> None:
    """What every task is said to be; it is never called."""


class Wire:
    """What was sent and has not arrived. Stands for a ``BatchedSend`` as well."""

    def __init__(self) -> None:
        self.queue: deque[dict[str, Any]] = deque()

    def send(self, *messages: dict[str, Any]) -> None:
        self.queue.extend(dict(message) for message in messages)

    def closed(self) -> bool:
        return False

    def abort(self) -> None:
        self.queue.clear()


class Answer:
    """The comm of a registration: takes the reply."""

    name = ""
    extra_info: ClassVar[dict[str, Any]] = {}

    async def write(self, msg: Any, **_: Any) -> None:
        self.reply = msg

    def abort(self) -> None: ...


class Log:
    """Commits when told to. Hands its records over to the next leader's log."""

    def __init__(self, committed: list[Record]) -> None:
        self.records = list(committed)
        self.committed = len(committed)
        self._waiting: deque[tuple[int, OnCommit]] = deque()

    def confirm(self, on_confirmed: OnCommit) -> None:
        asyncio.get_running_loop().call_soon(on_confirmed)

    def propose(self, data: bytes, on_commit: OnCommit | None) -> None:
        self.records.append(decode(data))
        if on_commit is not None:
            self._waiting.append((len(self.records), on_commit))

    def commit(self, count: int) -> None:
        """The first ``count`` records are safe."""
        self.committed = max(self.committed, count)
        while self._waiting and self._waiting[0][0] <= self.committed:
            self._waiting.popleft()[1]()


class Leader(Scheduler):
    """Our scheduler with wires in place of streams; it listens nowhere and calls nobody."""

    def __init__(self) -> None:
        # However many workers die under a task: what it comes to is not what is tested here.
        super().__init__(host="127.0.0.1", validate=True, allowed_failures=1_000_000)
        self._address = "tcp://127.0.0.1:1"

    def lead(self, term: int, log: Log) -> None:
        self.prepare_to_lead(term, log, lambda phase, detail: None)
        self.recover(window_seconds=3600)

    def start_http_server(self, *_: Any, **__: Any) -> None:
        """There is no dashboard, and an application that nobody serves."""
        self.http_application = Application()

    def _serve_http(self, prefix: str) -> None: ...

    async def call_workers(self, expected: list[str], address: str) -> None: ...

    async def handle_worker(self, comm: Any, worker: str) -> None:
        self._latest.pop(worker, None)
        self.stream_comms[worker] = Wire()  # type: ignore[assignment]
        self._record_join(worker)
        await self._adopt(worker)

    async def handle(self, message: dict[str, Any], **sender: str) -> None:
        """One message of a stream."""
        message = request(message) if "client" in sender else message
        handler = self.stream_handlers[message.pop("op")]
        result = handler(**message, **sender)
        if inspect.isawaitable(result):
            await result


class ModelWorker:
    """A worker: threads finish and transfers arrive when the test says so."""

    def __init__(self, number: int, counts: Counter[str]) -> None:
        self.address = f"tcp://127.0.0.1:{2000 + number}"
        self.number = number
        self.state = WorkerState(
            address=self.address, nthreads=2, resources={"R": 1}, validate=True
        )
        self.wire = Wire()
        self.linked = False
        self.executing: dict[Any, int] = {}
        self.gathers: list[Any] = []
        self.busy: list[str] = []  # the workers that are to be asked again
        self.seceded: set[Any] = set()
        self.runs = RunTracker()
        self._counts = counts
        self._stimuli = 0

    def stimulus(self) -> str:
        self._stimuli += 1
        return f"model-{self.number}-{self._stimuli}"

    def handle(self, message: dict[str, Any]) -> None:
        """One message of the leader."""
        op = message.pop("op")
        if op == "worker-status-change":
            return
        if op == "ha-runs":
            self.runs.hear(**message)
            return
        if "run_spec" in message:
            message["run_spec"] = message["run_spec"].data
        self._stimulate(EVENTS[op](**message))

    def _stimulate(self, event: machine.StateMachineEvent) -> None:
        self.runs.watch(self.state, event)
        for instruction in self.state.handle_stimulus(event):
            match instruction:
                case machine.Execute(key=key):
                    self.executing[key] = self.state.tasks[key].run_id
                case machine.GatherDep():
                    self.gathers.append(instruction)
                case machine.RetryBusyWorkerLater(worker=worker):
                    self.busy.append(worker)
                case machine.SendMessageToScheduler() if self.linked:
                    self.wire.send(instruction.to_dict())

    def finish(self, key: Any) -> None:
        """A thread is done with ``key``. One whose name says so fails, always or at first."""
        run_id = self.executing.pop(key)
        self.seceded.discard(key)
        stimulus = self.stimulus()
        self._counts[key] += 1
        if key.startswith("bad") or (key.startswith("flaky") and self._counts[key] == 1):
            self._stimulate(
                machine.ExecuteFailureEvent.from_exception(
                    KeyError(key), key=key, run_id=run_id, stimulus_id=stimulus
                )
            )
            return
        self._stimulate(
            machine.ExecuteSuccessEvent(
                key=key, run_id=run_id, value=key, start=0.0, stop=1.0, nbytes=1, type=str,
                stimulus_id=stimulus,
            )
        )  # fmt: skip

    def secede(self, key: Any) -> None:
        self.seceded.add(key)
        self._stimulate(
            machine.SecedeEvent(key=key, compute_duration=1.0, stimulus_id=self.stimulus())
        )

    def give_back(self, key: Any) -> None:
        """The task raised ``Reschedule``."""
        del self.executing[key]
        self.seceded.discard(key)
        self._stimulate(machine.RescheduleEvent(key=key, stimulus_id=self.stimulus()))

    def hold(self, key: Any) -> None:
        """Scattered data arrives."""
        self._stimulate(machine.UpdateDataEvent(data={key: key}, stimulus_id=self.stimulus()))

    def receive(self, source: ModelWorker | None) -> None:
        """The transfer that was begun first is over; its source is gone if it is None."""
        gather = self.gathers.pop(0)
        event: machine.StateMachineEvent
        if source is None:
            event = machine.GatherDepNetworkFailureEvent(
                worker=gather.worker, total_nbytes=gather.total_nbytes, stimulus_id=self.stimulus()
            )
        else:
            held = {**source.state.data, **source.state.actors}  # of an actor: a handle
            data = {k: held[k] for k in gather.to_gather if k in held}
            event = machine.GatherDepSuccessEvent(
                worker=gather.worker, total_nbytes=gather.total_nbytes, data=data,
                stimulus_id=self.stimulus(),
            )  # fmt: skip
        self._stimulate(event)

    def be_put_off(self) -> None:
        """The transfer that was begun first is not made: its source is busy."""
        gather = self.gathers.pop(0)
        self._stimulate(
            machine.GatherDepBusyEvent(
                worker=gather.worker, total_nbytes=gather.total_nbytes, stimulus_id=self.stimulus()
            )
        )

    def ask_again(self, worker: str) -> None:
        """A worker that was busy may not be any more."""
        self.busy.remove(worker)
        self._stimulate(machine.RetryBusyWorkerEvent(worker=worker, stimulus_id=self.stimulus()))

    def look_for_missing(self) -> None:
        self._stimulate(machine.FindMissingEvent(stimulus_id=self.stimulus()))

    def lose_leader(self) -> None:
        self.linked = False
        self.wire.abort()

    def join(self, leader: Leader, term: int) -> asyncio.Task[Any]:
        """Register with a report of this moment; what happens later goes over the wire."""
        self.wire.abort()
        self.linked = True
        message = {
            "address": self.address, "status": "running", "server_id": self.address, "nthreads": 2,
            "name": self.number, "now": 0.0, "resources": {"R": 1}, "memory_limit": 1 << 30,
            "metrics": METRICS, "services": {}, "local_directory": "", "versions": {}, "nanny": "",
            "extra": {}, "stimulus_id": self.stimulus(),
        }  # fmt: skip
        report = report_of(self.state, heard=self.runs.heard, fetched=self.runs.fetched())
        joining = Joining(term, report, {})
        message |= to_op(RegisterWorker(self.address, self.address, "", joining))
        del message["op"]
        return asyncio.create_task(leader.ha_register_worker(Answer(), **message))


class ModelClient:
    """A client with a journal, as ``client_replay`` keeps one."""

    def __init__(self, number: int) -> None:
        self.id = f"Client-{number}"
        self.session = f"session-{number}"
        self.wire = Wire()
        self.journal: dict[int, dict[str, Any]] = {}
        self.states: dict[Any, str] = {}  # of the keys that it wants
        self._sequence = 0
        self._resumed_at = 0

    def submit(
        self, tasks: dict[str, list[str]], wanted: set[str], annotations: dict[str, Any]
    ) -> None:
        """A graph; ``tasks`` has the inputs of each, of which some may be of earlier graphs."""
        graph = {key: Task(key, no_op, *map(_reference, inputs)) for key, inputs in tasks.items()}
        expr = Serialized(*serialize(to_serialize(LLGExpr(graph)), on_error="raise"))
        self._sequence += 1
        message = {
            "op": "update-graph", "expr_ser": expr, "keys": set(wanted), "internal_priority": None,
            "submitting_task": None, "fifo_timeout": 0.0, "code": (),
            "actors": [key for key in tasks if key.startswith("actor")],
            "annotations": annotations, "span_metadata": {"collections": []},
            "ha_sequence": self._sequence,
        }  # fmt: skip
        self.journal[self._sequence] = message
        self.states.update(dict.fromkeys(wanted, "pending"))
        self.wire.send(message)

    def release(self, key: Any) -> None:
        del self.states[key]
        self.wire.send({"op": "client-releases-keys", "keys": [key]})

    def handle(self, message: dict[str, Any]) -> None:
        """One message of the leader."""
        match message["op"]:
            case "ha-committed":
                for sequence in message["sequences"]:
                    self.journal.pop(sequence, None)
            case "key-in-memory":
                self._learn(message["key"], "finished")
            case "task-erred":
                self._learn(message["key"], "error")
            case "task-retried" | "lost-data":
                self._learn(message["key"], "pending")
            case "cancelled-keys":
                unknown = message.get("reason") == "unknown-after-failover"
                for key in message["keys"]:
                    if not (unknown and self._is_new(key)):
                        self._learn(key, "cancelled")

    def _learn(self, key: Any, state: str) -> None:
        if self.states.get(key, "cancelled") != "cancelled":
            self.states[key] = state

    def _is_new(self, key: Any) -> bool:
        newer = [m for sequence, m in self.journal.items() if sequence > self._resumed_at]
        return any(key in message["keys"] for message in newer)

    def join(self, leader: Leader) -> None:
        """A new stream: hello, what was not acknowledged, then what is wanted."""
        self.wire.abort()
        leader._restore_or_add(self.id, {})
        leader.client_comms[self.id] = Wire()  # type: ignore[assignment]
        floor = min(self.journal, default=self._sequence + 1) - 1
        self.wire.send(to_op(Hello(self.session, 0, floor)))
        self.wire.send(*self.journal.values())
        self._resumed_at = self._sequence
        wanted = tuple(key for key, state in self.states.items() if state != "cancelled")
        finished = tuple(key for key, state in self.states.items() if state == "finished")
        self.wire.send(to_op(Resume(wanted, finished)))


def _reference(key: str) -> Any:
    from dask._task_spec import TaskRef

    return TaskRef(key)


def follow(records: list[Record]) -> Leader:
    """A hot standby that has seen every record."""
    follower = Leader()
    follower.replay.caught_up()
    for record in records:
        follower.replay.apply(record)
    return follower


def rebuild(records: list[Record]) -> Leader:
    """An engine that was started on the ledger to which the records fold."""
    tables = MemoryTables()
    for index, record in enumerate(records, 1):
        assert fold(tables, index, 1, encode(record)) is None
    engine = Leader()
    for data in rebuild_ledger(tables):
        engine.replay.apply(decode(data))
    engine.replay.caught_up()
    return engine


def _connected(engine: Leader, keys: Iterable[Any]) -> set[Any]:
    """The keys, what needs them, what that needs, and so on."""
    found: set[Any] = set()
    ahead = list(keys)
    while ahead:
        key = ahead.pop()
        if key not in found:
            found.add(key)
            ts = engine.tasks[key]
            ahead.extend(other.key for other in ts.dependencies | ts.dependents)
    return found


def standing(engine: Leader) -> dict[str, Any]:
    """All by which an engine that is about to lead decides.

    Without what is connected with data that nobody wants. The leader may have given it up, and with
    it the tasks that need it, of which some graphs are retired: what they were is not known any
    more to an engine that was started on the ledger, and both give them up at the takeover.
    """
    replay = engine.replay
    unsure = _connected(
        engine, [key for key in engine.scattered if not engine.tasks[key].who_wants]
    )
    return {
        "tasks": {
            key: (
                ts.priority,
                {d.key for d in ts.dependencies},
                {d.key for d in ts.dependents},
                {cs.client_key for cs in ts.who_wants or ()},
                (ts.retries, ts.actor, ts.loose_restrictions, ts.annotations or {}),
                (ts.worker_restrictions, ts.host_restrictions, ts.resource_restrictions),
                engine.graphs.maker_of(key),
                engine.graphs.graph_of(key),
            )
            for key, ts in engine.tasks.items()
            if key not in unsure
        },
        "clients": set(engine.clients),
        "sessions": engine.session_of,
        "graphs": {graph for graph in engine.graphs._live if engine.graphs._live[graph]},
        "scattered": engine.scattered - unsure,
        "found": engine.runs.found,
        "known": engine.runs.known,
        "errors": {key: error["exception_text"] for key, error in replay.errors.items()},
        "retried": engine.retried,
        "workers": engine.recorded_workers,
        "attempts": engine.attempts,
        "notices": engine._notices,
    }


async def settle_loop() -> None:
    """Let what was scheduled for the next steps of the event loop happen."""
    for _ in range(3):
        await asyncio.sleep(0)
