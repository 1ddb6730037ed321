"""Calls to the scheduler that survive the loss of the leader.

Guarantee: a call in ``REPEATABLE`` is repeated on the next leader until it is answered, at most
``REPEATS_MAX`` times after having been sent; any other call is sent at most once, and if the leader
is lost meanwhile the caller gets ``OutcomeUnknown``. Whatever was never sent may always be tried
again: waiting for a leader is bounded by time alone.

Repeatable is what ``reference/distributed.md`` §2.3 found to be read-only or idempotent.
"""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections.abc import Callable, Coroutine
from typing import Any

import dask
from dask.utils import parse_timedelta
from distributed.core import PooledRPCCall, Status, send_recv

from client_replay.errors import NoLeader, OutcomeUnknown

RECONNECT_TIMEOUT = "ha-scheduler.client.reconnect-timeout"
RECONNECT_TIMEOUT_DEFAULT = "1h"
REPEATS_MAX = 8  # leaders lost during one call; more means that the call kills them
BACKOFF_S_MIN, BACKOFF_S_MAX = 0.02, 0.5


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


READ_ONLY = _names(
    """adaptive_target workers_to_close benchmark_hardware call_stack check_idle echo event_is_set
    events gather get_cluster_state get_error_cause
    get_logs get_metadata get_runspec get_story get_task_prefix_states
    get_task_status get_task_stream has_what identity logs nbytes ncores
    ncores_running performance_report processing profile publish_get publish_list
    queue_qsize semaphore_value versions who_has worker_logs"""
)
IDEMPOTENT = _names(
    """amm_handler dump_cluster_state_to_url event_clear event_set event_wait log_event
    rebalance register_nanny_plugin register_scheduler_plugin register_worker_plugin replicate
    retire_workers retry scatter semaphore_acquire semaphore_close semaphore_refresh_leases
    semaphore_register semaphore_release set_metadata set_resources set_restrictions
    shuffle_barrier shuffle_get shuffle_get_or_create shuffle_restrict_task update_data
    variable_get variable_set"""
)
REPEATABLE = READ_ONLY | IDEMPOTENT


def reconnect_timeout_s() -> float:
    """How long a client waits for a leader before it gives up."""
    value = dask.config.get(RECONNECT_TIMEOUT, RECONNECT_TIMEOUT_DEFAULT)
    return float(parse_timedelta(value, default="s"))


class SchedulerRPC(PooledRPCCall):
    """A ``PooledRPCCall`` to whoever leads."""

    addr: str
    pool: Any

    @classmethod
    def around(cls, call: Any) -> SchedulerRPC:
        """``call`` itself if it is one already, else one like it."""
        if isinstance(call, cls):
            return call
        return cls(call.addr, call.pool, call.serializers, call.deserializers)

    def __getattr__(self, op: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        async def call(**kwargs: Any) -> Any:
            for name in ("serializers", "deserializers"):
                default = getattr(self, name)
                if default is not None and kwargs.get(name) is None:
                    kwargs[name] = default
            return await self._call(op, kwargs)

        return call

    async def _call(self, op: str, kwargs: dict[str, Any]) -> Any:
        deadline = time.monotonic() + reconnect_timeout_s()
        for repeat in range(REPEATS_MAX + 1):
            comm = await self._comm(op, deadline)
            try:
                return await self._send(comm, op, kwargs)
            except OSError as error:
                if not comm.closed():
                    raise  # the scheduler's own answer
                if op not in REPEATABLE:
                    raise OutcomeUnknown(op) from error
                if repeat == REPEATS_MAX or self.pool.status != Status.running:
                    raise
            await _pause(repeat)
        raise AssertionError("unreachable")

    async def _send(self, comm: Any, op: str, kwargs: dict[str, Any]) -> Any:
        previous, comm.name = comm.name, f"ConnectionPool.{op}"
        address = self.addr  # it may be another one when the call returns
        try:
            return await send_recv(comm=comm, op=op, **kwargs)
        finally:
            self.pool.reuse(address, comm)
            comm.name = previous

    async def _comm(self, op: str, deadline: float) -> Any:
        """A comm to the leader, waiting for there to be one."""
        attempt = 0
        while True:
            try:
                return await self.pool.connect(self.addr)
            except OSError as error:
                if self.pool.status != Status.running or _misconfigured(error):
                    raise
                if time.monotonic() > deadline:
                    raise NoLeader(f"no leader was found to ask for {op!r}: {error}") from error
            attempt += 1
            await _pause(attempt)


async def _pause(attempt: int) -> None:
    ceiling = min(BACKOFF_S_MAX, BACKOFF_S_MIN * 2**attempt)
    await asyncio.sleep(random.uniform(ceiling / 2, ceiling))


def _misconfigured(error: BaseException) -> bool:
    """A certificate that does not verify will not do so in an hour either."""
    return isinstance(error.__cause__, ssl.SSLCertVerificationError)
