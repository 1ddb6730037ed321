"""What the engine assumes of distributed, so that an upgrade fails here and says why.

Each test names the line of distributed 2026.8.0 that the assumption was read from.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

import distributed
import distributed.scheduler as upstream
import pytest
from distributed.batched import BatchedSend
from distributed.broker import Broker
from distributed.core import ConnectionPool, Server, _expects_comm, error_message
from distributed.diagnostics.memory_sampler import MemorySamplerExtension
from distributed.diagnostics.task_stream import TaskStreamPlugin
from distributed.http.routing import RoutingApplication
from distributed.http.utils import get_handlers
from distributed.shuffle import _core as shuffle_core
from distributed.shuffle._core import ShuffleRunSpec
from distributed.shuffle._exceptions import P2PConsistencyError, ShuffleClosedError
from distributed.shuffle._scheduler_plugin import ShuffleSchedulerPlugin
from distributed.spans import SpansSchedulerExtension
from distributed.stealing import WorkStealing


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("update_graph", ["self", "client", "expr_ser", "keys"]),  # scheduler.py:4997
        ("client_desires_keys", ["self", "keys", "client"]),  # 5803
        ("_client_releases_keys", ["self", "keys", "cs", "recommendations"]),  # 3552
        ("_remove_key", ["self", "key"]),  # 2945
        ("_add_to_processing", ["self", "ts", "ws", "stimulus_id"]),  # 3355
        ("_exit_processing_common", ["self", "ts"]),  # 3415
        ("handle_worker", ["self", "comm", "worker"]),  # 6165
        ("add_client", ["self", "comm", "client", "versions"]),  # 5904
        ("remove_client", ["self", "client", "stimulus_id"]),  # 5954
        ("remove_worker", ["self", "address"]),  # 5570
        ("stimulus_retry", ["self", "keys", "client"]),  # 5519
        ("stimulus_cancel", ["self", "keys", "client", "force", "reason", "msg"]),  # 5758
        ("is_rootish", ["self", "ts"]),  # 3103
    ],
)
def test_an_overridden_method_takes_what_it_took(name: str, expected: list[str]) -> None:
    assert parameters(getattr(upstream.Scheduler, name))[: len(expected)] == expected


def test_making_tasks_takes_the_decisions_that_a_record_holds() -> None:
    """scheduler.py:4848; a new argument would be a decision that followers do not know."""
    assert set(parameters(upstream.Scheduler._create_taskstate_from_graph)) == {
        *("self", "start", "dsk", "keys", "ordered", "client", "annotations_by_type"),
        *("global_annotations", "stimulus_id", "submitting_task", "span_metadata"),
        *("user_priority", "actors", "fifo_timeout", "code"),
    }


def test_making_tasks_sets_priorities_before_any_transition() -> None:
    """scheduler.py:4904: orphans are handed out in ``_set_priorities``."""
    source = inspect.getsource(upstream.Scheduler._create_taskstate_from_graph)
    assert source.index("self._set_priorities(") < source.index("self.client_desires_keys(")
    assert source.index("self.client_desires_keys(") < source.index("self.transitions(")


def test_a_graph_is_materialised_by_the_module_function_that_we_replace() -> None:
    """scheduler.py:5032."""
    source = inspect.getsource(upstream.Scheduler.update_graph)
    assert "_materialize_graph,\n" in source
    assert parameters(upstream._materialize_graph) == ["expr", "validate"]
    assert parameters(upstream._cull) == ["dsk", "keys"]


def test_run_ids_come_from_one_iterator_of_the_class() -> None:
    """scheduler.py:3574: it is set above every earlier term's at an activation."""
    source = inspect.getsource(upstream.SchedulerState._task_to_msg)
    assert "next(TaskState._run_id_iterator)" in source


def test_a_started_scheduler_clears_its_tasks_and_a_restart_does_too() -> None:
    """scheduler.py:4411 and 6458: the first is held back, the second is recorded."""
    assert "self._clear_task_state()" in inspect.getsource(upstream.Scheduler.start_unsafe)
    assert "self._clear_task_state()" in inspect.getsource(upstream.Scheduler.restart)


def test_a_registered_worker_is_answered_and_then_served_by_handle_worker() -> None:
    """scheduler.py:4798: the report is adopted between the answer and the stream."""
    source = inspect.getsource(upstream.Scheduler.add_worker)
    assert source.index("await comm.write(msg)") < source.index("await self.handle_worker(")
    assert "self.stream_comms[address] = BatchedSend(" in source


def test_a_batched_stream_keeps_what_is_sent_before_it_starts() -> None:
    """batched.py:150."""
    assert "self.buffer.extend(msgs)" in inspect.getsource(BatchedSend.send)


def test_a_handler_that_takes_a_comm_is_told_by_its_signature() -> None:
    """core.py:198: our gate around handlers keeps it by ``functools.wraps``."""
    assert _expects_comm(lambda comm, key: None)
    assert not _expects_comm(lambda key: None)
    assert "self.handlers[op]" in inspect.getsource(Server._handle_comm)


