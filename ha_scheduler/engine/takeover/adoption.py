"""Adoption of workers' reports: results, running tasks, errors.

Guarantee: a reported result becomes ``memory``, and a reported running task ``processing`` under
the run id that it has; neither is computed again, and ``validate_state`` holds after each
``adopt``. A key that the leader never knew is kept as an *orphan* (``orphans.py``): its client may
be about to resubmit the graph. What belongs to a released or cancelled task is freed: a later task
of the same key is another one (``runs.py``).

Order within ``adopt``: former tasks are freed before a worker hears of anything else; then claims,
so that no transition sends a running task to a second worker; then results, and the transitions
that follow; then running tasks, whose inputs are now in place; then errors.

``_TRANSITIONS_TABLE`` (scheduler.py:3060) holds the base functions, so an override of
``_transition_*`` has no effect. State changes are written out here, after
``_transition_processing_memory`` (2475) and ``_add_to_processing`` (3355).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from distributed.diagnostics.progress import GroupTiming
from distributed.diagnostics.task_stream import TaskStreamPlugin
from distributed.scheduler import Msgs, Recs, TaskState, TaskStateState, WorkerState
from distributed.shuffle._scheduler_plugin import ShuffleSchedulerPlugin
from distributed.stealing import WorkStealing

from ha_scheduler.engine.exposures import Opened
from ha_scheduler.engine.stream.keys import Key
from ha_scheduler.engine.stream.state import StreamScheduler
from ha_scheduler.engine.stream.task_errors import decode_error
from ha_scheduler.engine.takeover.consequences import Consequences
from ha_scheduler.engine.takeover.orphans import Orphans
from ha_scheduler.engine.takeover.reported_actors import ReportedActors
from ha_scheduler.engine.takeover.reports import (
    Claim,
    Held,
    claims,
    date,
    exposure_of_report,
    without,
)
from ha_scheduler.engine.takeover.shuffle_errors import is_no_outcome
from ha_scheduler.protocol.worker import FETCHING, Report

logger = logging.getLogger(__name__)

#: Plugins of upstream's that adopted tasks do not concern: they need to know when a task ran, which
#: nobody reports, or look at those that are released or fail.
UNCONCERNED = (TaskStreamPlugin, GroupTiming, ShuffleSchedulerPlugin)
#: Those that a result of a task does not concern that was not sent to a worker from here.
UNCONCERNED_BY_RESULTS = (*UNCONCERNED, WorkStealing)

_PENDING = ("waiting", "queued", "no-worker")


class Adoption:
    def __init__(self, scheduler: StreamScheduler) -> None:
        self._scheduler = scheduler
        self.claims: dict[Key, Claim] = {}
        self.orphans = Orphans(scheduler)
        self._actors = ReportedActors(scheduler)

    def adopt(self, reports: dict[str, Report], stimulus_id: str) -> dict[str, Report]:
        """Adopt the reports of registered workers; returns them without former tasks."""
        step = Consequences(self._scheduler, stimulus_id)
        for address, report in reports.items():
            with self._reading(address):
                former = self._without_former(address, report, step)
                reports[address] = self._actors.not_told_of(former)
        for address, report in reports.items():
            with self._reading(address):
                self._reconcile(address, report, step)
                self._claim(address, report)
                self._adopt_metadata(report)
        for address, report in reports.items():
            with self._reading(address):
                self._adopt_results(address, report, step)
        for key, address in self._actors.adopt_handles():
            step.free(address, key)
        self._settle(step)
        for address, report in reports.items():
            with self._reading(address):
                for key, claim in claims(address, report):
                    self._adopt_running(key, claim, step)
        self._adopt_errors(reports, step)
        step.send()
        return reports

    def _reading(self, address: str) -> Opened:
        """Whose report it is that this engine may end of."""
        worker = self._scheduler.workers[address]
        exposure = exposure_of_report(worker.server_id, address)
        return self._scheduler.exposures.watch(exposure, fatal=True)

    def _without_former(self, address: str, report: Report, step: Consequences) -> Report:
        """The report without released tasks, which its worker is told to free.

        A fetch stays: its end is reported as that of a transfer in any case.
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
        step.free(address, *former)
        return without(report, former)

    def _reconcile(self, address: str, report: Report, step: Consequences) -> None:
        """Correct what we believed of a worker that lost its connection."""
        ws = self._scheduler.workers[address]
        held = {key for key, *_ in report.memory}
        running = {key: run_id for key, run_id, *_ in report.running}
        failed = {key for key, *_ in report.erred}
        for ts in [ts for ts in ws.has_what if ts.key not in held]:
            self._scheduler.remove_replica(ts, ws)
            if not ts.who_has:
                step.recommendations[ts.key] = "released"
        for ts in list(ws.processing):
            if ts.key in running:
                ts.run_id = running[ts.key]
            elif ts.key not in held and ts.key not in failed:
                step.recommendations[ts.key] = "released"

    def _claim(self, address: str, report: Report) -> None:
        for key, claim in claims(address, report):
            if claim.state != FETCHING or key not in self.claims:
                self.claims[key] = claim

    def _adopt_metadata(self, report: Report) -> None:
        """Before the results, because plugins read it when they hear of one."""
        for key, data in report.metadata:
            ts = self._scheduler.tasks.get(key)
            if ts is not None:
                try:
                    # The task's, and not the worker's, which is kept with what it holds.
                    read = self._scheduler.exposures.read("metadata of", key, data, apart=True)
                    ts.metadata = {**read, **(ts.metadata or {})}
                except Exception:  # pickle runs the code of users
                    logger.warning(
                        "The metadata of %r cannot be read here; install on all peers what its "
                        "worker uses.",
                        key,
                        exc_info=True,
                        extra={"action": "metadata_unreadable"},
                    )

    def _settle(self, step: Consequences) -> None:
        """Follow the recommendations, less those that another result has overtaken.

        An input's result recommends to compute its dependents; their own dependents' results may
        follow, and then nobody needs them.
        """
        tasks = self._scheduler.tasks
        current: Recs = {}
        for key, finish in step.recommendations.items():
            ts = tasks[key]
            if finish != "processing":
                current[key] = finish
            elif ts.state == "waiting":
                current[key] = finish if ts.waiters or ts.who_wants else "released"
        step.recommendations = current
        step.follow()

    # Results: there may be a million

    def _adopt_results(self, address: str, report: Report, step: Consequences) -> None:
        scheduler = self._scheduler
        ws, actors = scheduler.workers[address], set(report.actors)
        plugins = [
            plugin
            for plugin in scheduler.plugins.values()
            if not isinstance(plugin, UNCONCERNED_BY_RESULTS)
        ]
        for key, nbytes, typename, run in self._actors.without_handles(address, report):
            ts = scheduler.tasks.get(key)
            if ts is None:
                self._keep(key, address, Held(nbytes, typename, date(report, key, run)))
            elif self._adopt_result(ts, ws, nbytes, typename, key in actors, step):
                self._tell(plugins, key, "processing", "memory", step.stimulus_id, worker=address)

    def _keep(self, key: Key, address: str, held: Held) -> None:
        """A worker holds what the leader does not know."""
        if held.run < 0 or self._scheduler.runs.is_over(held.run):
            self.orphans.hold_data(key, address)
        else:
            self.orphans.hold(key, address, held)

    def _adopt_result(
        self,
        ts: TaskState,
        ws: WorkerState,
        nbytes: int,
        typename: str,
        actor: bool,
        step: Consequences,
    ) -> bool:
        """Whether it was not known before that there is a result."""
        scheduler = self._scheduler
        if ts.state == "memory" and ts.who_has:
            if ws not in ts.who_has:
                scheduler.add_replica(ts, ws)
            return False
        is_needed = ts.who_wants or ts.waiters or ts.state in _PENDING
        if not is_needed or ts.state == "erred":
            step.free(ws.address, ts.key)
            return False
        if ts.state == "processing":
            self._stop_processing(ts, ws.address, step)
        if actor:
            ws.actors.add(ts)
        self._make_result(ts, ws, nbytes, typename, step)
        return True

    def _make_result(
        self, ts: TaskState, ws: WorkerState, nbytes: int, typename: str, step: Consequences
    ) -> None:
        """``ts`` is in the memory of ``ws``, whatever the leader believed before."""
        self._leave_pending(ts)
        self._scheduler.counts.adopted_results += 1
        if ts.waiters is None:
            pending = {dts for dts in ts.dependents if dts.state in (*_PENDING, "processing")}
            ts.waiters = pending
        ts.set_nbytes(nbytes)
        told: Msgs = {}  # upstream replaces what else is in it for a client (scheduler.py:3478)
        self._scheduler._add_to_memory(
            ts,
            ws,
            step.recommendations,
            told,
            type=None,  # type: ignore[arg-type]  # clients take it for a type that is not known
            typename=typename,
        )
        step.tell_clients(told)

    def _leave_pending(self, ts: TaskState) -> None:
        if ts.state == "queued":
            self._scheduler.queued.discard(ts)
        elif ts.state == "no-worker":
            self._scheduler.unrunnable.pop(ts, None)
        ts.waiting_on = None

    def _stop_processing(self, ts: TaskState, holder: str, step: Consequences) -> None:
        """A worker has the result that another one computes again: stop that one."""
        ws = self._scheduler._exit_processing_common(ts)
        stealing = self._scheduler.extensions.get("stealing")
        if stealing is not None:
            stealing.transition(ts.key, "processing", "memory")
        if ws is not None and ws.address != holder:
            step.free(ws.address, ts.key)

    # Running tasks

    def _adopt_running(self, key: Key, claim: Claim, step: Consequences) -> None:
        ts = self._scheduler.tasks.get(key)
        mine = self.claims.get(key) == claim
        if ts is None:
            self.claims.pop(key, None)
            self.orphans.run(key, claim)
        elif mine and ts.state in _PENDING and not ts.waiting_on:
            self.claims.pop(key, None)
            step.tell(self.make_processing(ts, claim, step.stimulus_id))
        elif (ws := ts.processing_on) is not None and ws.address == claim.worker:
            self.claims.pop(key, None)
            if claim.state == "long-running" and ts not in ws.long_running:
                ws.add_to_long_running(ts)
            step.tell(self._ask_to_compute(ts, claim))
        elif claim.state == FETCHING and ts.state == "memory":
            # Not to be freed: what waits there for the result would wait for ever.
            self.claims.pop(key, None)
        else:
            if mine:
                self.claims.pop(key, None)
            step.free(claim.worker, key)

    def make_processing(self, ts: TaskState, claim: Claim, stimulus_id: str) -> Msgs:
        """``ts`` is being computed under the claim; returns messages for its worker."""
        scheduler = self._scheduler
        ws = scheduler.workers[claim.worker]
        start = ts.state
        self._leave_pending(ts)
        scheduler.counts.adopted_running += 1
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
        """Have a worker that was told to fetch a task, and still computes it, report its end.

        It names the run id under which the computation began, and so do we. The end of an actor's
        creation is known already.
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

    def _adopt_errors(self, reports: dict[str, Report], step: Consequences) -> None:
        """Outcomes that the former leader had not recorded, or not heard of.

        An error is no outcome if the task has retries left, or was retried since (its worker may
        not have heard of that), or is of a P2P shuffle that failed because nobody led.
        """
        for address, report in reports.items():
            for key, payload, run in report.erred:
                ts = self._scheduler.tasks.get(key)
                if ts is None:
                    continue
                if self._scheduler.was_counted(key, run):
                    if _runs_on(ts, address):
                        step.recommendations[key] = "released"
                    continue
                error = decode_error(payload)
                spurious = is_no_outcome(ts, error["exception_text"])
                if ts.state == "processing":
                    self._fail_processing(ts, address, run, error, step.recommendations)
                elif not (ts.retries or spurious or key in self._scheduler.retried):
                    error["erred_on"] = [address]
                    self.adopt_error(ts, error, step)
        step.follow()

    def _fail_processing(
        self, ts: TaskState, address: str, run: int, error: dict[str, Any], recommendations: Recs
    ) -> None:
        """A task failed on a worker that had lost its connection."""
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

    def adopt_error(self, ts: TaskState, error: dict[str, Any], step: Consequences) -> None:
        """An error is the outcome of ``ts``, unless it has another or is being computed again."""
        if ts.state not in (*_PENDING, "released"):
            return
        self._leave_pending(ts)
        ts.erred_on = set(error["erred_on"])
        causes = {name: value for name, value in error.items() if name != "erred_on"}
        recs, msgs, _ = self._scheduler._propagate_erred(ts, cause=ts.key, **causes)
        step.recommendations.update(recs)
        step.tell_clients(msgs)

    def adopt_recorded(self, errors: dict[Key, dict[str, Any]], stimulus_id: str) -> None:
        """The ledger's errors are the outcomes of tasks without a result."""
        step = Consequences(self._scheduler, stimulus_id)
        for key, error in errors.items():
            ts = self._scheduler.tasks.get(key)
            if ts is not None:
                self.adopt_error(ts, error, step)
        step.follow()
        step.send()

    def settle_errors(self, reports: dict[str, Report], stimulus_id: str) -> None:
        """Free errors that are no outcome; remember the holders of the others.

        Before these workers are given work: a task that is sent again must not be freed.
        """
        step = Consequences(self._scheduler, stimulus_id)
        for address, report in reports.items():
            for key, *_ in report.erred:
                ts = self._scheduler.tasks.get(key)
                if ts is not None and ts.erred_on is not None and ts.state == "erred":
                    ts.erred_on.add(address)
                else:
                    step.free(address, key)
        step.send()

    def take_claim(self, ts: TaskState) -> Claim | None:
        """The claim on a task about to be sent to a worker, if the claiming worker is here."""
        claim = self.claims.pop(ts.key, None)
        if claim is not None and claim.worker in self._scheduler.workers:
            return claim
        return None

    def forget_worker(self, address: str) -> None:
        self.orphans.forget_worker(address)
        for key in [k for k, claim in self.claims.items() if claim.worker == address]:
            del self.claims[key]

    def finish_claims(self, tasks: Iterable[TaskState], stimulus_id: str) -> None:
        """After a graph's transitions: tasks that wait for a worker may have one already."""
        for ts in tasks:
            if self.claims and ts.state in _PENDING and not ts.waiting_on:
                claim = self.take_claim(ts)
                if claim is not None:
                    messages = self.make_processing(ts, claim, stimulus_id)
                    self._scheduler.send_all({}, messages)

    def _notify(
        self, key: Key, start: TaskStateState, finish: TaskStateState, stimulus_id: str
    ) -> None:
        present = self._scheduler.plugins.values()
        plugins = [plugin for plugin in present if not isinstance(plugin, UNCONCERNED)]
        self._tell(plugins, key, start, finish, stimulus_id)

    @staticmethod
    def _tell(
        plugins: Iterable[Any],
        key: Key,
        start: TaskStateState,
        finish: TaskStateState,
        stimulus_id: str,
        **more: Any,
    ) -> None:
        for plugin in plugins:
            try:
                plugin.transition(key, start, finish, stimulus_id=stimulus_id, **more)
            except Exception:  # the code of users
                logger.warning(
                    "A scheduler plugin failed on an adopted task.",
                    exc_info=True,
                    extra={"action": "plugin_failed"},
                )


def _runs_on(ts: TaskState, address: str) -> bool:
    return ts.processing_on is not None and ts.processing_on.address == address
