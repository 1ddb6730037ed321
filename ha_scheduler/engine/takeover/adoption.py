"""How a leader takes over what workers report: results, running tasks, and what it cannot place.

Guarantee: a reported result becomes ``memory`` and a reported running task becomes ``processing``
under the run id it already has; neither is computed again, and ``validate_state`` holds after each
``adopt``. A key that the leader never knew is not freed: its graph may be one that never committed,
and that its client is about to resubmit. It is kept as an *orphan* (``orphans.py``) until its graph
arrives or nobody came. What is of a task that was released or
cancelled is freed: what came or comes under its name later is another task (``runs.py``).

Order within ``adopt``: what is of former tasks is put aside, and freed before a worker hears of
anything else. Then claims (so that no transition sends a running task to a second worker), then
results, then the transitions that follow from them, then the running tasks, whose inputs are now
where they should be, then errors that the ledger holds.

Overriding ``_transition_*`` would have no effect: ``_TRANSITIONS_TABLE`` (scheduler.py:3060) holds
the base functions; what changes state here is therefore written out, after
``_transition_processing_memory`` (2475) and ``_add_to_processing`` (3355).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from distributed.diagnostics.progress import GroupTiming
from distributed.diagnostics.task_stream import TaskStreamPlugin
from distributed.protocol.pickle import loads
from distributed.scheduler import Msgs, Recs, TaskState, TaskStateState, WorkerState

from ha_scheduler.engine.stream.keys import Key
from ha_scheduler.engine.stream.state import EngineState
from ha_scheduler.engine.takeover.orphans import Orphans, free
from ha_scheduler.engine.takeover.reported_actors import ReportedActors
from ha_scheduler.engine.takeover.reports import Claim, Held, claims, date, without
from ha_scheduler.engine.takeover.shuffle_errors import is_no_outcome
from ha_scheduler.protocol.worker import FETCHING, Report

logger = logging.getLogger(__name__)

#: Plugins of upstream's that need to know when a task ran, which nobody reports.
DRAWS_TIMES = (TaskStreamPlugin, GroupTiming)

_PENDING = ("waiting", "queued", "no-worker")


class Adoption:
    """Adopts reports into a scheduler's state."""

    def __init__(self, scheduler: EngineState) -> None:
        self._scheduler = scheduler
        self.claims: dict[Key, Claim] = {}
        self.orphans = Orphans(scheduler)
        self._actors = ReportedActors(scheduler)

    def adopt(self, reports: dict[str, Report], stimulus_id: str) -> dict[str, Report]:
        """Take over what these workers, which are registered, report.

        Returns the reports without what was of former tasks.
        """
        recommendations: Recs = {}
        client_msgs: Msgs = {}
        worker_msgs: Msgs = {}
        reports = {
            address: self._without_former(address, report, worker_msgs, stimulus_id)
            for address, report in reports.items()
        }
        reports = {address: self._actors.not_told_of(report) for address, report in reports.items()}
        for address, report in reports.items():
            self._reconcile(address, report, recommendations)
            self._claim(address, report)
            self._adopt_metadata(report)
        for address, report in reports.items():
            for key, nbytes, typename, run in self._actors.without_handles(address, report):
                held = Held(nbytes, typename, date(report, key, run))
                self._adopt_result(
                    key, address, held, key in report.actors, recommendations,
                    client_msgs, worker_msgs, stimulus_id,
                )  # fmt: skip
        for key, address in self._actors.adopt_handles():
            worker_msgs.setdefault(address, []).append(free(key, stimulus_id=stimulus_id))
        self._settle(recommendations, client_msgs, worker_msgs, stimulus_id)
        for address, report in reports.items():
            for key, claim in claims(address, report):
                self._adopt_running(key, claim, worker_msgs, stimulus_id)
        self._adopt_errors(reports, client_msgs, worker_msgs, stimulus_id)
        self._scheduler.send_all(client_msgs, worker_msgs)
        return reports

    def _without_former(
        self, address: str, report: Report, worker_msgs: Msgs, stimulus_id: str
    ) -> Report:
        """The report, less what is of tasks that were let go, which its worker is told to free.

        What is to be fetched stays: its end will be told as that of a transfer, whatever we say.
        """
        tasks, runs = self._scheduler.tasks, self._scheduler.runs

        def is_former(key: Key, run: int) -> bool:
            ts = tasks.get(key)
            if ts is None:
                return bool(run >= 0 and runs.is_over(run))
            # Scattered data has no run of its own, whatever its holder says.
            return ts.run_spec is not None and not runs.is_present(key, date(report, key, run))

        former = {key for key, _, _, run in report.memory if is_former(key, run)}
        former.update(key for key, _, run in report.erred if is_former(key, run))
        for key, run_id, state, *_ in report.running:
            if state != FETCHING and is_former(key, run_id):
                former.add(key)
        if not former:
            return report
        worker_msgs.setdefault(address, []).append(free(*former, stimulus_id=stimulus_id))
        return without(report, former)

    def _reconcile(self, address: str, report: Report, recommendations: Recs) -> None:
        """What we believed of a worker that lost its connection, and that it does not confirm."""
        ws = self._scheduler.workers[address]
        held = {key for key, *_ in report.memory}
        running = {key: run_id for key, run_id, *_ in report.running}
        failed = {key for key, *_ in report.erred}
        for ts in [ts for ts in ws.has_what if ts.key not in held]:
            self._scheduler.remove_replica(ts, ws)
            if not ts.who_has:
                recommendations[ts.key] = "released"
        for ts in list(ws.processing):
            if ts.key in running:
                ts.run_id = running[ts.key]
            elif ts.key not in held and ts.key not in failed:
                recommendations[ts.key] = "released"

    def _claim(self, address: str, report: Report) -> None:
        for key, claim in claims(address, report):
            if claim.state != FETCHING or key not in self.claims:
                self.claims[key] = claim

    def _adopt_metadata(self, report: Report) -> None:
        """Before the results: plugins look at it when they hear of one."""
        for key, data in report.metadata:
            ts = self._scheduler.tasks.get(key)
            if ts is not None:
                try:
                    ts.metadata = {**loads(data), **(ts.metadata or {})}
                except Exception:
                    logger.warning(
                        "The metadata of %r cannot be read here; install on all peers what its "
                        "worker uses.",
                        key,
                        exc_info=True,
                        extra={"action": "metadata-unreadable"},
                    )

    def _settle(
        self,
        recommendations: Recs,
        client_msgs: Msgs,
        worker_msgs: Msgs,
        stimulus_id: str,
    ) -> None:
        """Follow the recommendations, less those that another result has overtaken.

        The result of an input recommends to compute what waits for it, and may come after the
        result of all that needed that: then nobody needs it any more.
        """
        tasks = self._scheduler.tasks
        current: Recs = {}
        for key, finish in recommendations.items():
            ts = tasks[key]
            if finish != "processing":
                current[key] = finish
            elif ts.state == "waiting":
                current[key] = finish if ts.waiters or ts.who_wants else "released"
        self._scheduler._transitions(current, client_msgs, worker_msgs, stimulus_id)

    # Results

    def _adopt_result(
        self,
        key: Key,
        address: str,
        held: Held,
        actor: bool,
        recommendations: Recs,
        client_msgs: Msgs,
        worker_msgs: Msgs,
        stimulus_id: str,
    ) -> None:
        scheduler = self._scheduler
        ts = scheduler.tasks.get(key)
        if ts is None and (held.run < 0 or scheduler.runs.is_over(held.run)):
            self.orphans.hold_data(key, address)
            return
        if ts is None:
            self.orphans.hold(key, address, held)
            return
        ws = scheduler.workers[address]
        if ts.state == "memory" and ts.who_has:
            if ws not in ts.who_has:
                scheduler.add_replica(ts, ws)
            return
        if not self._is_needed(ts) or ts.state == "erred":
            worker_msgs.setdefault(address, []).append(free(key, stimulus_id=stimulus_id))
            return
        if ts.state == "processing":
            self._stop_processing(ts, address, worker_msgs, stimulus_id)
        if actor:
            ws.actors.add(ts)
        self.make_result(ts, ws, held.nbytes, held.typename, recommendations, client_msgs)
        self._notify(key, "processing", "memory", stimulus_id, worker=address)

    @staticmethod
    def _is_needed(ts: TaskState) -> bool:
        return bool(ts.who_wants or ts.waiters) or ts.state in _PENDING

    def make_result(
        self,
        ts: TaskState,
        ws: WorkerState,
        nbytes: int,
        typename: str,
        recommendations: Recs,
        client_msgs: Msgs,
    ) -> None:
        """``ts`` is in the memory of ``ws``, whatever the leader believed before."""
        self.leave_pending(ts)
        if ts.waiters is None:
            pending = {dts for dts in ts.dependents if dts.state in (*_PENDING, "processing")}
            ts.waiters = pending
        ts.set_nbytes(nbytes)
        self._scheduler._add_to_memory(
            ts,
            ws,
            recommendations,
            client_msgs,
            type=None,  # type: ignore[arg-type]  # clients take it for a type that is not known
            typename=typename,
        )

    def leave_pending(self, ts: TaskState) -> None:
        """Take a task out of the queues in which it waited for a worker."""
        if ts.state == "queued":
            self._scheduler.queued.discard(ts)
        elif ts.state == "no-worker":
            self._scheduler.unrunnable.pop(ts, None)
        ts.waiting_on = None

    def _stop_processing(
        self, ts: TaskState, holder: str, worker_msgs: Msgs, stimulus_id: str
    ) -> None:
        """A result came back while another worker computes it again: stop that one."""
        ws = self._scheduler._exit_processing_common(ts)
        if ws is not None and ws.address != holder:
            worker_msgs.setdefault(ws.address, []).append(free(ts.key, stimulus_id=stimulus_id))

    # Running tasks

    def _adopt_running(self, key: Key, claim: Claim, worker_msgs: Msgs, stimulus_id: str) -> None:
        scheduler = self._scheduler
        ts = scheduler.tasks.get(key)
        mine = self.claims.get(key) == claim
        if ts is None:
            self.claims.pop(key, None)
            self.orphans.run(key, claim)
        elif mine and ts.state in _PENDING and not ts.waiting_on:
            self.claims.pop(key, None)
            _add(worker_msgs, self.make_processing(ts, claim, stimulus_id))
        elif (ws := ts.processing_on) is not None and ws.address == claim.worker:
            self.claims.pop(key, None)
            if claim.state == "long-running" and ts not in ws.long_running:
                ws.add_to_long_running(ts)
            _add(worker_msgs, self._ask_to_compute(ts, claim))
        elif claim.state == FETCHING and ts.state == "memory":
            # Not to be freed: what waits there for the result would wait for ever.
            self.claims.pop(key, None)
        else:
            if mine:
                self.claims.pop(key, None)
            worker_msgs.setdefault(claim.worker, []).append(free(key, stimulus_id=stimulus_id))

    def make_processing(self, ts: TaskState, claim: Claim, stimulus_id: str) -> Msgs:
        """``ts`` is being computed under the claim. Returns what the worker must be told, if so."""
        scheduler = self._scheduler
        ws = scheduler.workers[claim.worker]
        start = ts.state
        self.leave_pending(ts)
        ws.add_to_processing(ts)
        ts.processing_on = ws
        ts.state = "processing"
        ts.run_id = claim.run_id
        scheduler.acquire_resources(ts, ws)
        if claim.state == "long-running":
            ws.add_to_long_running(ts)
        scheduler.check_idle_saturated(ws)
        scheduler.n_tasks += 1
        if ts.actor:
            ws.actors.add(ts)
        self._notify(ts.key, start, "processing", stimulus_id)
        return self._ask_to_compute(ts, claim)

    def _ask_to_compute(self, ts: TaskState, claim: Claim) -> Msgs:
        """Have a worker that left a task, and still computes it, tell us of its end.

        It goes on under the run id under which it began, so that is the one we name. The end of an
        actor's creation we know already.
        """
        if claim.made is not None:
            nbytes, typename, _ = claim.made
            self._actors.finish_soon(ts.key, claim.worker, claim.run_id, nbytes, typename)
        if claim.state != FETCHING:
            return {}
        message = self._scheduler._task_to_msg(ts)  # draws a run id of its own (3578)
        message["run_id"] = ts.run_id = claim.run_id
        return {claim.worker: [message]}

    # Errors

    def _adopt_errors(
        self,
        reports: dict[str, Report],
        client_msgs: Msgs,
        worker_msgs: Msgs,
        stimulus_id: str,
    ) -> None:
        """Outcomes that the former leader had not written down yet, or not even heard of.

        A task with retries left is not settled: the error was not its outcome. Nor was it, perhaps,
        that of one that was tried again since, by a client or because it had a retry left: its
        worker may not have heard of it. A task of a P2P shuffle may have failed because nobody led.
        """
        recommendations: Recs = {}
        for address, report in reports.items():
            for key, payload, run in report.erred:
                ts = self._scheduler.tasks.get(key)
                if ts is None:
                    continue
                if self._scheduler.was_counted(key, run):
                    if _runs_on(ts, address):
                        recommendations[key] = "released"
                    continue
                error = loads(payload)
                spurious = is_no_outcome(ts, error["exception_text"])
                if ts.state == "processing":
                    self._fail_processing(ts, address, run, error, recommendations)
                elif not (ts.retries or spurious or key in self._scheduler.retried):
                    error["erred_on"] = [address]
                    self.adopt_error(ts, error, recommendations, client_msgs)
        self._scheduler._transitions(recommendations, client_msgs, worker_msgs, stimulus_id)

    def _fail_processing(
        self,
        ts: TaskState,
        address: str,
        run: int,
        error: dict[str, Any],
        recommendations: Recs,
    ) -> None:
        """A worker that lost its connection could not say that a task of ours has failed."""
        if not _runs_on(ts, address):
            return
        if ts.retries > 0:
            ts.retries -= 1
            self._scheduler.note_attempt(ts, run)
            recommendations[ts.key] = "waiting"
            return
        if is_no_outcome(ts, error["exception_text"]):
            recommendations[ts.key] = "released"
            return
        ts.exception_blame = ts
        for name, value in error.items():
            setattr(ts, name, value)
        recommendations[ts.key] = "erred"

    def adopt_error(
        self,
        ts: TaskState,
        error: dict[str, Any],
        recommendations: Recs,
        client_msgs: Msgs,
    ) -> None:
        """An error is the outcome of ``ts``, unless it has another or is being computed again."""
        if ts.state not in (*_PENDING, "released"):
            return
        self.leave_pending(ts)
        ts.erred_on = set(error["erred_on"])
        recs, msgs, _ = self._scheduler._propagate_erred(
            ts,
            cause=ts.key,
            exception=error["exception"],
            traceback=error["traceback"],
            exception_text=error["exception_text"],
            traceback_text=error["traceback_text"],
        )
        recommendations.update(recs)
        for client, messages in msgs.items():
            client_msgs.setdefault(client, []).extend(messages)

    def adopt_recorded(self, errors: dict[Key, dict[str, Any]], stimulus_id: str) -> None:
        """The errors of the ledger are the outcomes of tasks that no worker has a result of."""
        recommendations: Recs = {}
        client_msgs: Msgs = {}
        worker_msgs: Msgs = {}
        for key, error in errors.items():
            ts = self._scheduler.tasks.get(key)
            if ts is not None:
                self.adopt_error(ts, error, recommendations, client_msgs)
        self._scheduler._transitions(recommendations, client_msgs, worker_msgs, stimulus_id)
        self._scheduler.send_all(client_msgs, worker_msgs)

    def settle_errors(self, reports: dict[str, Report], stimulus_id: str) -> None:
        """Free the errors on workers that are nobody's outcome; remember who has the others.

        Before these workers are given anything to do, or else it would be that which is freed.
        """
        worker_msgs: Msgs = {}
        for address, report in reports.items():
            for key, *_ in report.erred:
                ts = self._scheduler.tasks.get(key)
                if ts is not None and ts.erred_on is not None and ts.state == "erred":
                    ts.erred_on.add(address)
                else:
                    worker_msgs.setdefault(address, []).append(free(key, stimulus_id=stimulus_id))
        self._scheduler.send_all({}, worker_msgs)

    def take_claim(self, ts: TaskState) -> Claim | None:
        """The claim on a task that is about to be sent to a worker, if its worker is here."""
        claim = self.claims.pop(ts.key, None)
        if claim is not None and claim.worker in self._scheduler.workers:
            return claim
        return None

    def forget_worker(self, address: str) -> None:
        """The worker is gone: nothing of it is to be waited for."""
        self.orphans.forget_worker(address)
        for key in [k for k, claim in self.claims.items() if claim.worker == address]:
            del self.claims[key]

    def finish_claims(self, tasks: Iterable[TaskState], stimulus_id: str) -> None:
        """After the graph's transitions: what waits for a worker is already with one."""
        for ts in tasks:
            if self.claims and ts.state in _PENDING and not ts.waiting_on:
                claim = self.take_claim(ts)
                if claim is not None:
                    messages = self.make_processing(ts, claim, stimulus_id)
                    self._scheduler.send_all({}, messages)

    def _notify(
        self,
        key: Key,
        start: TaskStateState,
        finish: TaskStateState,
        stimulus_id: str,
        **kwargs: Any,
    ) -> None:
        for plugin in list(self._scheduler.plugins.values()):
            if isinstance(plugin, DRAWS_TIMES):
                continue
            try:
                plugin.transition(key, start, finish, stimulus_id=stimulus_id, **kwargs)
            except Exception:
                logger.warning(
                    "A scheduler plugin failed on an adopted task.",
                    exc_info=True,
                    extra={"action": "plugin-failed"},
                )


def _runs_on(ts: TaskState, address: str) -> bool:
    return ts.processing_on is not None and ts.processing_on.address == address


def _add(worker_msgs: Msgs, more: Msgs) -> None:
    for worker, messages in more.items():
        worker_msgs.setdefault(worker, []).extend(messages)
