"""What our Worker and Nanny assume of distributed beyond its public interface.

Each test names the line of distributed 2026.8.0 that it is about. When one fails after an upgrade,
the module that relies on it has to be looked at before anything else.
"""

from __future__ import annotations

import inspect
import re
from typing import Any, get_args

import distributed
import pytest
from dask._task_spec import Task
from distributed import nanny as upstream_nanny
from distributed import worker as upstream
from distributed import worker_state_machine as machine
from distributed.core import Server

from ha_scheduler.protocol.worker import Report
from ha_scheduler.worker import registration
from ha_scheduler.worker.report import RUNNING, report_of

source = inspect.getsource


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("batched_send", ["self", "msg"]),  # worker.py:1058
        ("_register_with_scheduler", ["self"]),  # 1077
        ("heartbeat", ["self"]),  # 1161
        ("handle_scheduler", ["self", "comm"]),  # 1213
        ("plugin_add", ["self", "plugin", "name", "catch_errors"]),  # 1757
        ("plugin_remove", ["self", "name"]),  # 1791
        ("_get_client", ["self", "timeout"]),  # 2450
        ("get_metrics", ["self"]),  # 938
        ("get_startup_information", ["self"]),  # 1008
        ("_update_latency", ["self", "latency"]),  # 1157
    ],
)
def test_a_method_of_the_worker_takes_what_it_took(name: str, expected: list[str]) -> None:
    assert parameters(getattr(distributed.Worker, name)) == expected


def test_the_registration_says_what_upstreams_says() -> None:
    """worker.py:1097: a field that is added there has to be added to ours."""
    upstreams = source(distributed.Worker._register_with_scheduler)
    body = upstreams[upstreams.index("dict(\n") : upstreams.index("serializers=")]
    fields = set(re.findall(r"^ {24}(\w+)=", body, re.MULTILINE))
    ours = set(re.findall(r'^ {8}"(\w+)":', source(registration.upstream_message), re.MULTILINE))
    assert "server_id" in fields
    assert fields == ours


def test_a_registered_worker_runs_then_adds_plugins_and_then_listens() -> None:
    """worker.py:1139: ``SchedulerLink._established`` keeps this order."""
    text = source(distributed.Worker._register_with_scheduler)
    order = ("self.batched_stream.start(comm)", "self.plugin_add(", "self.handle_scheduler, comm")
    assert [text.index(part) for part in order] == sorted(text.index(part) for part in order)


def test_the_handlers_that_we_point_at_our_methods_exist() -> None:
    """worker.py:671, 682, 692 and 779."""
    text = source(distributed.Worker.__init__)
    for line in (
        '"terminate": self.close',
        '"plugin-add": self.plugin_add',
        '"plugin-remove": self.plugin_remove',
        '"close": self.close',
        'self.periodic_callbacks["heartbeat"] = pc',
        'self.periodic_callbacks["keep-alive"] = pc',
        "self.scheduler = self.rpc(scheduler_addr)",
        "self.execution_state = {",
    ):
        assert line in text


def test_a_lost_stream_closes_the_worker_in_one_place_only() -> None:
    """worker.py:1213: what we replace; and 1058, which would raise in a stimulus."""
    assert "worker-handle-scheduler-connection-broken" in source(
        distributed.Worker.handle_scheduler
    )
    assert source(upstream).count("worker-handle-scheduler-connection-broken") == 1
    assert "self.batched_stream.send(msg)" in source(distributed.Worker.batched_send)


def test_a_heartbeat_asks_for_what_ours_asks_for() -> None:
    """worker.py:1161."""
    text = source(distributed.Worker.heartbeat)
    call = text[text.index("self.scheduler.heartbeat_worker,") :]
    assert set(re.findall(r"^ {16}(\w+)=", call, re.MULTILINE)) == {
        *("address", "now", "metrics", "executing", "extensions"),
    }


