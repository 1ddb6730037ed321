"""Calls to the scheduler that survive the loss of the leader.

Guarantee: a call in ``REPEATABLE`` is retried on the next leader until answered, at most
``REPEATS_MAX`` times after having been sent; so is one in ``NUMBERED``, and the cell does it once
(``call_ids.py``). Any other call is sent at most once: if the leader is lost meanwhile, the caller
gets ``OutcomeUnknown``. Before it is sent, only time bounds the wait for a leader. A call's own
timeout on the leader goes on under the next one.

Order: the cell has confirmed the session of numbered calls before the first of them is sent. A cell
that does not know the session has therefore forgotten it and its answers.

Repeatable is what is read-only or idempotent. Each request that a scheduler serves stands in one of
the lists; ``tests/test_answers.py`` compares them with a living scheduler.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
import weakref
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any, Protocol, Self

import dask
from dask.utils import parse_timedelta
from distributed.core import PooledRPCCall, Status, send_recv

from client_replay.calls.call_ids import CallIds, PendingCall
from client_replay.calls.methods import method_of
from client_replay.errors import AnswerLost, NoLeader, OutcomeUnknown
from ha_scheduler.backoff import Backoff
from ha_scheduler.comm import address as addresses
from ha_scheduler.comm.preamble import is_final
from ha_scheduler.protocol.client import (
    CALL,
    EXPIRED,
    HA,
    LOST,
    SESSION,
    LockForgotten,
    OpenCalls,
)
from ha_scheduler.protocol.codec import to_op

RECONNECT_TIMEOUT = "ha.client.reconnect-timeout"
RECONNECT_TIMEOUT_DEFAULT = "1h"
REPEATS_MAX = 8  # leaders lost during one call; more means that the call kills them
BACKOFF_S_MAX = 0.5

SESSIONS_MAX = 3  # forgotten by the cell during one call, before it took any of them


_sessions: weakref.WeakValueDictionary[Any, Session] = weakref.WeakValueDictionary()


class Session(Protocol):
    """Of a client of this process; ``id``: what proves that a call is the client's."""

    id: str


def own(client: str, session: Session) -> None:
    """Calls of this process for ``client`` prove to be its own."""
    _sessions[client] = session


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


READ_ONLY = _names(
    """adaptive_target workers_to_close benchmark_hardware call_stack check_idle dump_state echo
    event_is_set events gather get_cluster_state get_error_cause get_logs get_metadata
    get_runspec get_story get_task_prefix_states get_task_status get_task_stream
    get_task_stream_index has_what identity logs nbytes ncores ncores_running performance_report
    processing profile publish_get publish_list queue_qsize semaphore_value versions who_has
    worker_logs ha-scaling"""
)
IDEMPOTENT = _names(
    """amm_handler dump_cluster_state_to_url rebalance register_nanny_plugin
    register_worker_plugin replicate scatter semaphore_acquire semaphore_refresh_leases
    semaphore_release set_resources
    shuffle_barrier shuffle_get shuffle_get_or_create shuffle_restrict_task update_data
    variable_get ha-cancel-session ha-detach ha-scale ha-session-keys ha-sessions ha-unscale"""
)
#: What a leader of ours does once, however often it arrives.
NUMBERED = _names(
    """event_clear event_set event_wait log_event memory_sampler_start memory_sampler_stop
    multi_lock_acquire multi_lock_release publish_delete publish_put queue_create queue_get
    queue_put queue_release register_scheduler_plugin restart restart_workers retire_workers
    retry unregister_nanny_plugin unregister_worker_plugin
    semaphore_close semaphore_register set_metadata set_restrictions start_task_metadata
    stop_task_metadata unregister_scheduler_plugin variable_delete variable_set"""
)
#: What would be done twice, or does what the user says. ``docs/handlers.md`` says of each why.
ONCE = _names(
    """add_keys broadcast connection_stream feed heartbeat_worker proxy register-client
    register-worker register_nanny run_function subscribe_worker_status terminate unregister"""
)
#: What a ``broadcast`` or ``proxy`` may carry to workers and be repeated all the same:
#: Client.story, get_versions, attributes of actors.
READ_ONLY_ON_WORKERS = frozenset({"get_story", "versions", "actor_attribute"})
#: What waits on the leader, for as long as the caller says.
WAITING = _names(
    """event_wait multi_lock_acquire queue_get queue_put semaphore_acquire variable_get
    variable_set"""
)
#: What hands over data, and the argument that has its keys.
SCATTERING = {"scatter": "data", "update_data": "who_has"}
REPEATABLE = READ_ONLY | IDEMPOTENT


def reconnect_timeout_s() -> float:
    value = dask.config.get(RECONNECT_TIMEOUT, RECONNECT_TIMEOUT_DEFAULT)
    return float(parse_timedelta(value, default="s"))


