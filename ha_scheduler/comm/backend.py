"""``ha://`` as a comm backend of distributed: connect to whichever peer leads.

Guarantee: ``connect`` returns a comm only to a process that answered, and at most one connection of
an attempt stays open. The order is: the leader as last known, alone for ``HEAD_START_S``; then
every address at once. A follower refuses at once, and a host that swallows packets holds up
nobody.

"Answered" matters: the kernel of a frozen leader still accepts connections. Under TLS the handshake
proves life; without it (loopback) the first byte of Dask's own handshake does, which a server sends
unasked.

Listening on ``ha://`` means the transport beneath, on one address: a worker that is given only
``ha://a,b,c`` derives its own protocol from it, and that must not need another option.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import Callable, Mapping
from typing import Any

import dask
from distributed.comm.addressing import get_address_host
from distributed.comm.core import Comm, Connector, FatalCommClosedError
from distributed.comm.registry import Backend, get_backend
from distributed.utils import get_ip

from ha_scheduler.comm.address import (
    Endpoint,
    HAAddressError,
    is_loopback,
    parse,
    unparse,
)
from ha_scheduler.comm.directory import Cell, cell_of

logger = logging.getLogger("distributed.ha.comm")

HEAD_START_S = 0.25  # a leader on a LAN answers within a few milliseconds
ATTEMPT_S_MAX = 5.0  # one attempt; distributed's connect() repeats attempts until its own timeout
LIFE_POLL_S = 0.005

# What turns a plain server into its HA kind when it listens because of an ha:// address.
PRELOADS = {
    "Worker": "ha_scheduler.worker.preload",
    "Nanny": "ha_scheduler.worker.nanny_preload",
}


class TLSNotConfigured(RuntimeError):
    """Operator: no certificates, and the cell is not on this machine."""


def transport(endpoints: tuple[Endpoint, ...], connection_args: Mapping[str, Any]) -> str:
    """``tls``, or ``tcp`` when everything stays on this machine and TLS is not configured."""
    if connection_args.get("ssl_context"):
        return "tls"
    if all(is_loopback(endpoint.host) for endpoint in endpoints):
        return "tcp"
    raise TLSNotConfigured(
        f"{unparse(endpoints)} is reached over TLS, and no certificate is configured. Set "
        "distributed.comm.tls.ca-file and distributed.comm.tls.client.cert/key (for a worker "
        "worker.cert/key), pass Security(...) to Client, or --tls-ca-file, --tls-cert and "
        "--tls-key to dask worker. `dask-ha-scheduler init` makes certificates."
    )


class HAConnector(Connector):
    """Connects to the leader of a cell."""

    async def connect(self, address: str, deserialize: bool = True, **connection_args: Any) -> Comm:
        endpoints = parse(address)
        cell = cell_of(endpoints)
        scheme = transport(endpoints, connection_args)

        async def attempt(endpoint: Endpoint) -> Comm:
            connector = get_backend(scheme).get_connector()
            comm = await connector.connect(str(endpoint), deserialize, **connection_args)
            try:
                if scheme == "tcp":
                    await _alive(comm)
            except BaseException:
                comm.abort()
                raise
            return comm

        async with asyncio.timeout(ATTEMPT_S_MAX):
            return await _race(cell, attempt)


async def _race(cell: Cell, attempt: Callable[[Endpoint], Any]) -> Comm:
    """The first of the candidates to answer; the others are closed, whatever happens."""
    first, *rest = cell.candidates()
    tasks: dict[asyncio.Task[Comm], Endpoint] = {}
    failures: dict[Endpoint, BaseException] = {}

    def start(endpoint: Endpoint) -> None:
        tasks[asyncio.ensure_future(attempt(endpoint))] = endpoint

    try:
        start(first)
        if first == cell.leader_hint:
            winner = await _first(tasks, failures, HEAD_START_S)
            if winner is not None:
                return _won(cell, tasks, winner)
        for endpoint in rest:
            start(endpoint)
        winner = await _first(tasks, failures, None)
        if winner is None:
            raise _refusal(failures)
        return _won(cell, tasks, winner)
    finally:
        for task in tasks:
            _discard(task)


async def _first(
    tasks: dict[asyncio.Task[Comm], Endpoint],
    failures: dict[Endpoint, BaseException],
    timeout: float | None,
) -> asyncio.Task[Comm] | None:
    """The first task to succeed, or None when all failed or the time is over."""
    while tasks:
        done, _ = await asyncio.wait(tasks, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            error = task.exception()
            if error is None:
                return task
            failures[tasks.pop(task)] = error
            if not isinstance(error, (OSError, TimeoutError)):
                raise error
        if not done:
            return None
    return None


def _won(cell: Cell, tasks: dict[asyncio.Task[Comm], Endpoint], winner: asyncio.Task[Comm]) -> Comm:
    cell.connected(tasks.pop(winner))
    return winner.result()


def _discard(task: asyncio.Task[Comm]) -> None:
    """Cancel an attempt; a connection that it makes nevertheless is closed."""

    def close(done: asyncio.Task[Comm]) -> None:
        if not done.cancelled() and done.exception() is None:
            done.result().abort()

    task.cancel()
    task.add_done_callback(close)


def _refusal(failures: Mapping[Endpoint, BaseException]) -> OSError:
    said = "; ".join(f"{endpoint}: {error}" for endpoint, error in failures.items())
    if failures and all(isinstance(error, FatalCommClosedError) for error in failures.values()):
        return FatalCommClosedError(said)  # type: ignore[no-any-return]
    return OSError(f"no peer of the cell leads just now ({said})")


async def _alive(comm: Comm) -> None:
    """Wait until the other side has said anything; it is left for distributed to read.

    Tornado reads ahead by itself, to notice a closed connection, so what came is in its buffer
    (iostream.py:1026, ``_maybe_add_error_listener``), which it does not show.
    """
    while not comm.stream._read_buffer_size:
        if comm.stream.closed():
            raise OSError("closed by the other side")
        await asyncio.sleep(LIFE_POLL_S)


class HABackend(Backend):
    """The backend that distributed loads by the entry point ``ha``."""

    def __init__(self) -> None:
        make_workers_ha()

    def get_connector(self) -> Connector:
        return HAConnector()

    def get_listener(
        self,
        loc: str,
        handle_comm: Callable[..., Any],
        deserialize: bool = True,
        **connection_args: Any,
    ) -> Any:
        if "," in loc:
            raise HAAddressError(
                f"one cannot listen on ha://{loc}: it names the peers of a cell. Give one address "
                "of this machine with --host, or none."
            )
        server = getattr(handle_comm, "__self__", None)
        host = _host_of(loc) or connection_args.get("default_host") or _towards_scheduler(server)
        scheme = transport((Endpoint(host, 0),), connection_args)
        connection_args["default_host"] = host
        _make_ha(server)
        backend = get_backend(scheme)
        return backend.get_listener(loc, handle_comm, deserialize, **connection_args)

    def get_address_host(self, loc: str) -> str:
        return self._likeliest(loc).host

    def get_address_host_port(self, loc: str) -> tuple[str, int]:
        endpoint = self._likeliest(loc)
        return endpoint.host, endpoint.port

    def resolve_address(self, loc: str) -> str:
        # Host names stay: a peer may come back under another address.
        return unparse(parse(loc)).partition("://")[2]

    def get_local_address_for(self, loc: str) -> str:
        local: str = get_backend("tcp").get_local_address_for(str(self._likeliest(loc)))
        return local

    def _likeliest(self, loc: str) -> Endpoint:
        if "," not in loc:
            return parse(loc)[0]
        return cell_of(parse(loc)).candidates()[0]


def _host_of(loc: str) -> str:
    """The host to listen on. ``host:0`` is any free port, so this is no endpoint to connect to."""
    return loc[1:].partition("]")[0] if loc.startswith("[") else loc.partition(":")[0]


def _towards_scheduler(server: object) -> str:
    """The address of this machine from which ``server`` reaches its scheduler.

    Upstream finds it so for the schemes that it knows (worker.py:1296).
    """
    scheduler = getattr(server, "scheduler", None)
    peer = get_address_host(scheduler.address) if scheduler is not None else "127.0.0.1"
    return str(get_ip(peer))


def make_workers_ha() -> None:
    """Give the workers that this process starts from now on the HA kind, by configuration.

    A Nanny hands its configuration to the processes it starts (nanny.py:236), and a Worker without
    preloads of its own reads them from there (worker.py:713). This reaches also workers that name
    their protocol, which therefore do not listen on ``ha://``.
    """
    key = "distributed.worker.preload"
    preloads = list(dask.config.get(key, None) or [])
    if PRELOADS["Worker"] not in preloads:
        dask.config.set({key: [*preloads, PRELOADS["Worker"]]})


def _make_ha(server: object) -> None:
    """Make a plain Worker or Nanny that listens because of ``ha://`` follow the leader.

    This is the one moment that plain ``dask worker ha://...`` passes whatever its options, before
    it registers: ``--no-nanny`` reads its preloads before any address, and the command line gives a
    Nanny an empty list, for which the configuration is not consulted (nanny.py:150).
    """
    kinds = [kind.__name__ for kind in type(server).__mro__]
    for kind, preload in PRELOADS.items():
        if kind in kinds:
            importlib.import_module(preload).dask_setup(server)
            return