def test_the_default_extensions_that_we_replace_exist() -> None:
    """scheduler.py:189."""
    assert upstream.DEFAULT_EXTENSIONS["spans"] is SpansSchedulerExtension
    assert upstream.DEFAULT_EXTENSIONS["shuffle"] is ShuffleSchedulerPlugin
    assert parameters(ShuffleSchedulerPlugin._create) == ["self", "shuffle_id", "key", "worker"]
    assert parameters(ShuffleSchedulerPlugin._clean_on_scheduler) == ["self", "id", "stimulus_id"]
    assert "run_id" in ShuffleRunSpec.__dataclass_fields__
    assert "_ensure_default_span" in vars(SpansSchedulerExtension)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("get_or_create", ["shuffle_id", "key", "worker"]),  # shuffle/_scheduler_plugin.py:219
        ("get", ["id", "worker"]),  # 171
        ("_get", ["id", "worker"]),  # 184
        ("barrier", ["id", "run_id", "consistent"]),  # 74
        ("restrict_task", ["id", "run_id", "key", "worker"]),  # 146
        ("_set_restriction", ["ts", "worker"]),  # 344
        ("_unset_restriction", ["ts"]),  # 360
        ("_restart_shuffle", ["id", "scheduler", "stimulus_id"]),  # 404
        ("_fail_on_workers", ["shuffle", "message"]),  # 521
        ("restart", ["scheduler"]),  # 552
    ],
)
def test_a_shuffle_is_asked_for_and_ended_as_we_think(name: str, expected: list[str]) -> None:
    assert parameters(vars(ShuffleSchedulerPlugin)[name])[1:] == expected


def test_a_task_of_a_shuffle_fails_in_ways_that_we_can_tell_apart() -> None:
    """shuffle/_core.py:535, 551 and 592; core.py:1638."""
    text = inspect.getsource(shuffle_core)
    for phase in ("transfer", "unpack", "barrier"):
        assert f'raise RuntimeError(f"P2P {{id}} failed during {phase} phase")' in text
    assert text.count("except P2PConsistencyError:\n        raise\n") == 3
    assert issubclass(ShuffleClosedError, P2PConsistencyError)
    assert error_message(P2PConsistencyError("x"))["exception_text"] == "P2PConsistencyError('x')"


@pytest.mark.parametrize(
    ("extension", "name", "method", "expected"),
    [
        ("queues", "queue_create", "create", ["name", "client", "maxsize"]),
        ("queues", "queue_put", "put", ["name", "key", "data", "client", "timeout"]),
        ("queues", "queue_get", "get", ["name", "client", "timeout", "batch"]),
        ("variables", "variable_set", "set", ["name", "key", "data", "client", "timeout"]),
        ("variables", "variable_get", "get", ["name", "client", "timeout"]),
        ("semaphores", "semaphore_register", "create", ["name", "max_leases", "lease_timeout"]),
        ("semaphores", None, "_get_lease", ["name", "lease_id"]),
        ("semaphores", None, "_release_value", ["name", "lease_id"]),
        ("multi_locks", "multi_lock_acquire", "acquire", ["locks", "id", "timeout", "num_locks"]),
        ("multi_locks", None, "_retain_locks", ["locks", "id"]),
        ("events", "event_wait", "event_wait", ["name", "timeout"]),
        ("publish", "publish_put", "put", ["names", "keys", "data", "override", "client", "uid"]),
    ],
)
def test_a_coordination_extension_takes_what_it_took(
    extension: str, name: str | None, method: str, expected: list[str]
) -> None:
    """scheduler.py:189, and the ``__init__`` of each."""
    kind = upstream.DEFAULT_EXTENSIONS[extension]
    assert parameters(getattr(kind, method))[1:] == expected
    if name is not None:
        assert f'"{name}": self.{method}' in inspect.getsource(kind.__init__)


def test_a_lease_is_given_and_taken_by_the_two_methods_that_record_it() -> None:
    """semaphore.py:103: everything else in the extension goes through them."""
    kind = upstream.DEFAULT_EXTENSIONS["semaphores"]
    source = inspect.getsource(kind)
    assert source.count("[lease_id] = now") == 1
    assert source.count("del self.leases[name][lease_id]") == 1
    assert source.count("self.leases[name][id_] = now") == 1  # refresh_leases


def test_an_event_is_published_through_the_broker() -> None:
    """scheduler.py:4110 and broker.py:38."""
    assert "self._broker = Broker(maxlen, self)" in inspect.getsource(upstream.Scheduler.__init__)
    assert parameters(Broker._send_to_subscribers) == ["self", "topic", "event"]


def test_a_datasets_keys_are_wanted_by_a_client_of_its_name() -> None:
    """publish.py:100."""
    source = inspect.getsource(upstream.DEFAULT_EXTENSIONS["publish"].put)
    assert 'f"published-{stringify(name)}"' in source


def test_fire_and_forget_is_a_client_of_that_name() -> None:
    """scheduler.py:1739 and client.py:6022."""
    assert '"fire-and-forget"' in inspect.getsource(upstream.SchedulerState.__init__)