class SchedulerRPC(PooledRPCCall):
    addr: str
    pool: Any
    _owner: str
    _numbers: CallIds | None  # None until they are needed, and when the cell forgot them
    _opening: asyncio.Lock
    _of_a_cell: bool | None  # whether the scheduler is one of ours; None until it was asked
    scattering: Counter[Any]  # keys of data that the cell was told of, and has not confirmed

    @classmethod
    def around(cls, call: Any, owner: str) -> Self:
        """``call`` itself if it is one already, else one like it for ``owner``."""
        if isinstance(call, cls):
            return call
        made = cls(call.addr, call.pool, call.serializers, call.deserializers)
        made._owner, made._numbers, made._opening = owner, None, asyncio.Lock()
        made._of_a_cell = None
        made.scattering = Counter()
        return made

    def __getattr__(self, op: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        async def call(**kwargs: Any) -> Any:
            for name in ("serializers", "deserializers"):
                default = getattr(self, name)
                if default is not None and kwargs.get(name) is None:
                    kwargs[name] = default
            session = _sessions.get(kwargs.get("client"))
            if session is not None and await self.is_of_a_cell():
                kwargs[SESSION] = session.id
            if op in NUMBERED and await self.is_of_a_cell():
                return await self._call_once(op, kwargs)
            if op == "proxy" and kwargs["msg"]["op"] == "actor_execute":
                return await self._call_actor(kwargs)
            with self._scattering(kwargs.get(SCATTERING.get(op, ""), ())):
                return await self._call(op, kwargs, repeatable=self._is_repeatable(op, kwargs))

        return call

    async def _call_actor(self, kwargs: dict[str, Any]) -> Any:
        """Call a method of an actor, never twice: the outcome may be unknown.

        Returned and not raised, because upstream takes that for the loss of the worker
        (actor.py:187).
        """
        try:
            return await self._call("proxy", kwargs, repeatable=False)
        except OutcomeUnknown:
            method = f"{kwargs['msg']['function']} of an actor"
            return {"status": "error", "exception": OutcomeUnknown("proxy", method)}

    @contextlib.contextmanager
    def _scattering(self, keys: Iterable[Any]) -> Iterator[None]:
        held = list(keys)
        self.scattering.update(held)
        try:
            yield
        finally:
            self.scattering.subtract(held)
            self.scattering += Counter()  # drops what is zero

    def _is_repeatable(self, op: str, kwargs: dict[str, Any]) -> bool:
        if op in ("broadcast", "proxy"):
            return kwargs.get("msg", {}).get("op") in READ_ONLY_ON_WORKERS
        if op == "terminate":  # a cell closes its workers, and is there to answer
            return addresses.is_ha(self.addr)
        return op in REPEATABLE

    async def is_of_a_cell(self) -> bool:
        """Whether the scheduler knows numbers. Waits for one that answers."""
        if self._of_a_cell is None:
            identity = await self._call("identity", {"n_workers": 0}, repeatable=True)
            self._of_a_cell = HA in identity
        return self._of_a_cell

    async def _call_once(self, op: str, kwargs: dict[str, Any]) -> Any:
        """Retry a call under one number.

        Raises ``OutcomeUnknown`` if the session has ended, ``AnswerLost`` if the answer is gone.
        """
        for _ in range(SESSIONS_MAX):
            numbers = await self._opened()
            with numbers.take() as number:
                answer = await self._call(op, kwargs, repeatable=True, number=number)
            if answer == LOST:
                raise AnswerLost(op, method_of(op, kwargs))
            if answer != EXPIRED:
                return answer
            # The cell took this process for gone, and has forgotten what it answered.
            if self._numbers is numbers:
                self._numbers = None
            if number.sent > 1:
                break
        raise OutcomeUnknown(op, method_of(op, kwargs))

    async def has_forgotten_lock(self, name: str) -> bool:
        """Whether the cell does not know the lock and nobody has closed it."""
        if not await self.is_of_a_cell():
            return False
        return bool(await self._ask(LockForgotten(name)))

    async def _opened(self) -> CallIds:
        """The numbers of a session that the cell knows."""
        async with self._opening:
            if self._numbers is None:
                numbers = CallIds(uuid.uuid4().hex)
                await self._ask(OpenCalls(numbers.session, self._owner))
                self._numbers = numbers
            return self._numbers

    async def _ask(self, message: OpenCalls | LockForgotten) -> Any:
        arguments = to_op(message)
        return await self._call(arguments.pop("op"), arguments, repeatable=True)

    async def _call(
        self, op: str, kwargs: dict[str, Any], repeatable: bool, number: PendingCall | None = None
    ) -> Any:
        started = time.monotonic()
        deadline = started + reconnect_timeout_s()
        backoff = Backoff(max_s=BACKOFF_S_MAX)
        for repeat in range(REPEATS_MAX + 1):
            comm = await self._comm(op, deadline)
            arguments = _left(op, kwargs, started)
            if number is not None:
                arguments = {**arguments, CALL: number.to_send()}
            try:
                return await self._send(comm, op, arguments)
            except OSError as error:
                if not comm.closed():
                    raise  # the scheduler's own answer
                if not repeatable:
                    raise OutcomeUnknown(op, method_of(op, kwargs)) from error
                if repeat == REPEATS_MAX or self.pool.status != Status.running:
                    raise
            await backoff.pause()
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
        """A comm to the leader; waits for one."""
        backoff = Backoff(max_s=BACKOFF_S_MAX)
        while True:
            try:
                return await self.pool.connect(self.addr)
            except OSError as error:
                if self.pool.status != Status.running or is_final(error):
                    raise
                if time.monotonic() > deadline:
                    raise NoLeader(f"no leader was found to ask for {op!r}: {error}") from error
            await backoff.pause()


def _left(op: str, kwargs: dict[str, Any], started: float) -> dict[str, Any]:
    """The arguments with what is left of the call's own timeout."""
    timeout = kwargs.get("timeout")
    if op not in WAITING or timeout is None:
        return kwargs
    left = float(parse_timedelta(timeout)) - (time.monotonic() - started)
    return {**kwargs, "timeout": max(0.0, left)}
