"""Callers with identities, without certificates: as the listener of a cell would give them.

A caller says its name when it introduces itself, and ``Roles`` has the identity of each name. All
else of a connection is what it is.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from distributed.comm import connect

from client_replay import Client
from ha_scheduler.comm.preamble import IDENTITY, INTRODUCTION, peer_introduction
from ha_scheduler.engine.scheduler import Scheduler
from ha_scheduler.protocol.introduction import Introduction, Kind, introduce
from ha_scheduler.security.identity import Identity, Scopes, TokenRole
from ha_scheduler.worker.worker import Worker
from tests.engine.conftest import Pair

ROLES = {
    "alice": Identity("alice", TokenRole.CLIENT, token_id="1"),
    "alice-again": Identity("alice", TokenRole.CLIENT, token_id="2"),
    "bob": Identity("bob", TokenRole.CLIENT, token_id="3"),
    "carol": Identity(
        "carol", TokenRole.CLIENT, Scopes(run_on_scheduler=False, plugins=False), token_id="4"
    ),
    "eve": Identity("eve", TokenRole.OBSERVER, token_id="5"),
    "root": Identity("root", TokenRole.ADMIN, token_id="6"),
    "node": Identity("node", TokenRole.WORKER, token_id="7"),
    "other-node": Identity("other-node", TokenRole.WORKER, token_id="8"),
    "joiner": Identity("joiner", TokenRole.JOIN, token_id="9"),
}


def identify(comm: Any) -> None:
    said = peer_introduction(comm)
    if not isinstance(said, Introduction):
        return
    name = said.name or ("node" if said.kind == Kind.WORKER else "")  # a client within a task
    if name in ROLES:
        comm._extra[IDENTITY] = ROLES[name]


class IdentifyingScheduler(Scheduler):
    async def _handle_comm(self, comm: Any) -> None:
        identify(comm)
        await super()._handle_comm(comm)


class IdentifyingWorker(Worker):
    async def _handle_comm(self, comm: Any) -> None:
        identify(comm)
        await super()._handle_comm(comm)


def arguments(name: str, kind: Kind = Kind.CLIENT) -> dict[str, Any]:
    """Of a connection of the caller of this name."""
    return {INTRODUCTION: introduce(kind, name=name)}


class Subjects(Pair):
    """A pair whose callers have identities; its workers and its client have, too."""

    kind = IdentifyingScheduler

    async def start(self, workers: int = 1) -> None:
        self.leader = self._scheduler(0)
        await self.leader.activate(1, self.log, self._mark)
        self.workers = [await self.worker(f"w{i}") for i in range(workers)]
        self.client = await self.client_of("alice")

    async def worker(self, name: str, caller: str = "node", **options: Any) -> Any:
        made = IdentifyingWorker(
            self.address, nthreads=1, name=name, dashboard_address=":0", **options
        )
        made.connection_args[INTRODUCTION] = introduce(Kind.WORKER, name=caller)
        return await made

    async def client_of(self, name: str, **options: Any) -> Any:
        made = Client(self.address, asynchronous=True, set_as_default=False, **options)
        made.connection_args.update(arguments(name))
        return await made

    async def comm(self, name: str, address: str | None = None) -> Any:
        return await connect(address or self.leader.address, **arguments(name))

    async def ask(self, name: str, address: str | None = None, **message: Any) -> Any:
        """The answer to one request of a caller."""
        comm = await self.comm(name, address)
        try:
            await comm.write(message)
            return await comm.read()
        finally:
            comm.abort()


@asynccontextmanager
async def subjects(workers: int = 1) -> AsyncIterator[Subjects]:
    both = Subjects()
    await both.start(workers)
    try:
        yield both
    finally:
        await both.close()