def test_handling_a_stream_is_what_ours_does() -> None:
    """core.py:844: ours looks before each message at who leads."""
    text = source(Server.handle_stream)
    for line in ('if msg == "OK":', 'op = msg.pop("op")', 'if op == "close-stream":'):
        assert line in text
    assert "await asyncio.sleep(0)" in text


def test_the_states_of_a_task_are_those_of_which_a_report_knows() -> None:
    """worker_state_machine.py:61: a new state would have to be told or left out on purpose."""
    left_out = {
        *("cancelled", "fetch", "flight", "forgotten", "missing", "released", "rescheduled"),
    }
    states = set(get_args(machine.TaskStateState))
    assert states == RUNNING | left_out | {"memory", "error"}
    assert machine.PROCESSING | {"resumed"} == RUNNING


def test_a_task_of_the_state_machine_has_what_a_report_says() -> None:
    """worker_state_machine.py:202: run under a run id, then in memory with size and type."""
    state = machine.WorkerState(address="tcp://127.0.0.1:1", validate=True)
    compute = machine.ComputeTaskEvent.dummy("x", run_id=7, stimulus_id="s")
    compute.run_spec = Task("x", int)
    state.handle_stimulus(compute)
    assert report_of(state).running == (("x", 7, "executing"),)
    done = machine.ExecuteSuccessEvent.dummy("x", 0, run_id=7, nbytes=3, stimulus_id="s")
    done.type = int
    state.handle_stimulus(done)
    assert report_of(state) == Report(memory=(("x", 3, "int", 7),))


def test_a_run_id_is_kept_while_a_task_executes() -> None:
    """worker.py:2130: the result comes under the id that the execution began with."""
    assert "run_id = ts.run_id" in source(distributed.Worker.execute)


def test_an_error_comes_as_pickled_bytes() -> None:
    """core.py:1616: ``exception.data`` is what goes into a report."""
    failure = machine.ExecuteFailureEvent.from_exception(
        KeyError("x"), key="x", run_id=1, stimulus_id="s"
    )
    assert isinstance(failure.exception.data, bytes)


def test_preloads_run_before_a_worker_registers() -> None:
    """worker.py:1343: there a plain worker is made one of ours."""
    text = source(distributed.Worker.start_unsafe)
    assert text.index("self.preloads.start()") < text.index("self._register_with_scheduler()")


def test_a_client_of_a_worker_is_kept_for_its_end() -> None:
    """worker.py:418 and 2450: ours adds itself there."""
    assert "_initialized_clients" in vars(distributed.Worker)
    text = source(distributed.Worker._get_client)
    for argument in ("loop=self.loop", "set_as_default=True", "direct_to_workers=True"):
        assert argument in text


def test_adding_a_plugin_again_tears_it_down_first() -> None:
    """worker.py:1771: why plugins that a worker has are not sent again."""
    assert "await self.plugin_remove(name=name)" in source(distributed.Worker.plugin_add)


def test_a_nanny_registers_over_the_first_connection_of_its_pool() -> None:
    """nanny.py:341 and 365: the last word of the registration has a status."""
    text = source(distributed.Nanny.start_unsafe)
    assert text.index("self.preloads.start()") < text.index("await self.rpc.connect(saddr)")
    assert text.count("self.rpc.connect(") == 1
    assert 'await comm.write({"status": "ok"})' in text
    assert "saddr = self.scheduler.addr" in text


def test_a_nanny_starts_the_class_that_it_was_given() -> None:
    """nanny.py:220 and 412."""
    assert "self.Worker = Worker if worker_class is None" in source(distributed.Nanny.__init__)
    assert "worker=self.Worker" in source(distributed.Nanny.instantiate)
    assert parameters(distributed.Nanny._unregister) == ["self", "timeout"]


def test_a_nanny_hands_its_configuration_to_the_worker() -> None:
    """nanny.py:236: so the preload of ``ha://`` reaches it."""
    assert "self.config = merge(dask.config.config" in source(distributed.Nanny.__init__)
    assert "config=self.config" in source(upstream_nanny.Nanny.instantiate)
