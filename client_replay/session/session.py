"""A client's session with a cell: the journal, the fence, and the first messages of each stream.

Guarantees, and the order that keeps them:

- ``ha-hello`` is the first message of a stream, then come the unacknowledged requests in order,
  then all that the client wants. They are sent without an ``await``, so nothing that another thread
  submits comes between.
- A request is sent at most once per stream, whether by ``submit`` or the reconnection, never
  before one with a lower number, and not before the journal's keeper has it: until then it waits,
  and all that was said after it (``_unsent``).
- A leader's word of a cancellation does not touch what was submitted after it.
- What cannot be serialised all the same is left out and fails its futures; it is not tried again.
- Streams that end as soon as they begin are begun ever more slowly.
- A leader of an older term than the highest seen is not listened to (``comm/follower.py``).

Everything but ``in_order``, ``keep`` and ``submitting`` runs on the client's event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any, cast

import distributed
from distributed.core import PooledRPCCall
from distributed.utils import nbytes
from tornado.ioloop import IOLoop

from client_replay.calls import rpc
from client_replay.calls.rpc import SchedulerRPC
from client_replay.calls.sendable import sendable
from client_replay.errors import CannotBeSent, JournalFenced
from client_replay.journal.journal import Journal
from client_replay.journal.keeper import GRAPH, JournalEntry
from client_replay.session.event_cursor import EventCursor
from client_replay.session.outages import Outages
from ha_scheduler.backoff import Backoff
from ha_scheduler.comm.directory import View
from ha_scheduler.comm.follower import Follower, Meeting
from ha_scheduler.comm.one_by_one import OneByOneComm
from ha_scheduler.comm.roles import NotALeader, check_leader, name_of
from ha_scheduler.comm.watch import silent_peers
from ha_scheduler.protocol.client import (
    FIRE_AND_FORGET,
    SEQUENCE,
    Committed,
    FireAndForget,
    Heard,
    Hello,
    Resume,
    Stale,
    Subscribed,
    Welcome,
)
from ha_scheduler.protocol.codec import from_op, tag_of, to_op

logger = logging.getLogger("distributed.client.ha")

STEADY_S = 5.0  # a stream that lives for so long is none that ends of what is said on it
RESTLESS_MAX_S = 5.0  # between two streams that end at once
UNWELCOMED_MAX = 2  # streams that end on ha-hello: then it is an unmodified scheduler
FLUSHES_MAX = 10_000  # calls of publish_dataset and unpublish_dataset under way at once
HEARD_MAX = 10_000  # cancellations of which the leader may not know yet that they were heard of
CELL_LOST = "cell-lost"  # the reason for cancelled keys
CANCEL, DESIRE, LASTING_DESIRE = "cancel-keys", "client-desires-keys", tag_of(FireAndForget)

FLUSH = "publish_flush_batched_send"  # the stream has caught up with a call (publish.py:54)

# What ``ha-resume`` says anyway, or what is said again on each stream.
SUPERSEDED = frozenset(
    {
        *("client-releases-keys", DESIRE, "report-key"),
        *("subscribe-topic", "unsubscribe-topic", FLUSH),
        *("queue-future-release", "variable-future-received-confirm"),
    }
)


#: The running task of a worker for which a client is made.
made_for: ContextVar[Any] = ContextVar("made-for", default=None)


class Session:
    def __init__(self, client: distributed.Client) -> None:
        self._client = client
        self.id = uuid.uuid4().hex
        self.made_for = made_for.get()
        self.journal = Journal()
        self.silent_s = self.closed_s = 0.0  # for how long the cell is asked to keep us
        self.adopting = False  # what this client wants is about to be learnt from the cell
        self.taken_ns = 0  # when this process took the session over from another, if it did
        self._unsent: deque[dict[str, Any]] = deque()  # behind a request that is not kept yet
        self.follower = Follower(self._leave)
        self.plain = False  # the scheduler is not one of a cell
        self.served_plainly = False  # and there was a stream to it
        self._left = asyncio.Event()  # something has left the journal
        self._stream: Any = None
        self._answered = False  # somebody ever answered ha-hello
        self._connection = 0
        self._unwelcomed = 0
        self._began = 0.0  # the present stream, as ``time.monotonic``
        self._restless = Backoff(max_s=RESTLESS_MAX_S)
        self._resumed_at = 0  # the last sequence that the last ha-resume knew
        self.in_order = threading.RLock()  # between a request's number and its way to the loop
        self._in_submission: Counter[Any] = Counter()
        self._notices: deque[int] = deque(maxlen=HEARD_MAX)
        self.topics = EventCursor()
        self.outages = Outages()
        self.view: View | None = None  # of the leader that welcomed us last
        self._left_topics: set[str] = set()
        self._publishing = 0
        self._flushes: deque[dict[str, Any]] = deque(maxlen=FLUSHES_MAX)

    @property
    def connected_before(self) -> bool:
        return self._connection > 0

    # ---- what is submitted

    @contextlib.contextmanager
    def submitting(self, keys: Iterable[Any]) -> Iterator[None]:
        """While the futures of ``keys`` exist and their graph is not yet in the journal."""
        held = list(keys)
        self._in_submission.update(held)
        try:
            yield
        finally:
            self._in_submission.subtract(held)
            for key in held:
                if not self._in_submission[key]:
                    del self._in_submission[key]

    @contextlib.contextmanager
    def publishing(self) -> Iterator[None]:
        """While a call may wait for this stream to catch up with it."""
        self._publishing += 1
        try:
            yield
        finally:
            self._publishing -= 1
            if not self._publishing:
                self._flushes.clear()

    def keep(self, message: dict[str, Any]) -> None:
        """Journal what must not be lost. Raises ``JournalFull``."""
        if self.plain or SEQUENCE in message:
            return
        if message["op"] == DESIRE and message.get("client") == FIRE_AND_FORGET:
            message["op"] = LASTING_DESIRE
            del message["client"]
        if message["op"] in (GRAPH, CANCEL, LASTING_DESIRE):
            self.journal.append(message, _size(message))
        elif message["op"] == FLUSH:
            self._flushes.append(message)
        elif message["op"] == "unsubscribe-topic":
            self._left_topics.add(message["topic"])
        elif message["op"] == "subscribe-topic":
            self._left_topics.discard(message["topic"])

    # ---- what waits for the journal's keeper

    def use(self, journal: Journal) -> None:
        """Have this journal, before anything is submitted."""
        self.journal = journal
        journal.on_kept = lambda: self._on_loop(self._send_unsent)
        journal.on_failed = lambda *failed: self._on_loop(self._not_kept, *failed)

    def _on_loop(self, do: Callable[..., Any], *args: Any) -> None:
        cast("IOLoop", self._client.loop).add_callback(do, *args)

    def must_wait(self, message: dict[str, Any]) -> bool:
        """Whether ``message`` is sent later, after what is not kept yet."""
        kept = self.journal.is_kept(message.get(SEQUENCE, 0))
        if kept and not self._unsent:
            return False
        self._unsent.append(message)
        return True

    def _send_unsent(self) -> None:
        while self._unsent and self.journal.is_kept(self._unsent[0].get(SEQUENCE, 0)):
            cast("Any", self._client)._send_now(self._unsent.popleft())
        if not self._unsent:
            self._left.set()

    def _not_kept(self, entries: list[JournalEntry], error: Exception) -> None:
        """The keeper could not have these: their futures say so, and nothing of them is sent."""
        if isinstance(error, JournalFenced):
            self._on_loop(cast("Any", self._client)._fenced, error)
            return
        for entry in entries:
            self._fail(entry.message, error)
        self._send_unsent()

    def _fail(self, message: dict[str, Any], error: Exception) -> None:
        for key in message.get("keys", ()) if message["op"] == GRAPH else ():
            state = self._client.futures.get(key)
            if state is not None:
                state.set_error(error, None)

    def holds(self, message: dict[str, Any]) -> bool:
        """Whether the next stream repeats ``message`` in any case."""
        return not self.plain and (SEQUENCE in message or message["op"] in SUPERSEDED)

    def due(self, message: dict[str, Any]) -> bool:
        """Whether ``message`` is still to be sent on this stream; it counts as sent then."""
        sequence = message.get(SEQUENCE)
        if sequence is None:
            return True
        entry = self.journal.get(sequence)
        if entry is None or entry.sent_in == self._connection:
            return False
        entry.sent_in = self._connection
        return True

    def up_to_resume(self, keys: Iterable[Any]) -> list[Any]:
        """The keys that were not submitted after the last ``ha-resume``."""
        return self.up_to(self._resumed_at, keys)

    def up_to(self, sequence: int, keys: Iterable[Any]) -> list[Any]:
        """The keys that were not submitted after this request."""
        later = self.journal.submitted_after(sequence)
        return [key for key in keys if key not in later and key not in self._in_submission]

    def heard_of(self, number: int) -> None:
        """Confirm the notice of a cancellation."""
        self._notices.append(number)
        if self._stream is not None and not self._stream.comm.closed():
            self._stream.send(to_op(Heard((number,))))

    # ---- what is said on a new stream

    def hello(self, stream: Any) -> None:
        """Begin a new stream. Called from the loop first of all; no ``await``."""
        self._stream = stream
        self._connection += 1
        rpc.own(self._client.id, self)
        self._began = time.monotonic()
        stream.comm = OneByOneComm(stream.comm, self._dropped)
        if self.plain:
            self._submit_plainly(stream)
            return
        self.outages.reached("connected")
        self.follower.connected(self._client.scheduler, stream.comm)
        if stream.comm.closed():  # another leads, and the stream was left at once
            return
        seen = self.follower.fence.term, self.journal.floor, self.follower.cell_id
        kept = self.silent_s, self.closed_s
        stream.send(to_op(Hello(self.id, *seen, *kept, self.made_for, self.taken_ns)))
        last = self.journal.last_kept  # another thread may append while we go on
        for entry in self.journal.up_to(last):
            entry.sent_in = self._connection
            stream.send(entry.message)
        if (self._connection > 1 or self._client.futures) and not self.adopting:
            self._resume(stream, last)
        stream.send(*self._flushes)  # after all that was said before them

    def adopt(self) -> None:
        """What this client wants is known now: say so."""
        self.adopting = False
        if self._stream is not None and not self._stream.comm.closed():
            self._resume(self._stream, self.journal.last_kept)

    def _resume(self, stream: Any, last: int) -> None:
        futures = list(self._client.futures.items())
        wanted = tuple(sendable(key for key, state in futures if state.status != "cancelled"))
        finished = tuple(sendable(key for key, state in futures if state.status == "finished"))
        ours = cast("SchedulerRPC", self._client.scheduler)
        scattering = tuple(sendable(ours.scattering))  # no future has them yet
        self._resumed_at = last
        stream.send(to_op(Resume(wanted, finished, tuple(self._notices), scattering)))
        stream.send(*map(self._subscription, self._subscribed()))

    def _subscribed(self) -> list[str]:
        # Upstream keeps the handler of a topic that was unsubscribed (client.py:4827).
        return [topic for topic in self._client._event_handlers if topic not in self._left_topics]

    def _subscription(self, topic: str) -> dict[str, Any]:
        """Subscribe to the topic again, and to its events since."""
        message, after = {"op": "subscribe-topic", "topic": topic}, self.topics.after(topic)
        return message if after is None else {**message, "after": after}

    def _submit_plainly(self, stream: Any) -> None:
        """The scheduler turned out to be an unmodified one: submit what has gathered."""
        self.served_plainly = True
        for entry in self.journal.pending():
            stream.send(_plainly(entry.message))
        stream.send(*self._flushes)
        self.forget()

    # ---- what the leader says

    async def welcomed(self, **fields: Any) -> None:
        self._answered = True
        stream, view = self._stream, View.from_welcome(from_op(Welcome, fields))
        try:
            check_leader(stream.comm, name_of(view))
        except NotALeader as error:
            self._leave(str(error))
            return
        meeting = await self.follower.meet(view)
        if stream is not self._stream:
            return
        if meeting is Meeting.DOUBTFUL:
            self._leave(f"no peer says that {view.leader} leads our cell, {self.follower.cell_id}")
        elif meeting is Meeting.ANOTHER:
            self._lose_cell(view)
        else:
            self._follow(view)

    def _follow(self, view: View) -> None:
        watch = not isinstance(self._client._start_arg, PooledRPCCall)  # else the worker does
        if not self.follower.welcomed(self._stream.comm, view, watch=watch):
            self._leave_stale(view.term)
            return
        self.view = view
        self.outages.over(view.leader or "another peer", view.term)

    def _lose_cell(self, view: View) -> None:
        """The cell is not there any more: what was submitted to it has an outcome, and no result.

        The client goes on with the cell that is there.
        """
        lost = (
            f"The cell {self.follower.cell_id} of this client is not there any more: {view.leader} "
            f"leads the cell {view.cell_id} on the same hosts, which was founded anew and knows "
            f"nothing of what was submitted before. Submit it again."
        )
        keys = list(self._client.futures)
        logger.warning("%s %d futures are lost.", lost, len(keys), extra={"action": "cell_lost"})
        self.forget()
        self._notices.clear()
        self._flushes.clear()
        self.topics = EventCursor()
        self._client._handle_cancelled_keys(keys, CELL_LOST, lost)
        self.follower.forget_cell()
        self._leave("it is that of another cell")

    def refused(self, **fields: Any) -> None:
        self._answered = True
        self._leave_stale(from_op(Stale, fields).term)

    def _leave_stale(self, term: int) -> None:
        reason = f"term {self.follower.fence.term} has been seen"
        self._leave(f"a scheduler of term {term} does not lead any more; {reason}")

    def acknowledged(self, **fields: Any) -> None:
        self.journal.committed(from_op(Committed, fields).sequences)
        self._left.set()

    def subscribed(self, **fields: Any) -> None:
        """A leader sends the events of a topic from now on."""
        message = from_op(Subscribed, fields)
        self.topics.subscribed(message.topic, message.after)

    def forget(self) -> None:
        """All requests are void, or need no journal."""
        self.journal.forget()
        self._left.set()

    async def settled(self, *, all_of_them: bool = False) -> None:
        """Wait until the cell has all requests that outlive this client, or simply all."""
        last = self.journal.last if all_of_them else self.journal.last_lasting
        while self.journal.floor < last or self._unsent:
            self._left.clear()
            await self._left.wait()

    # ---- what happens to the connection

    def _leave(self, reason: str) -> None:
        logger.info("Leaving the scheduler: %s", reason)
        if self._stream is not None:
            self._stream.abort()

    def _dropped(self, message: dict[str, Any], error: Exception) -> None:
        """The stream has left this out, and so would the next one."""
        if SEQUENCE in message:
            self.journal.committed([message[SEQUENCE]])
            self._left.set()
        reason = CannotBeSent(message["op"], f"{type(error).__name__}: {error}")
        self._fail(message, reason)

    def begin_outage(self) -> None:
        """The stream of the leader that welcomed us is over."""
        if self.view is not None:
            self.outages.begin(f"{self.view.leader} (term {self.view.term})", len(self.journal))

    async def look_around(self) -> None:
        """Ask the daemons of the cell whether they are there."""
        directory = self.follower.directory
        if directory is not None and directory.peers:
            silent = await silent_peers(directory.peers, self.follower.ssl_context)
            self.outages.heard_of(silent)

    def why_no_leader(self) -> str:
        """Who was tried, since when, and why each refused."""
        return self.outages.story(*self._tried())

    def remind(self) -> None:
        self.outages.remind(*self._tried())

    def _tried(self) -> tuple[dict[str, str], int]:
        directory = self.follower.directory
        return ({}, 0) if directory is None else (directory.refusals, len(directory.peers))

    async def pause_between_streams(self) -> None:
        """Before the next stream: longer each time that one has ended soon after it began."""
        if time.monotonic() - self._began > STEADY_S:
            self._restless.reset()
        else:
            await self._restless.pause(self.follower.news)

    def lost(self) -> None:
        if not self._answered and not self.follower.fence.term:
            self._unwelcomed += 1
            self.plain = self._unwelcomed >= UNWELCOMED_MAX
        self._stream = None


def _plainly(message: dict[str, Any]) -> dict[str, Any]:
    plain = {name: value for name, value in message.items() if name != SEQUENCE}
    if plain["op"] == LASTING_DESIRE:
        plain |= {"op": DESIRE, "client": FIRE_AND_FORGET}
    return plain


def _size(message: dict[str, Any]) -> int:
    """The memory of a request: the serialised frames of a graph, or else its keys."""
    if message["op"] != GRAPH:
        return sum(len(str(key)) for key in message["keys"])
    frames = getattr(message.get("expr_ser"), "frames", None) or ()
    return sum(map(nbytes, frames))
