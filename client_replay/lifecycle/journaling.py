"""Which journal a client has, and how another process goes on with it.

Guarantee: a client has its journal, and the name and session that are in it, before it connects.
What a resumed client wants it states before any leader can take it for released.

A client that was given no file has one in the directory of ``ha.client.journal``, but for
those of workers and their tasks: what these submit is submitted again when their task runs again.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import time
import weakref
from typing import Any, cast

import dask
import distributed
from dask.utils import parse_bytes, parse_timedelta
from distributed.core import PooledRPCCall
from distributed.utils import sync
from distributed.worker import get_worker
from tornado.ioloop import IOLoop

from client_replay.errors import JournalFenced, NoLeader
from client_replay.journal import place
from client_replay.journal.disk import DiskKeeper
from client_replay.journal.file import Identity
from client_replay.journal.journal import JOURNAL_BYTES_MAX, LIMIT, Journal
from client_replay.session.session import Session
from ha_scheduler.errors import SessionTaken
from ha_scheduler.protocol.client import CancelSession, Detach, ListSessions, SessionKeys
from ha_scheduler.protocol.codec import Message, tag_of

logger = logging.getLogger("distributed.client.ha")

DIRECTORY = "ha.client.journal"
DURABLE = "ha.client.journal-durable"
PATIENCE = "ha.client.journal-patience"
PATIENCE_DEFAULT = "60s"  # ``submit`` waits so long for room
SESSION_TTL = "ha.client.session-ttl"
AS_LONG_AS_MAY_BE_S = 1e9  # the cell keeps it for its own limit

_TLS_FILES = ("tls_ca_file", "tls_client_cert", "tls_client_key")

_on_disk: weakref.WeakSet[Journaling] = weakref.WeakSet()


def patience_s() -> float:
    """How long ``submit`` waits for room in the journal."""
    return float(parse_timedelta(dask.config.get(PATIENCE, PATIENCE_DEFAULT), default="s"))


def bytes_max() -> int:
    """What a journal may hold that no cell has."""
    return int(parse_bytes(dask.config.get(LIMIT, JOURNAL_BYTES_MAX)))


class Journaling(distributed.Client):
    resumed: dict[Any, distributed.Future[Any]]
    _ha: Session
    _journal_place: str | os.PathLike[str] | DiskKeeper | None
    _durable_asked: bool | None
    _attached: tuple[str, str] | None  # the id and the session of a client that was detached
    _durable: bool = False
    _leaves: bool = False  # at its end another process may go on

    def start(self, **kwargs: Any) -> Any:
        """As upstream's, which connects."""
        if not self._ha.connected_before:
            self._open_journal()
        return super().start(**kwargs)

    def _open_journal(self) -> None:
        """Raises ``JournalUnusable``."""
        self.resumed = {}
        if self._attached is not None:
            self.id, self._ha.id = self._attached
            self._ha.adopting = True
        if self._attached is not None or isinstance(self._journal_place, DiskKeeper):
            self._ha.taken_ns = time.time_ns()
        keeper = self._keeper()
        self._ha.use(Journal(keeper, bytes_max=bytes_max()))
        ttl = dask.config.get(SESSION_TTL, None)
        self._ha.silent_s = float(parse_timedelta(ttl, default="s")) if ttl else 0.0
        if keeper is None:
            return
        _on_disk.add(self)
        self._ha.closed_s = self._ha.silent_s or AS_LONG_AS_MAY_BE_S
        self._ha.id, self.id = keeper.identity.session, keeper.identity.client
        self._durable = bool(
            dask.config.get(DURABLE, False) if self._durable_asked is None else self._durable_asked
        )
        if self._durable and self._asynchronous:
            raise ValueError(
                "durable=True makes submit wait for the disk, and the loop of an asynchronous "
                "client must not wait. Leave it out: what is submitted is on the disk before it is "
                "sent."
            )
        self.resumed = {key: distributed.Future(key, self) for key in self._ha.journal.wanted()}

    def _keeper(self) -> DiskKeeper | None:
        chosen = self._journal_place
        if isinstance(chosen, DiskKeeper):
            return chosen
        if chosen is not None:
            path = place.path_of(chosen, self.id)
        elif (directory := dask.config.get(DIRECTORY, None)) and not self._is_of_a_worker():
            path = place.in_directory(directory, self.id)
        else:
            return None
        return DiskKeeper.create(path, self._identity(), bytes_max())

    def _is_of_a_worker(self) -> bool:
        if isinstance(self._start_arg, PooledRPCCall):
            return True
        try:
            get_worker()
        except ValueError:
            return False
        return True

    def _identity(self) -> Identity:
        given = self._start_arg
        address = getattr(given, "scheduler_address", given) or ""
        if not address and self.scheduler_file:
            address = ""
        files = {name: getattr(self.security, name, None) for name in _TLS_FILES}
        tls = {
            name: os.path.abspath(file)
            for name, file in files.items()
            if isinstance(file, str) and os.path.isfile(file)
        }
        return Identity(self._ha.id, self.id, str(address), time.time(), tls)

    # ---- going on elsewhere

    def detach(self, timeout: float | None = None) -> Any:
        """Leave the session to another process, and return its name, for ``Client.attach``.

        The cell has all that was submitted by then, or this raises ``NoLeader`` and the client
        goes on. Whoever has the name is this client: keep it to yourself.
        """
        return self.sync(self._detach, timeout)

    async def _detach(self, timeout: float | None) -> str:
        await asyncio.sleep(0)  # what another thread has just submitted
        try:
            async with asyncio.timeout(timeout):
                await self._ha.settled(all_of_them=True)
                await self._ask_of_session(Detach)
        except TimeoutError:
            raise NoLeader(
                f"no leader has said within {timeout:g} s that the cell has all of the "
                f"{len(self._ha.journal)} requests of this client, so it was not detached. "
                f"Detach it when the cell answers."
            ) from None
        name = f"{self.id}:{self._ha.id}"
        await self._leave()
        return name

    async def _ask_of_session(self, message: type[Message], **arguments: Any) -> Any:
        """A call that proves to be this client's."""
        call = getattr(self.scheduler, tag_of(message))
        return await call(client=self.id, **arguments)

    @classmethod
    def attach(cls, name: str, address: Any = None, **kwargs: Any) -> Any:
        """The client that ``detach`` has left under this name, with its futures in ``resumed``.

        Any other process that has the session is fenced: it gets ``SessionTaken``.
        ``address`` and further arguments as for ``Client``. Raises ``ValueError`` for no such name.
        With ``asynchronous=True`` it is awaited.
        """
        parts = tuple(name.rsplit(":", 1))
        if len(parts) != 2:
            raise ValueError(f"{name!r} is no name that Client.detach has returned")
        client = cls(address, attached=parts, **kwargs)

        async def attach() -> Any:
            await client
            await client._adopt_session()
            return client

        if client.asynchronous:
            return attach()
        client.sync(client._adopt_session)
        return client

    async def _adopt_session(self) -> None:
        known = await self._ask_of_session(SessionKeys)
        self._ha.journal.go_on_after(known["last"])
        self.resumed = {key: distributed.Future(key, self) for key in known["keys"]}
        self._ha.adopt()

    def sessions(self) -> Any:
        """The sessions of the cell: of each what it wants and waits for, and since when it is away.

        A list of dicts: ``name``, ``connected``, ``last_seen`` (a time of day), ``keys`` (how many
        it wants), ``waits_for`` (how many in each state that is no outcome), ``first`` (some of
        these) and ``nbytes`` (of results). ``fire-and-forget`` is the work that no client awaits.
        """
        return self.sync(self._sessions)

    async def _sessions(self) -> list[dict[str, Any]]:
        return list(await self._ask_of_session(ListSessions))

    def cancel_session(self, name: str) -> Any:
        """Cancel all that a session wants, by its name in ``sessions``; returns how many keys.

        Its client is told, now or when it comes back. ``fire-and-forget``: all such work.
        """
        return self.sync(self._ask_of_session, CancelSession, session=name)

    async def _leave(self) -> None:
        """Close without a goodbye: the cell keeps what this client wants, and so does a journal."""
        self._leaves = True
        if self.scheduler_comm is not None:
            self.status = "closing"
            self.scheduler_comm.abort()
        await self._close()

    async def _fenced(self, error: JournalFenced | SessionTaken) -> None:
        """Another process has the journal or the session: this client is no more."""
        if self.status in ("closing", "closed"):
            return
        logger.error("%s", error, extra={"action": "fenced"})
        for state in list(self.futures.values()):
            if state.status == "pending":
                state.set_error(error, None)
        self.futures.clear()
        await self._leave()


def _leave_all() -> None:
    """The process ends in good order: what is on disk can be resumed all the same."""
    for client in list(_on_disk):
        if client.status in ("running", "connecting") and client._ha.journal.wanted():
            with contextlib.suppress(Exception):  # the interpreter ends; others follow
                sync(cast("IOLoop", client.loop), client._leave, callback_timeout=3)


atexit.register(_leave_all)  # before upstream's own, which says goodbye
