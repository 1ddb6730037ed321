"""The snapshot, taken of real worker state machines."""

from __future__ import annotations

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
    SecedeEvent,
    WorkerState,
)

from ha_scheduler.worker.report import shuffle_runs, snapshot

PEER = "127.0.0.1:2"


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
    assert snapshot(state) == {"memory": [], "running": [], "erred": [], "actors": []}


def test_what_is_in_memory_is_reported_unread(state: WorkerState) -> None:
    compute(state, ("x", 0))
    finish(state, ("x", 0))
    assert snapshot(state)["memory"] == [(("x", 0), 17, "str")]
    assert snapshot(state)["running"] == []


def test_every_task_to_compute_is_running_under_its_run_id(state: WorkerState) -> None:
    for number, key in enumerate("abc", start=5):
        compute(state, key, run_id=number)
    compute(state, "d", run_id=8, who_has={"dep": [PEER]}, nbytes={"dep": 1})
    state.handle_stimulus(SecedeEvent(key="a", compute_duration=1.0, stimulus_id="secede"))
    assert snapshot(state)["running"] == [
        ("a", 5, "long-running"),
        ("b", 6, "executing"),
        ("c", 7, "executing"),
        ("d", 8, "waiting"),
    ]


def test_dependencies_that_are_being_fetched_are_not_reported(state: WorkerState) -> None:
    state.handle_stimulus(
        AcquireReplicasEvent(who_has={"far": [PEER]}, nbytes={"far": 1}, stimulus_id="fetch")
    )
    assert state.tasks["far"].state == "flight"
    assert snapshot(state) == {"memory": [], "running": [], "erred": [], "actors": []}


def test_cancelled_is_left_out_and_resumed_counts(state: WorkerState) -> None:
    compute(state, "back", run_id=2)
    state.handle_stimulus(FreeKeysEvent(keys=["back"], stimulus_id="free"))
    assert {ts.state for ts in state.tasks.values()} == {"cancelled"}
    assert snapshot(state)["running"] == []
    state.handle_stimulus(
        AcquireReplicasEvent(who_has={"back": [PEER]}, nbytes={"back": 1}, stimulus_id="again")
    )
    assert state.tasks["back"].state == "resumed"
    assert snapshot(state)["running"] == [("back", 2, "resumed")]


def test_errors_and_actors_are_named(state: WorkerState) -> None:
    compute(state, "bad", run_id=3)
    state.handle_stimulus(ExecuteFailureEvent.dummy("bad", run_id=3, stimulus_id="fail"))
    compute(state, "actor", run_id=4, actor=True)
    finish(state, "actor", run_id=4, value=object())
    report = snapshot(state)
    ((key, error),) = report["erred"]
    assert key == "bad"
    assert set(loads(error)) == {"exception", "traceback", "exception_text", "traceback_text"}
    assert report["actors"] == ["actor"]
    assert [entry[0] for entry in report["memory"]] == ["actor"]


def test_runs_of_shuffles_that_go_on_and_that_were_ended_are_told() -> None:
    plugin = ShuffleWorkerPlugin()
    plugin.shuffle_runs = _ShuffleRunManager(plugin)
    worker = SimpleNamespace(plugins={"shuffle": plugin})
    plugin.shuffle_runs._active_runs["here"] = SimpleNamespace(run_id=7)
    plugin.shuffle_fail("over", 5, "it was over")
    assert shuffle_runs(worker) == [("here", 7, True), ("over", 5, False)]
    assert shuffle_runs(SimpleNamespace(plugins={})) == []
