"""What our Client assumes of distributed beyond its public interface.

Each test names the line of distributed 2026.8.0 that it is about. When one fails after an upgrade,
the module that relies on it has to be looked at before anything else.
"""

from __future__ import annotations

import inspect
from typing import Any

import dask
import distributed
import pytest
from distributed import client as upstream
from distributed.core import ConnectionPool, PooledRPCCall
from distributed.diagnostics.progressbar import MultiProgressBar, ProgressBar
from distributed.protocol import pickle

from client_replay.client import REPORT_BEGINS
from client_replay.upstream import close_without_leader

source = inspect.getsource


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("_send_to_scheduler_safe", ["self", "msg"]),  # client.py:1429
        ("_send_to_scheduler", ["self", "msg"]),  # 1439
        ("_reconnect", ["self"]),  # 1513
        ("_ensure_connected", ["self", "timeout"]),  # 1550
        ("_handle_report", ["self"]),  # 1735
        ("_handle_cancelled_keys", ["self", "keys", "reason", "msg"]),  # 1810
        ("_handle_restart", ["self"]),  # 1826
        ("_close", ["self", "fast"]),  # 1862
        ("_get_scheduler_info", ["self", "n_workers"]),  # 1351
    ],
)
def test_a_method_of_the_client_takes_what_it_took(name: str, expected: list[str]) -> None:
    assert parameters(getattr(distributed.Client, name)) == expected


def test_a_performance_report_begins_with_a_look_at_the_scheduler() -> None:
    """client.py:6070: the function is known by its name, and it changes nothing."""
    text = source(upstream.performance_report.__aenter__)
    assert text.count("run_on_scheduler") == text.count("lambda") == 1
    assert "lambda dask_scheduler: dask_scheduler.monitor.count" in text
    constants = upstream.performance_report.__aenter__.__code__.co_consts
    (function,) = filter(inspect.iscode, constants)
    assert function.co_qualname == REPORT_BEGINS


def test_graphs_are_submitted_in_one_place_after_their_futures_exist() -> None:
    """client.py:3373: the keys come second, and a graph's message is made there only."""
    assert parameters(distributed.Client._graph_to_futures)[:3] == ["self", "expr", "keys"]
    text = source(distributed.Client._graph_to_futures)
    assert text.index("Future(key, self)") < text.index('"op": "update-graph"')
    assert source(upstream).count('"op": "update-graph"') == 1


def test_what_is_sent_while_connecting_is_kept_and_flushed_through_the_loop() -> None:
    """client.py:1437 and 1602: so a hello that is sent at once comes first."""
    assert "self._pending_msg_buffer.append(msg)" in source(
        distributed.Client._send_to_scheduler_safe
    )
    assert "self.loop.add_callback(self._send_to_scheduler_safe, msg)" in source(
        distributed.Client._send_to_scheduler
    )
    text = source(distributed.Client._ensure_connected)
    after = text[text.index("for msg in self._pending_msg_buffer") :]
    assert "await " not in after


def test_the_answer_to_a_registration_comes_alone() -> None:
    """client.py:1589."""
    text = source(distributed.Client._ensure_connected)
    assert "assert len(msg) == 1" in text
    assert 'msg[0]["op"] == "stream-start"' in text


def test_the_report_loop_is_what_ours_does() -> None:
    """client.py:1735."""
    text = source(distributed.Client._handle_report)
    for line in (
        "await self.scheduler_comm.comm.read()",
        'if "status" in msg and "error" in msg["status"]:',
        'if op == "close" or op == "stream-closed":',
        "handler = self._stream_handlers[op]",
    ):
        assert line in text


def test_the_names_that_we_set_or_read_are_made_by_the_constructor() -> None:
    """client.py:1097, 1111, 1208 and 1212."""
    text = source(distributed.Client.__init__)
    for name in ("_timeout", "_pending_msg_buffer", "_start_arg", "_event_handlers"):
        assert f"self.{name} = " in text
    assert "self._stream_handlers = {" in text
    for op in ("cancelled-keys", "restart"):
        assert f'"{op}": self._handle_' in text


def test_close_sets_the_status_before_it_awaits_anything() -> None:
    """client.py:1948; ours waits before it."""
    text = source(distributed.Client.close)
    assert text.index('self.status = "closing"') < text.index("self._close")
    assert "self._close(" in source(distributed.Client.__aexit__)
    assert "self.close()" in source(distributed.Client.__exit__)


def test_preloads_run_when_the_client_has_connected() -> None:
    """client.py:1503: there a plain client is made one of ours."""
    text = source(distributed.Client._start)
    assert text.index("self._ensure_connected(") < text.index("self.preloads.start()")


def test_a_client_begins_to_listen_as_the_last_step_of_its_start() -> None:
    """client.py:1508: where a plain client of a cell is made ours (``automatic.py``)."""
    text = source(distributed.Client._start)
    last = "self._handle_report_task = asyncio.create_task(self._handle_report())"
    assert text.index("await self.preloads.start()") < text.index(last)
    assert text.partition(last)[2].split() == ["return", "self"]


def test_frames_of_ignored_modules_are_no_code_of_a_computation() -> None:
    """client.py:3270."""
    name = "distributed.diagnostics.computations.ignore-modules"
    assert isinstance(dask.config.get(name), list)
    assert name in source(distributed.Client._get_computation_code)


def test_a_pooled_call_has_what_ours_takes_over() -> None:
    """core.py:1209: the address is read at each call, so it may be exchanged."""
    assert parameters(PooledRPCCall.__init__) == [
        *("self", "addr", "pool", "serializers", "deserializers"),
    ]
    assert "await self.pool.connect(self.addr)" in source(PooledRPCCall.__getattr__)
    assert "self.pool.reuse(self.addr, comm)" in source(PooledRPCCall.__getattr__)


async def test_a_pool_keeps_its_comms_by_address() -> None:
    """core.py:1281: what ``drop_pooled`` aborts."""
    pool = ConnectionPool()
    assert (pool.available, pool.occupied, pool._connecting) == ({}, {}, {})
    await pool.close()
    text = source(ConnectionPool.connect)
    assert "self._connecting[addr].add(" in text


def test_a_queue_and_a_variable_are_given_up_by_a_connected_client_only() -> None:
    """queues.py:299 and variable.py:256: messages of the stream, which ours sends as calls."""
    for method, op in (
        (close_without_leader._close, "queue_release"),
        (close_without_leader._delete, "variable_delete"),
    ):
        assert 'if self.client.status == "running":' in source(method)
        assert f'{{"op": "{op}", "name": self.name}}' in source(method)


def test_a_progress_bar_listens_to_one_leader() -> None:
    """progressbar.py:52 and 259: ``upstream/progress.py`` goes on with the next one."""
    for kind in (ProgressBar, MultiProgressBar):
        text = source(kind.listen)
        assert "await connect(" in text
        assert "self._last_response = response" in text
        assert 'self.status = response["status"]' in text
        assert "get_scheduler(scheduler)" in source(kind.__init__)


def test_exceptions_are_pickled_by_the_module_that_we_use() -> None:
    """protocol/pickle.py."""
    assert isinstance(pickle.loads(pickle.dumps(KeyError("x"))), KeyError)


def test_a_client_asks_for_no_worker_before_it_registers() -> None:
    """client.py:1569 and 1608: a leader tells its workers only when its recovery is over."""
    asked = inspect.signature(upstream.Client._update_scheduler_info).parameters["n_workers"]
    assert asked.default == 0
    source = inspect.getsource(upstream.Client._ensure_connected)
    assert source.index("self._update_scheduler_info()") < source.index('"register-client"')
