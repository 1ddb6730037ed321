"""The report, taken of real worker state machines."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from distributed.protocol.pickle import loads
from distributed.shuffle._worker_plugin import ShuffleWorkerPlugin, _ShuffleRunManager
from distributed.worker_state_machine import (
    AcquireReplicasEvent,
    ComputeTaskEvent,
    ExecuteFailureEvent,
    ExecuteSuccessEvent,
    FreeKeysEvent,
    GatherDepFailureEvent,
    GatherDepNetworkFailureEvent,
    RescheduleEvent,
    SecedeEvent,
    WorkerState,
)

from ha_scheduler.protocol.codec import from_op, to_op
from ha_scheduler.protocol.worker import (
    FETCHING,
    METADATA_BYTES_MAX,
    Joining,
    RegisterWorker,
    Report,
)
from ha_scheduler.worker.report import report_of, shuffle_runs

PEER = "127.0.0.1:2"
NOTHING = Report()


class Untouchable(dict[Any, Any]):
    """Data that must not be read: a spilled value would come back into memory."""

    reading = False

    def __getitem__(self, key: Any) -> Any:
        assert self.reading, f"{key} was read"
        return super().__getitem__(key)


@pytest.fixture
def state() -> Iterator[WorkerState]:
    made = WorkerState(address="127.0.0.1:1", nthreads=2, data=Untouchable(), validate=False)
    yield made
    made.data.reading = True  # type: ignore[attr-defined]
    made.validate_state()


def compute(state: WorkerState, key: Any, run_id: int = 1, **kwargs: Any) -> None:
    state.handle_stimulus(
        ComputeTaskEvent.dummy(key, run_id=run_id, stimulus_id=f"compute-{key}", **kwargs)
    )


def finish(state: WorkerState, key: Any, run_id: int = 1, value: Any = "x") -> None:
    state.handle_stimulus(
        ExecuteSuccessEvent(
            key=key,
            run_id=run_id,
            value=value,
            start=0.0,
            stop=1.0,
            nbytes=17,
            type=type(value),
            stimulus_id=f"finish-{key}",
        )
    )


def test_an_idle_worker_reports_nothing(state: WorkerState) -> None:
    assert report_of(state) == NOTHING


def test_what_is_in_memory_is_reported_unread(state: WorkerState) -> None:
    compute(state, ("x", 0))
    finish(state, ("x", 0))
    assert report_of(state).memory == ((("x", 0), 17, "str", 1),)
    assert report_of(state).running == ()


@pytest.mark.parametrize("size", [17.5, 17.0, -17])
def test_a_size_of_any_kind_of_number_is_one_that_a_leader_reads(
    state: WorkerState, size: Any
) -> None:
    compute(state, "x")
    finish(state, "x")
    state.tasks["x"].nbytes = size
    joining = Joining(1, report_of(state), {})
    state.tasks["x"].nbytes = 17  # which the state's own validation, off in a worker, asks for
    message = to_op(RegisterWorker("tcp://127.0.0.1:1", "id", None, joining))
    ((_, told, *_),) = from_op(RegisterWorker, message).ha.report.memory
    assert told == max(0, int(size))


def test_what_a_task_left_is_reported_unless_it_is_too_much_or_alive(
    state: WorkerState,
) -> None:
    left = {"little": {"a": ("b", 1)}, "much": {"a": "x" * METADATA_BYTES_MAX}}
    left["live"] = {"a": threading.Lock()}
    for key, metadata in left.items():
        compute(state, key)
        state.tasks[key].metadata.update(metadata)
        finish(state, key)
    ((key, data),) = report_of(state).metadata
    assert (key, loads(data)) == ("little", left["little"])


def test_every_task_to_compute_is_running_under_its_run_id(state: WorkerState) -> None:
    for number, key in enumerate("abc", start=5):
        compute(state, key, run_id=number)
    compute(state, "d", run_id=8, who_has={"dep": [PEER]}, nbytes={"dep": 1})
    state.handle_stimulus(SecedeEvent(key="a", compute_duration=1.0, stimulus_id="secede"))
    assert report_of(state).running == (
        ("a", 5, "long-running"),
        ("b", 6, "executing"),
        ("c", 7, "executing"),
        ("d", 8, "waiting"),
    )


def test_dependencies_that_are_being_fetched_are_not_reported(state: WorkerState) -> None:
    state.handle_stimulus(
        AcquireReplicasEvent(who_has={"far": [PEER]}, nbytes={"far": 1}, stimulus_id="fetch")
    )
    assert state.tasks["far"].state == "flight"
    assert report_of(state) == NOTHING


def fetch(state: WorkerState, key: Any) -> None:
    state.handle_stimulus(
        AcquireReplicasEvent(who_has={key: [PEER]}, nbytes={key: 1}, stimulus_id=f"fetch-{key}")
    )


def free(state: WorkerState, key: Any) -> None:
    state.handle_stimulus(FreeKeysEvent(keys=[key], stimulus_id=f"free-{key}"))


def secede(state: WorkerState, key: Any) -> None:
    state.handle_stimulus(SecedeEvent(key=key, compute_duration=1.0, stimulus_id=f"secede-{key}"))


def test_what_was_cancelled_and_still_runs_is_left_out(state: WorkerState) -> None:
    compute(state, "plain")
    compute(state, "long")
    secede(state, "long")
    free(state, "plain")
    free(state, "long")
    assert {ts.state for ts in state.tasks.values()} == {"cancelled"}
    assert report_of(state) == NOTHING


def test_what_was_cancelled_and_is_wanted_again_is_what_it_was(state: WorkerState) -> None:
    compute(state, "plain", run_id=2)
    compute(state, "long", run_id=3)
    free(state, "plain")
    free(state, "long")
    secede(state, "long")  # after it was cancelled: nobody was told
    compute(state, "plain", run_id=2)
    compute(state, "long", run_id=3)
    assert report_of(state).running == (("plain", 2, "executing"), ("long", 3, "long-running"))


def test_a_computation_that_is_to_be_fetched_instead_is_no_running_task(state: WorkerState) -> None:
    compute(state, "plain", run_id=2)
    compute(state, "long", run_id=3)
    secede(state, "long")
    for key in ("plain", "long"):
        free(state, key)
        fetch(state, key)
    assert {ts.state for ts in state.tasks.values()} == {"resumed"}
    assert report_of(state).running == (("plain", 2, FETCHING), ("long", 3, FETCHING))


def test_what_is_on_its_way_here_and_to_be_computed_instead_is_running(state: WorkerState) -> None:
    fetch(state, "far")
    free(state, "far")
    assert state.tasks["far"].state == "cancelled"
    assert report_of(state) == NOTHING
    compute(state, "far", run_id=4)
    assert state.tasks["far"].state == "resumed"
    assert report_of(state).running == (("far", 4, "resumed"),)


def test_what_could_not_be_read_when_it_arrived_has_not_erred(state: WorkerState) -> None:
    fetch(state, "far")
    state.handle_stimulus(
        GatherDepFailureEvent.from_exception(
            ValueError("cannot be read"), worker=PEER, total_nbytes=1, stimulus_id="failed"
        )
    )
    assert state.tasks["far"].state == "error"
    assert report_of(state) == NOTHING


def test_what_nobody_is_known_to_have_is_left_out(state: WorkerState) -> None:
    compute(state, "near", run_id=2, who_has={"far": [PEER]}, nbytes={"far": 1})
    state.handle_stimulus(
        GatherDepNetworkFailureEvent(worker=PEER, total_nbytes=1, stimulus_id="gone")
    )
    assert state.tasks["far"].state == "missing"
    assert report_of(state) == Report(running=(("near", 2, "waiting"),))


def test_a_task_that_gave_itself_back_is_gone(state: WorkerState) -> None:
    compute(state, "back")
    state.handle_stimulus(RescheduleEvent(key="back", stimulus_id="reschedule"))
    assert report_of(state) == NOTHING


def test_errors_and_actors_are_named(state: WorkerState) -> None:
    compute(state, "bad", run_id=3)
    state.handle_stimulus(ExecuteFailureEvent.dummy("bad", run_id=3, stimulus_id="fail"))
    compute(state, "actor", run_id=4, actor=True)
    finish(state, "actor", run_id=4, value=object())
    report = report_of(state)
    ((key, error, run_id),) = report.erred
    assert (key, run_id) == ("bad", 3)
    assert set(loads(error)) == {"exception", "traceback", "exception_text", "traceback_text"}
    assert report.actors == ("actor",)
    assert [entry[0] for entry in report.memory] == ["actor"]


def test_runs_of_shuffles_that_go_on_and_that_were_ended_are_told() -> None:
    plugin = ShuffleWorkerPlugin()
    plugin.shuffle_runs = _ShuffleRunManager(plugin)
    worker = SimpleNamespace(plugins={"shuffle": plugin})
    plugin.shuffle_runs._active_runs["here"] = SimpleNamespace(run_id=7)
    plugin.shuffle_fail("over", 5, "it was over")
    assert shuffle_runs(worker) == (("here", 7, True), ("over", 5, False))
    assert shuffle_runs(SimpleNamespace(plugins={})) == ()