def test_calls_to_nannies_are_the_only_ones_that_go_past_the_pool() -> None:
    """scheduler.py:6556: ``restart_workers``; what it calls ``rpc`` we replace (compat.py)."""
    source = inspect.getsource(upstream)
    assert len(re.findall(r"(?<![\w.])rpc\(", source)) == 1
    assert "rpc(nanny_address" in inspect.getsource(upstream.Scheduler.restart_workers)
    assert parameters(ConnectionPool.connect) == ["self", "addr", "timeout"]  # core.py:1391
    assert parameters(ConnectionPool.reuse) == ["self", "addr", "comm"]


def test_a_restart_tells_clients_and_then_restarts_workers_without_a_pause_before() -> None:
    """scheduler.py:6446-6464, for ``retirement.py``: all is void in one step."""
    source = inspect.getsource(upstream.Scheduler.restart)
    told, workers = source.index('self.report({"op": "restart"})'), source.index("await ")
    assert source.index("self._clear_task_state()") < told < workers
    assert source[workers:].startswith("await self.restart_workers(")


def test_a_retirement_is_tracked_from_the_step_in_which_the_status_changes() -> None:
    """scheduler.py:7587-7609, for ``retirement.py``."""
    source = inspect.getsource(upstream.Scheduler.retire_workers)
    changed = source.index("self.handle_worker_status_change(")
    assert "await" not in source[changed : source.index("self._track_retire_worker(")]


def test_who_has_retired_and_nobody_else_is_removed_as_expected() -> None:
    """scheduler.py:7686, for ``retirement.py``, by which it is told who has to close."""
    retired = inspect.getsource(upstream.Scheduler._track_retire_worker)
    assert "expected=True" in retired
    assert inspect.getsource(upstream).count("expected=True") == 1
    assert "nanny" in parameters(distributed.Worker.close)  # what it is told (worker.py:1398)


def test_a_memory_sampler_is_started_and_stopped_by_the_methods_that_record_it() -> None:
    """memory_sampler.py:200 and 226; ``stop`` is also how a sampler ends without its client."""
    assert parameters(MemorySamplerExtension.start) == ["self", "client", "measure", "interval"]
    assert parameters(MemorySamplerExtension.stop) == ["self", "key"]
    assert "self.stop(key)" in inspect.getsource(MemorySamplerExtension.start)
    assert "self.samples.pop(key)" in inspect.getsource(MemorySamplerExtension.stop)


def test_a_request_over_http_is_given_to_a_handler_by_the_application() -> None:
    """http/routing.py:55; the prefix is put before each route (http/utils.py:33)."""
    assert parameters(RoutingApplication.find_handler) == ["self", "request", "kwargs"]
    assert hasattr(RoutingApplication, "get_handler_delegate")
    assert "prefix=http_prefix" in inspect.getsource(upstream.Scheduler.__init__)
    assert 'prefix = "/" + prefix.strip("/")' in inspect.getsource(get_handlers)


def test_a_task_stream_is_found_by_a_cursor_that_counts_its_tasks() -> None:
    """scheduler.py:8081, task_stream.py:47: a cursor from before the first task is its start."""
    assert parameters(upstream.Scheduler._task_stream_plugin) == ["self"]
    assert "self._task_stream_plugin()" in inspect.getsource(upstream.Scheduler.get_task_stream)
    stream = TaskStreamPlugin(None, maxlen=10)
    stream.index = 2 << 32
    for key in ("a", "b"):
        stream.transition(key, "processing", "memory", startstops=[{"stop": 1.0}])
    assert [seen["key"] for seen in stream.collect(start_index=(1 << 32) + 5)] == ["a", "b"]
    assert [seen["key"] for seen in stream.collect(start_index=(2 << 32) + 1)] == ["b"]


def test_what_is_cancelled_is_what_only_the_client_wants_and_what_depends_on_it() -> None:
    """scheduler.py:5758: ours chooses alike, and records it."""
    source = inspect.getsource(upstream.Scheduler.stimulus_cancel)
    for line in (
        "if force or ts.who_wants == {cs}:",
        "[dts.key for dts in ts.dependents],",
        "clients.extend(list(ts.who_wants) if force else [cs])",
        '"op": "cancelled-keys",',
    ):
        assert line in source
    handlers = inspect.getsource(upstream.Scheduler.__init__)
    assert '"cancel-keys": self.stimulus_cancel,' in handlers


def test_the_messages_of_a_stream_are_handled_one_after_the_other() -> None:
    """core.py:877: a cancellation finds the graphs before it made, and none after it."""
    source = inspect.getsource(Server.handle_stream)
    assert "await handler(**merge(extra, msg))" in source


def test_an_adopted_result_does_not_concern_the_plugins_that_are_left_out() -> None:
    """shuffle/_scheduler_plugin.py:463 and stealing.py:177, neither of which looks at anything."""
    nobody: Any = None
    ShuffleSchedulerPlugin.transition(nobody, "x", "processing", "memory", stimulus_id="s")
    ShuffleSchedulerPlugin.transition(nobody, "x", "waiting", "processing", stimulus_id="s")
    WorkStealing.transition(nobody, "x", "waiting", "memory")
