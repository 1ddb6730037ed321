"""Registration of clients, and their return.

Guarantee: a client that lost its connection keeps its desires for its time to live
(``absence.py``), and the end of a connection never removes a newer registration (hazard 10). A
returning client resubmits what was never acknowledged, then states all that it wants
(``ha-resume``), and is told the state of each key. One that was given up meanwhile is told that.

Who registers under the name of a client with a session is that client if its first message names
the session, which no other knows, and if it shows a token or certificate of the same subject.
Nobody else ends its stream, speaks in its stead or takes its session, under this leader and the
next. A client without a session, which has nothing of this package, is known by its subject alone.

Wire: ``protocol/client.py``.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from time import time
from typing import Any, cast

from distributed.batched import BatchedSend
from distributed.comm import Comm, CommClosedError
from distributed.scheduler import ClientState
from distributed.versions import error_message, get_versions

from ha_scheduler.comm.one_by_one import OneByOneComm
from ha_scheduler.comm.permitted import denials
from ha_scheduler.comm.preamble import peer_introduction
from ha_scheduler.comm.roles import identity_of
from ha_scheduler.engine.clients.absence import (
    ABSENCE,
    SESSION_TTL_SECONDS,
    Absence,
    is_silence,
)
from ha_scheduler.engine.clients.cancellation import Cancellation
from ha_scheduler.engine.clients.succession import TAKEN, Succession
from ha_scheduler.engine.exposures import digest, short_name
from ha_scheduler.engine.fencing import FencedComm
from ha_scheduler.engine.holders import ANYBODY, NARROWEST, Holder, encode_scopes, holder_of
from ha_scheduler.engine.refusals import CheckedComm, TurnedAway, refuse, require_sender
from ha_scheduler.engine.stream.keys import Key
from ha_scheduler.engine.stream.tables import Table
from ha_scheduler.errors import SessionTaken, SetAside
from ha_scheduler.ledger.records import ClientJoined, SessionAdvanced
from ha_scheduler.protocol.client import (
    FIRE_AND_FORGET,
    NOT_HA,
    PSEUDO_CLIENTS,
    SESSION_ENDED,
    UNKNOWN_KEYS,
    Hello,
    RegisterClient,
    Resume,
    Stale,
)
from ha_scheduler.protocol.codec import MalformedMessage, from_op, shown, tag_of, to_op
from ha_scheduler.protocol.engine import Exposure
from ha_scheduler.security.identity import ANYBODY_LOCAL, Identity
from ha_scheduler.security.permissions import describe, is_worker_alone

logger = logging.getLogger(__name__)

PROOF_SECONDS = 10.0  # for the first message of a client that has a session
#: Of the requests of one session: those that were refused leave no record, and count for its floor.
UNRECORDED_MAX = 1_000_000
UNKNOWN = (
    UNKNOWN_KEYS,
    "The cell does not know this key: it was released, or its data was scattered and its only "
    "holder is gone. Submit the work again.",
)
REPORT_KEYS_PER_STEP = 2_000  # keys told to a returning client before others get a turn


class Clients(Cancellation):
    def __init__(self, *, session_ttl: float = SESSION_TTL_SECONDS, **kwargs: Any) -> None:
        """``session_ttl``: in seconds, of a client that fell silent."""
        super().__init__(**kwargs)
        absences = self.tables.add(Table[str, tuple[float, float, bool]](ABSENCE))
        self._absence = Absence(absences, self.transactions, session_ttl)
        self._succession = Succession(self.tables.add(Table[str, int](TAKEN)), self.transactions)
        self._given_up: set[str] = set()  # that have come back, and not said yet what they want
        self._awaited_clients: set[str] = set()  # of the ledger, that have not said what they want
        self._leaving: dict[str, asyncio.TimerHandle] = {}  # that may come back, until when
        self._served: dict[str, asyncio.Event] = {}  # set when a client's latest stream is over

    async def add_client(self, comm: Any, client: str, versions: dict[str, Any]) -> None:
        """Register a client, new or known to the ledger, and serve its stream."""
        try:
            from_op(RegisterClient, {"client": client})
            self.exposures.check(_exposure(client))
            if client.startswith(PSEUDO_CLIENTS):
                raise MalformedMessage(f"register-client: {shown(client)} is a name of Dask's own")
            await self.recovery.opened()
            identity = identity_of(comm)
            self._check_subject(identity, client)
            comm.name = "Scheduler->Client"
            await self._welcome(comm, versions)
            said = await self._proof(comm, client, identity)
            holder = self._holder(identity, client, said)
        except (MalformedMessage, PermissionError, SessionTaken, SetAside, ValueError) as error:
            return await refuse(comm, error)
        served, ended = asyncio.Event(), None
        before, self._served[client] = self._served.get(client), served
        try:
            await self._end_former_stream(client, before)
            if self._served.get(client) is not served:  # its end may never be heard of here
                raise CommClosedError(f"{client} has registered anew meanwhile")
            self._hold(client, holder)
            ended = await self._serve_client(comm, client, versions, said)
        finally:
            served.set()
            if self._served.get(client) is served:
                del self._served[client]
                self._client_lost(client, silent=is_silence(ended))

    async def _welcome(self, comm: Any, versions: dict[str, Any]) -> None:
        # Alone in its message: a client takes the first message for the answer to its registration
        # (client.py:1589), and one that the ledger knows may be sent more at once.
        warning = self._warning(versions, plain=peer_introduction(comm) is None)
        await FencedComm(comm, self.lease).write([{"op": "stream-start", **warning}])

    async def _proof(self, comm: Any, client: str, identity: Identity) -> Any:
        """The first messages of one whose name has a session, or that a task has made.

        Raises ``MalformedMessage`` and ``SessionTaken``.
        """
        if client not in self.session_of and not is_worker_alone(identity):
            return ()
        try:
            async with asyncio.timeout(PROOF_SECONDS):
                messages = await comm.read()
        except TimeoutError:
            messages = None
        first = _first(messages)
        if not isinstance(first, dict) or first.get("op") != tag_of(Hello):
            said = first.get("op") if isinstance(first, dict) else first
            raise MalformedMessage(
                f"register-client: {client} begins with {tag_of(Hello)}, not {shown(said)}"
            )
        hello = from_op(Hello, first)
        self._check_session(client, hello)
        self._succession.check(client, hello.taken)
        return messages

    def _check_session(self, client: str, message: Hello) -> None:
        own = self.session_of.get(client)
        if own not in (None, message.session):
            raise MalformedMessage(f"ha-hello: {client} has another session")
        last = self.sessions.last(message.session)
        if own is not None and message.floor > last + UNRECORDED_MAX:
            raise MalformedMessage(f"ha-hello: floor {message.floor}, and {last} has been asked")
        if any(s == message.session and c != client for c, s in self.session_of.items()):
            raise MalformedMessage(f"ha-hello: the session is not that of {client}")

    def speaks_for(self, identity: Identity, client: str) -> bool:
        """Whether the client is of this subject, or of none.

        A worker's is that of a task's submitter, whose session it knows.
        """
        if identity is ANYBODY_LOCAL or (client in self.session_of and is_worker_alone(identity)):
            return True
        return self.subject_of(client) in ("", identity.subject)

    def _holder(self, identity: Identity, client: str, said: Any) -> Holder:
        """Whose the client is that registers. Raises ``PermissionError``, ``MalformedMessage``."""
        if not is_worker_alone(identity):
            return holder_of(identity)
        if client in self.session_of:  # which it has proved to know
            return self.holders.get(client, ANYBODY)
        return self.submitter(identity, from_op(Hello, _first(said)).task)

    def submitter(self, identity: Identity, task: Key | None) -> Holder:
        """Who has submitted a task that runs on a worker of ``identity``.

        With the scopes of a client of that subject; if none is here, without what needs a scope.
        Raises ``PermissionError``.
        """
        ts = self.tasks.get(task) if task is not None else None
        ws = ts.processing_on if ts is not None else None
        if (
            ts is None
            or ws is None
            or self.worker_callers.get(ws.address, identity).subject != identity.subject
        ):
            reason = (
                f"register-client is for the role client, and this is {describe(identity)}, which "
                f"acts for the submitter of a task that it runs (get_client, worker_client); "
                f"{shown(task)} is none"
            )
            denials.note(identity, "register-client", reason)
            raise PermissionError(reason)
        return self.holder_named(self.graphs.subjects.get(self.graphs.maker_of(ts.key), ""))

    def holder_named(self, subject: str) -> Holder:
        if not subject:
            return ANYBODY
        known = (held for held in self.holders.values() if held.subject == subject)
        return next(known, Holder(subject, NARROWEST))

    def _check_subject(self, identity: Identity, client: str) -> None:
        """Raises ``PermissionError`` if the client is another's, who may be away for a moment."""
        if not self.speaks_for(identity, client):
            reason = f"register-client: {client} is not of {describe(identity)}"
            denials.note(identity, "register-client", reason)
            raise PermissionError(reason)

    def _hold(self, client: str, holder: Holder) -> None:
        """Remember whose it is, by the newest token that it has shown."""
        if holder.subject and self.holders.get(client) != holder:
            self.holders[client] = holder
            if client in self.clients:
                self._record_session(self._joined(client, self.session_of.get(client, "")))

    def _joined(self, client: str, session: str) -> ClientJoined:
        holder = self.holders.get(client, ANYBODY)
        return ClientJoined(client, session, holder.subject, encode_scopes(holder.scopes))

    def is_foreign_work(self, subject: str, key: Key) -> bool:
        """Whether other subjects want the key, and this one does not."""
        ts = self.tasks.get(key)
        wanting = {self.subject_of(cs.client_key) for cs in (ts and ts.who_wants) or ()}
        return bool(wanting) and not wanting & {"", subject}

    def _check_message(self, client: str, message: dict[str, Any]) -> None:
        """Raises ``MalformedMessage`` for one that is not of this client, and ``TurnedAway`` for
        one of another cell: what it wants was asked of that."""
        op = message["op"]
        if op == tag_of(Hello):
            if self._is_foreign(message["message"].cell_id):
                raise TurnedAway(f"{client} is of another cell", self.welcome())
            self._check_session(client, message["message"])
        elif op != "client-desires-keys" or message.get("client") != FIRE_AND_FORGET:
            require_sender(message, "client", client)

    async def _end_former_stream(self, client: str, served: asyncio.Event | None) -> None:
        """Two streams of one client are never served side by side."""
        former = self.client_comms.pop(client, None)
        if former is not None:
            former.abort()
        if served is not None:
            await served.wait()

    async def _serve_client(
        self, comm: Any, client: str, versions: dict[str, Any], said: Any
    ) -> Exception | None:
        """Returns why its stream has ended; None if not by the connection."""
        stream = self._open_stream(FencedComm(comm, self.lease), client, versions)
        try:
            check = functools.partial(self._check_message, client)
            refused = functools.partial(self.refuse_request, client)
            checked = CheckedComm(comm, stream, self.stream_handlers, check, refused, said)
            await self.handle_stream(comm=cast("Comm", checked), extra={"client": client})
        finally:
            if self.client_comms.get(client) is stream:
                del self.client_comms[client]
            stream.abort()
        return checked.ended

    def _warning(self, versions: dict[str, Any], *, plain: bool) -> dict[str, Any]:
        """What upstream tells a client whose packages differ (scheduler.py:5929), and what we tell
        one whose process does not have this package (or none that speaks of it).
        """
        workers = {address: ws.versions for address, ws in self.workers.items()}
        said: dict[str, Any] = error_message(get_versions(), workers, versions)
        if plain:
            said["warning"] = "\n".join(filter(None, [NOT_HA, said.get("warning")]))
        return said

    def _open_stream(self, comm: FencedComm, client: str, versions: dict[str, Any]) -> BatchedSend:
        leaving = self._leaving.pop(client, None)
        if leaving is not None:
            leaving.cancel()
        self._restore_or_add(client, versions)
        stream = BatchedSend(interval="2ms", loop=self.loop)
        stream.start(OneByOneComm(comm, lambda message, error: None))
        self.client_comms[client] = stream
        return stream

    def _restore_or_add(self, client: str, versions: dict[str, Any]) -> None:
        known = self.clients.get(client)
        if known is not None:
            known.versions = versions
            known.last_seen = time()
            return
        logger.info("Client %s joined.", client, extra={"action": "client_joined"})
        self.log_event(["all", client], {"action": "add-client", "client": client})
        self.clients[client] = ClientState(client, versions=versions)
        self._client_connections_added_total += 1
        self.record(self._joined(client, ""))
        for plugin in list(self.plugins.values()):
            try:
                plugin.add_client(scheduler=self, client=client)
            except Exception:  # the code of users
                logger.warning(
                    "A scheduler plugin failed on a new client.",
                    exc_info=True,
                    extra={"action": "plugin_failed"},
                )

    def _client_lost(self, client: str, *, silent: bool) -> None:
        """The stream ended: a client with a session may return, any other is gone."""
        if client not in self.clients:
            return  # it said goodbye
        if client in self.session_of:
            if not silent:
                self._absence.closed(client)
            self.await_client(client, silent=silent)
        else:
            self.remove_client(client=client, stimulus_id=f"remove-client-{time()}")

    def await_clients(self) -> None:
        """This engine leads: the ledger's clients with a session are expected back."""
        for client in list(self.clients):
            if client in self.session_of:
                self._awaited_clients.add(client)
                self.await_client(client, silent=not self._absence.was_closed(client))
            elif client.startswith("Client-"):  # upstream's pseudo-clients are named otherwise
                # It will not come back to its futures (client.py:1100).
                self.remove_client(client=client)

    def _returned(self, client: str) -> None:
        """A client of the ledger has stated what it wants."""
        if client in self._awaited_clients:
            self._awaited_clients.discard(client)
            if not self._awaited_clients:
                self.mark("clients_back", {"clients": len(self.session_of)})

    def await_client(self, client: str, *, silent: bool = True) -> None:
        """Keep an absent client's desires for its time to live.

        ``silent``: nothing is heard of it, while its process and machine may be there.
        """
        seconds = self._absence.seconds(client, silent=silent)

        def give_up() -> None:
            self._leaving.pop(client, None)
            if client in self.clients and client not in self.client_comms:
                logger.warning(
                    "Client %s, %s, stayed away for %.0f s; its futures are released.",
                    client,
                    "which fell silent" if silent else "whose connection was closed",
                    seconds,
                    extra={"action": "client_gave_up"},
                )
                self.remove_client(client=client, stimulus_id=f"client-ttl-{time()}")

        self._kept_for.setdefault(client, set())
        former = self._leaving.pop(client, None)
        if former is not None:
            former.cancel()
        loop = asyncio.get_running_loop()
        self._leaving[client] = loop.call_later(seconds, give_up)

    def remove_client(self, client: str, stimulus_id: str | None = None) -> None:
        super().remove_client(client=client, stimulus_id=stimulus_id)
        self._absence.forget(client)
        self._succession.forget(client)

    def ha_hello(self, client: str, message: Hello) -> None:
        """First message of a client with a journal."""
        with self.exposures.open(_exposure(client)):
            self._hello(client, message)

    def _hello(self, client: str, message: Hello) -> None:
        stream = self.client_comms[client]
        if self._is_behind(message.term, message.cell_id):
            stream.send(to_op(Stale(self.term)))
            return
        self._succession.took(client, message.taken)
        self._absence.asked(client, silent_s=message.silent_s, closed_s=message.closed_s)
        if self.session_of.get(client) != message.session:
            if message.term or message.floor:
                self._given_up.add(client)
            if message.term:  # it was another leader's, and is about to state what it wants
                self._kept_for.setdefault(client, set())
            self.session_of[client] = message.session
            self._record_session(self._joined(client, message.session))
        if message.floor:
            self._record_session(SessionAdvanced(message.session, message.floor))
        stream.send(to_op(self.welcome()))

    def _record_session(self, record: ClientJoined | SessionAdvanced) -> None:
        self.sessions.apply(record)
        self.record(record)

    async def ha_resume(self, client: str, message: Resume) -> None:
        """A returning client states all that it wants, after what it resubmitted.

        It is told of cancellations that it missed, of the keys that the cell does not know, and of
        the state of every other key that has one, unless it is what the client believes.
        """
        await self.exposures.step_by_step(self._hear_wants(client, message), _exposure(client))

    async def _hear_wants(self, client: str, message: Resume) -> None:
        self.drop_notices(client, message.heard)
        cancelled = self.tell_cancelled(client, set(message.keys))
        keys = [key for key in message.keys if key not in cancelled]
        wanted, believed = {*keys, *message.scattering}, set(message.finished)
        known = [key for key in keys if key in self.tasks]
        self._set_desires(client, wanted, known)
        given_up = client in self._given_up
        self._given_up.discard(client)
        self._tell_unknown(client, [key for key in keys if key not in self.tasks], given_up)
        for start in range(0, len(known), REPORT_KEYS_PER_STEP):
            for key in known[start : start + REPORT_KEYS_PER_STEP]:
                self._tell_state(client, key, key in believed)
            await asyncio.sleep(0)
        self._returned(client)

    def _set_desires(self, client: str, wanted: set[Key], known: list[Key]) -> None:
        # A scatter goes another way than the stream: it may be done before the statement comes that
        # was made without it.
        wanted |= self._kept_for.pop(client, set())
        cs = self.clients[client]
        excess = [ts.key for ts in cs.wants_what if ts.key not in wanted]
        missing = [key for key in known if self.tasks[key] not in cs.wants_what]
        if missing:  # first: they may be known for the sake of the others alone
            self.client_desires_keys(keys=missing, client=client)
        if excess:
            self.client_releases_keys(keys=excess, client=client)

    def _tell_unknown(self, client: str, keys: list[Key], given_up: bool) -> None:
        reason, why = (SESSION_ENDED, self._absence.why_given_up()) if given_up else UNKNOWN
        if keys:
            logger.warning(
                "Client %s wants %d keys that the cell does not know.",
                client,
                len(keys),
                extra={"action": "keys_unknown"},
            )
            self.client_comms[client].send(
                {
                    "op": "cancelled-keys",
                    "keys": keys,
                    "reason": reason,
                    "msg": why,
                }
            )

    def _tell_state(self, client: str, key: Key, believed_finished: bool) -> None:
        ts = self.tasks.get(key)
        stream = self.client_comms.get(client)
        if ts is None or stream is None or (believed_finished and ts.state == "memory"):
            return
        if ts.state in ("memory", "erred"):
            self.report_on_key(ts=ts, client=client)
        elif believed_finished:
            stream.send({"op": "lost-data", "key": key})


def _first(messages: Any) -> Any:
    return messages[0] if isinstance(messages, (tuple, list)) and messages else messages


def _exposure(client: str) -> Exposure:
    """What a client says of itself when it comes or comes back."""
    content = digest([b"return", client.encode(errors="replace")])
    return Exposure(content, "return of", short_name(client), short_name(client))
