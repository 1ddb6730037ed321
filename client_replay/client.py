"""The Client whose futures outlive the scheduler: ``distributed.Client`` with another connection.

Guarantee: once ``submit`` returns, the work is in the journal or committed by the cell, and the
loss of a leader cancels nothing. What cannot be sent is refused by ``submit`` (``sendable.py``). A
future changes its state only by word of a leader of the newest term.

A forked child of the program gets ``ForkedChild`` for whatever it asks of its parent's client.

``upgrade`` makes a connected client one of these. The class keeps the name "Client": distributed
derives the client's id from it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import os
import threading
import time
from collections.abc import Iterable
from html import escape
from typing import Any, cast

import dask
import distributed
from distributed.client import SchedulerInfo
from tornado.ioloop import IOLoop

from client_replay.calls.rpc import REPEATS_MAX, SchedulerRPC
from client_replay.calls.sendable import prepare, sendable
from client_replay.errors import CannotBeSent, OutcomeUnknown
from client_replay.journal.disk import DiskKeeper
from client_replay.journal.journal import NoRoom
from client_replay.lifecycle.closing import Closing
from client_replay.lifecycle.connecting import Connecting
from client_replay.lifecycle.journaling import Journaling, patience_s
from client_replay.session.outages import Outage
from client_replay.session.session import Session
from client_replay.upstream import close_without_leader, locks, progress
from ha_scheduler import forks
from ha_scheduler.comm import address as addresses
from ha_scheduler.comm.dashboard_link import dashboard_link
from ha_scheduler.comm.preamble import CHECK_SERVER, INTRODUCTION
from ha_scheduler.comm.roles import check_member
from ha_scheduler.comm.security import renew
from ha_scheduler.protocol.client import (
    HA,
    SESSION_ENDED,
    UNKNOWN_KEYS,
    Committed,
    Stale,
    Subscribed,
    Welcome,
)
from ha_scheduler.protocol.codec import tag_of
from ha_scheduler.protocol.introduction import Kind, introduce
from ha_scheduler.protocol.keys import key_fault

logger = logging.getLogger("distributed.client.ha")

# Modules whose frames are not taken for the user's code (client.py:3270)
NOT_THE_USERS = "distributed.diagnostics.computations.ignore-modules"

# The function that a performance report runs on the scheduler as it begins (client.py:6070)
REPORT_BEGINS = "performance_report.__aenter__.<locals>.<lambda>"

# Messages of the stream that are sent as numbered calls.
CALLED = frozenset({"queue_release", "variable_delete"})


class Client(Journaling, Connecting, Closing):
    """A ``distributed.Client`` of a cell, with the same arguments, and ``ha://a,b,c``."""

    # Narrower than upstream's, whose __init__ sets them one by one.
    scheduler: SchedulerRPC
    scheduler_comm: Any

    def __init__(
        self,
        *args: Any,
        journal: str | os.PathLike[str] | DiskKeeper | None = None,
        durable: bool | None = None,
        attached: tuple[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        """As upstream's, and:

        ``journal``: a file for what was submitted, which outlives this process
        (``client_replay.resume``); a directory: a file in it. Default: the directory of
        ``ha.client.journal``, or memory. ``durable``: ``submit`` returns when it is on
        the disk. ``attached``: see ``attach``. Raises ``JournalUnusable``.
        """
        self._make_own()  # upstream's __init__ connects
        self._journal_place, self._durable_asked, self._attached = journal, durable, attached
        super().__init__(*args, **kwargs)

    def _make_own(self) -> None:
        """What we have beside upstream's attributes."""
        self._owner = forks.Owner()
        self._ha = Session(self)
        self._calling = set()
        self._retrying = []
        self._entered: list[Any] = []
        self._journal_place = self._durable_asked = self._attached = None
        _hide_from_computations()
        forks.watch(self)

    def _setup_replay(self) -> None:
        """Rebind what upstream's ``__init__`` bound to its own methods; idempotent."""
        close_without_leader.install()
        locks.install()
        progress.install()
        if self._ha.made_for is not None:  # a task: this process shows what its worker shows
            self.connection_args.setdefault(INTRODUCTION, introduce(Kind.WORKER))
        self.connection_args[CHECK_SERVER] = self._check_server
        renew(self.connection_args, self.security, "client")
        if not addresses.may_be_of_a_cell(self.scheduler.address):
            self._ha.plain = True  # behind a proxy of others: nothing of ours is said there
        self.scheduler = SchedulerRPC.around(self.scheduler, self._ha.id)
        self._stream_handlers.update(
            {
                tag_of(Welcome): self._ha.welcomed,
                tag_of(Stale): self._ha.refused,
                tag_of(Committed): self._ha.acknowledged,
                tag_of(Subscribed): self._ha.subscribed,
                "cancelled-keys": self._handle_cancelled_keys,
                "task-retried": self._handle_retried_key,
                "restart": self._handle_restart,
                "event": self._handle_event,
            }
        )

    def _check_server(self, comm: Any) -> None:
        """Of the scheduler, and of a worker that is asked for its results."""
        if addresses.is_ha(self.scheduler.address):
            check_member(comm)

    # ---- a fork of the program

    @property
    def loop(self) -> IOLoop:
        """As upstream's. Raises ``ForkedChild``: the thread of the loop is not in a fork."""
        self._owner.require(f"the client {self.id}")
        return cast("IOLoop", super().loop)

    def let_go(self) -> None:
        """This is a fork of the program."""
        forks.let_go_of_loop(self._loop_runner._loop)
        self._ha.journal.abandon()
        self._refcount_lock = threading.RLock()  # a thread that is not here may have it

    def _handle_cancelled_keys(
        self,
        keys: Iterable[Any],
        reason: str | None = None,
        msg: str | None = None,
        ha_after: int | None = None,
        ha_number: int = 0,
    ) -> None:
        """``ha_after``: later requests than this one are not meant."""
        # A leader that was told what this client wants before it got a graph answers that it does
        # not know the graph's keys. It is about to.
        if reason in (UNKNOWN_KEYS, SESSION_ENDED):
            # One that failed has its outcome: a graph that cannot be read leaves no task behind.
            keys = [key for key in self._ha.up_to_resume(keys) if not self._failed(key)]
        elif ha_after is not None:
            keys = self._ha.up_to(ha_after, keys)
        keys = list(keys)
        super()._handle_cancelled_keys(keys, reason, msg)
        # As when it cancels them itself (client.py:2796): a leader that has not been told yet that
        # they are not wanted any more may say that they are there.
        for key in keys:
            self.futures.pop(key, None)
        self._ha.journal.done_with(keys)
        if ha_number:
            self._ha.heard_of(ha_number)

    def _failed(self, key: Any) -> bool:
        state = self.futures.get(key)
        return state is not None and state.status == "error"

    async def _retry(self, futures: Any) -> None:
        """client.py:2829. A leader answers when the retry has committed, perhaps after it has sent
        the result on the stream: such a key is left as it is.

        The next leader may have sent an outcome and no retry, as the call came to it before the
        stream. Which came first is unknown here, so we ask.
        """
        keys = list({future.key for future in distributed.futures_of(futures)})
        told: set[Any] = set()
        self._retrying.append(told)
        try:
            retried = await self.scheduler.retry(keys=keys, client=self.id)
        finally:
            self._retrying = [other for other in self._retrying if other is not told]
        for key in retried:
            if self._failed(key) and key not in told:
                self.futures[key].retry()
                self._send_to_scheduler({"op": "report-key", "key": key})

    def _handle_retried_key(self, key: Any = None) -> None:
        for told in self._retrying:
            told.add(key)
        super()._handle_retried_key(key)

    async def _handle_event(self, topic: str, event: tuple[float, Any]) -> None:
        if self._ha.topics.is_new(topic, event[0]):
            await super()._handle_event(topic, event)

    async def _restart(self, *args: Any, **kwargs: Any) -> None:
        """client.py:3872. A leader that finishes an earlier one's restart does not announce it on
        the stream, and what this client repeated on that stream is void.
        """
        generation = self.generation
        await super()._restart(*args, **kwargs)
        if self.generation == generation:
            keys = list(self.futures)
            self._handle_restart()
            message = {"op": "client-releases-keys", "keys": keys, "client": self.id}
            self._send_to_scheduler(message)

    def _handle_restart(self) -> None:
        self._ha.forget()
        super()._handle_restart()

    # ---- sending

    def _graph_to_futures(self, expr: Any, keys: Any, *args: Any, **kwargs: Any) -> Any:
        self._owner.require(f"the client {self.id}")
        with self._ha.submitting(keys):
            futures = self._submit_when_there_is_room(expr, keys, *args, **kwargs)
        if self._durable:
            self._ha.journal.wait_until_kept()
        return futures

    def _submit_when_there_is_room(self, *args: Any, **kwargs: Any) -> Any:
        """Upstream holds a lock meanwhile that the loop needs, so we wait outside of that."""
        deadline = time.monotonic() + patience_s()
        while True:
            try:
                return super()._graph_to_futures(*args, **kwargs)
            except NoRoom as full:
                left = deadline - time.monotonic()
                if self.asynchronous or not self._ha.journal.wait_for_room(full.nbytes, left):
                    raise

    def _send_to_scheduler(self, msg: dict[str, Any]) -> None:
        if msg["op"] in CALLED and self.scheduler is not None and not self._ha.plain:
            self.loop.add_callback(self._call_instead, msg)
            return
        if msg["op"] == "client-releases-keys":
            msg["keys"] = sendable(msg["keys"])  # nobody has the others
            if self.status != "closing":
                self._ha.journal.done_with(msg["keys"])
        elif msg["op"] == "client-desires-keys" and msg.get("client") == self.id:
            self._ha.journal.hold(msg["keys"])
        msg = prepare(msg)
        with self._ha.in_order:
            # In the thread of the caller, so that it hears of a full journal.
            if self.status in ("running", "connecting", "newly-created"):
                self._ha.keep(msg)
            super()._send_to_scheduler(msg)

    def _send_to_scheduler_safe(self, msg: dict[str, Any]) -> None:
        if not self._ha.must_wait(msg):
            self._send_now(msg)

    def _send_now(self, msg: dict[str, Any]) -> None:
        stream = self.scheduler_comm
        usable = stream is not None and not stream.comm.closed()
        if self.status in ("running", "closing") and usable:
            if self._ha.due(msg):
                stream.send(msg)
        elif self.status != "closing" and not self._ha.holds(msg):
            self._pending_msg_buffer.append(msg)

    def _call_instead(self, msg: dict[str, Any]) -> None:
        """For what must happen once, and the stream could lose or repeat."""
        call = asyncio.ensure_future(self._call_or_send(msg))
        self._calling.add(call)
        call.add_done_callback(self._calling.discard)

    async def _call_or_send(self, msg: dict[str, Any]) -> None:
        try:
            if await self.scheduler.is_of_a_cell():
                await getattr(self.scheduler, msg["op"])(name=msg["name"])
            else:
                self._send_to_scheduler_safe(msg)
        except OSError:
            logger.warning(
                "%r was perhaps not done: no leader answered",
                msg["op"],
                exc_info=True,
                extra={"action": "call_unanswered"},
            )

    async def _run_on_scheduler(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        """Once, for nobody knows what it does; a performance report's only reads."""
        looks = getattr(function, "__qualname__", "") == REPORT_BEGINS
        if not looks and not self._ha.plain:
            _say_what_ends_with_the_leader()
        for _ in range(REPEATS_MAX if looks else 0):
            with contextlib.suppress(OutcomeUnknown):
                return await super()._run_on_scheduler(function, *args, **kwargs)
        return await super()._run_on_scheduler(function, *args, **kwargs)

    async def _scatter(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        for key in data if isinstance(data, dict) else ():
            if fault := key_fault(key):
                raise CannotBeSent("scatter", f"the key {fault}")
        scattered = await super()._scatter(data, *args, **kwargs)
        self._ha.journal.hold(future.key for future in distributed.futures_of(scattered))
        return scattered

    async def _gather(self, futures: Any, *args: Any, **kwargs: Any) -> Any:
        gathered = await super()._gather(futures, *args, **kwargs)
        if self._ha.journal.lasts:
            self._ha.journal.done_with(
                future.key for future in distributed.futures_of(futures) if future.done()
            )
        return gathered

    async def _publish_dataset(self, *args: Any, **kwargs: Any) -> None:
        with self._ha.publishing():
            await super()._publish_dataset(*args, **kwargs)

    async def _unpublish_dataset(self, *args: Any, **kwargs: Any) -> None:
        with self._ha.publishing():
            await super()._unpublish_dataset(*args, **kwargs)

    # ---- what it says of itself

    @property
    def outages(self) -> list[Outage]:
        """The times without a leader that this client has seen, with their phases; oldest first."""
        return self._ha.outages.all()

    def __repr__(self) -> str:
        view = self._ha.view
        if view is None:
            return str(super().__repr__())
        said = f"cell={view.cell!r} leader={view.leader!r} term={view.term}"
        if self._ha.outages.present is not None:
            said = f"cell={view.cell!r} without a leader since {self._ha.outages.since()}"
        name, _, rest = super().__repr__().partition(": ")
        return f"{name}: {said} {rest}"

    def _repr_html_(self) -> str:
        view, upstreams = self._ha.view, super()._repr_html_()
        if view is None:
            return str(upstreams)
        leads = f"leader <b>{escape(view.leader or '')}</b>, term {view.term}"
        if self._ha.outages.present is not None:
            leads = f"without a leader since {self._ha.outages.since()}"
        return f"{upstreams}<p>Cell <b>{escape(view.cell)}</b>: {leads}</p>"

    # ---- the rest

    @property
    def dashboard_link(self) -> Any:
        """client.py:1289, for a cell: the leader's dashboard."""
        if self.scheduler is None:
            return super().dashboard_link
        if self.cluster is not None and getattr(self.cluster, "dashboard_link", None):
            return self.cluster.dashboard_link
        _, info = self._get_scheduler_info(n_workers=0)
        if HA not in info:
            return super().dashboard_link
        port = SchedulerInfo(info).get("services", {}).get("dashboard")
        if port is None or not info.get("address"):
            return None
        return dashboard_link(info["address"], port)

    def write_scheduler_file(self, scheduler_file: str) -> None:
        """client.py:4653, with the address of the cell rather than of its present leader.

        Without the workers: their metrics have tuples as keys, which JSON does not take.
        """
        if self.scheduler_file:
            raise ValueError("Scheduler file already set")
        self.scheduler_file = scheduler_file
        _, info = self._get_scheduler_info(n_workers=0)
        with open(scheduler_file, "w") as file:
            json.dump({**info, "workers": {}, "address": self.scheduler.address}, file, indent=2)


def _hide_from_computations() -> None:
    """Have the dashboard show the user's code for a computation, and not ours."""
    ours = __name__.partition(".")[0]
    hidden = dask.config.get(NOT_THE_USERS)
    if ours not in hidden:
        dask.config.set({NOT_THE_USERS: [*hidden, ours]})


@functools.cache
def _say_what_ends_with_the_leader() -> None:
    """Once in a process."""
    logger.warning(
        "What a function leaves in the scheduler (run_on_scheduler) ends with its leader. What is "
        "to be there under each leader is a SchedulerPlugin's to add (Client.register_plugin).",
        extra={"action": "ends_with_the_leader"},
    )


def upgrade(client: Any) -> None:
    """Make ``client``, which has connected and submitted nothing yet, replay its work."""
    if isinstance(client, Client):
        return
    kind = type(client)
    client.__class__ = (
        Client if kind is distributed.Client else type(kind.__name__, (Client, kind), {})
    )
    client._make_own()
    client._setup_replay()
    client._open_journal()
    if client.scheduler_comm is not None:
        client._ha.hello(client.scheduler_comm)
