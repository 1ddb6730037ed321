"""``ha://`` as a comm backend of distributed: a connection to the leader.

Guarantee: ``connect`` returns a comm only to a process that answered, and at most one connection of
an attempt stays open. The last known leader is tried alone for ``HEAD_START_S``, then every address
at once, and every address of every name (``names.py``). A follower says who leads, which is tried
at once; a host that swallows packets delays nobody.

"Answered", because the kernel of a frozen leader still accepts connections. Under TLS the handshake
proves life; without it (loopback) the first byte of Dask's own handshake, which a server sends
unasked.

A candidate that refuses is soon tried again: distributed's ``connect`` would pause for seconds
after a few refusals (comm/core.py:357), and a follower may come to lead at any moment. When the
watch says that it does, it is tried at once.

Under TLS the certificate must be that of an engine or a peer: who has taken a dead peer's port with
another one is a candidate that refuses.

Listening on ``ha://`` means the transport beneath, on one address: a worker that is given only
``ha://a,b,c`` derives its own protocol from it, without another option.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from distributed.comm.addressing import get_address_host
from distributed.comm.core import Comm, Connector, FatalCommClosedError
from distributed.comm.registry import Backend, get_backend
from distributed.utils import ensure_ip, get_ip
from tornado.ioloop import IOLoop

from ha_scheduler.backoff import Backoff
from ha_scheduler.cell.address import is_loopback
from ha_scheduler.comm.address import (
    SCHEME,
    SERVICE_SCHEME,
    Endpoint,
    HAAddressError,
    parse,
    unparse,
)
from ha_scheduler.comm.directory import Directory, View, directory_of
from ha_scheduler.comm.names import NameNotResolved, a_host_of, is_name, spread
from ha_scheduler.comm.preamble import (
    CHECK_SERVER,
    RACING,
    IntroductionRefused,
    NotLeading,
    is_final,
)
from ha_scheduler.comm.roles import check_leader

logger = logging.getLogger("distributed.ha.comm")

HEAD_START_S = 0.25  # a leader on a LAN answers within a few milliseconds
ATTEMPT_S_MAX = 5.0  # one attempt on one candidate
RETRY_S_MAX = 0.5
RETRY_GROWTH = 1.1
LIFE_POLL_S = 0.005

# What turns a plain server into its HA kind when it listens because of an ha:// address.
PRELOADS = {"Worker": "ha_scheduler.worker.preload", "Nanny": "ha_scheduler.worker.nanny_preload"}
# What looks after the plain clients, and the plain workers that do not listen on ha://.
AUTOMATIC = ("client_replay", "ha_scheduler.worker.automatic")


class TLSNotConfigured(RuntimeError):
    """Operator: no certificates, and the cell is not on this machine."""


def transport(endpoints: tuple[Endpoint, ...], connection_args: Mapping[str, Any]) -> str:
    """``tls``, or ``tcp`` when everything stays on this machine and TLS is not configured."""
    if connection_args.get("ssl_context"):
        return "tls"
    addresses = [endpoint for endpoint in endpoints if not endpoint.file]
    if addresses and all(is_loopback(endpoint.host) for endpoint in addresses):
        return "tcp"
    raise TLSNotConfigured(
        f"{unparse(endpoints)} is reached over TLS, and no certificate is configured. Set "
        "distributed.comm.tls.ca-file and distributed.comm.tls.client.cert/key (for a worker "
        "worker.cert/key), pass Security(...) to Client, or --tls-ca-file, --tls-cert and "
        "--tls-key to dask worker. `dask-ha-scheduler init` makes certificates."
    )


class HAConnector(Connector):
    """Connects to the leader of a cell."""

    def __init__(self, scheme: str = SCHEME) -> None:
        self._scheme = scheme

    async def connect(self, address: str, deserialize: bool = True, **connection_args: Any) -> Comm:
        endpoints = parse(f"{self._scheme}://{address}")
        directory = directory_of(endpoints)
        scheme = transport(endpoints, connection_args)
        arguments = {**connection_args, CHECK_SERVER: check_leader, RACING: True}

        async def attempt(endpoint: Endpoint) -> Comm:
            connector = get_backend(scheme).get_connector()
            if scheme == "tcp" and not is_loopback(endpoint.host):
                raise OSError(f"{endpoint} is not on this machine, and TLS is not configured")
            try:
                comm: Comm = await connector.connect(str(endpoint), deserialize, **arguments)
            except ValueError as error:
                if "not idle" not in str(error):
                    raise
                # It hung up between TCP and TLS (tornado, iostream.py:1307).
                raise ConnectionAbortedError(f"{endpoint} hung up before TLS began") from error
            try:
                if scheme == "tcp":
                    await _alive(comm)
            except BaseException:
                comm.abort()
                raise
            return comm

        comm: Comm = await _Race(directory, attempt).run()
        return comm


class _Race:
    """All candidates, each retried until one answers or the caller gives up."""

    def __init__(
        self, directory: Directory, attempt: Callable[[Endpoint], Awaitable[Comm]]
    ) -> None:
        self._directory = directory
        self._attempt = attempt
        self._tasks: dict[asyncio.Task[Comm], Endpoint] = {}
        self._naming: set[asyncio.Task[None]] = set()  # names that are being resolved
        self._failures: dict[Endpoint, BaseException] = {}
        self._doubt = asyncio.Event()  # an attempt failed, or has succeeded
        self._more = asyncio.Event()  # an attempt has begun
        self._leads: dict[Endpoint, asyncio.Event] = {}  # it is said to lead now

    async def run(self) -> Comm:
        """A comm to the first to answer; all others are closed."""
        first, *rest = self._directory.candidates()
        loop = IOLoop.current()
        unsubscribe = self._directory.subscribe(lambda view: loop.add_callback(self._hear, view))
        try:
            self._open(first)
            if first == self._directory.leader_hint:
                await self._head_start()
            for endpoint in rest:
                self._open(endpoint)
            return await self._first()
        except asyncio.CancelledError as cancelled:
            # By the timeout of distributed's connect(), which reports the cause.
            raise cancelled from self._refusal()
        finally:
            unsubscribe()
            for naming in self._naming:
                naming.cancel()
            for task in self._tasks:
                _discard(task)

    def _hear(self, view: View) -> None:
        if view.leader_address in self._leads:
            self._leads[view.leader_address].set()

    def _open(self, endpoint: Endpoint) -> None:
        if is_name(endpoint):
            self._naming.add(asyncio.ensure_future(self._start_all_of(endpoint)))
        else:
            self._start(endpoint)

    async def _start_all_of(self, name: Endpoint) -> None:
        try:
            addresses = await spread(name)
        except NameNotResolved as error:
            self._fail(name, error)
            addresses = () if name.is_indirect else (name,)  # DNS is asked again
        for endpoint in addresses:
            self._start(endpoint)

    def _start(self, endpoint: Endpoint) -> None:
        if endpoint in self._leads:
            return
        self._leads[endpoint] = asyncio.Event()
        task = asyncio.ensure_future(self._persist(endpoint))
        task.add_done_callback(lambda _: self._doubt.set())
        self._tasks[task] = endpoint
        self._more.set()

    def _go_to(self, leader: Endpoint) -> None:
        """A peer says that this one leads."""
        if leader in self._leads:
            self._leads[leader].set()
        else:
            self._start(leader)

    def _fail(self, endpoint: Endpoint, error: BaseException) -> None:
        self._failures[endpoint] = error
        self._directory.refused(endpoint, why(error))
        self._doubt.set()

    async def _persist(self, endpoint: Endpoint) -> Comm:
        """Retry one candidate until it answers."""
        backoff = Backoff(max_s=RETRY_S_MAX, growth=RETRY_GROWTH)
        while True:
            try:
                async with asyncio.timeout(ATTEMPT_S_MAX):
                    return await self._attempt(endpoint)
            except (OSError, TimeoutError) as error:
                self._fail(endpoint, error)
                if is_final(error):
                    raise
                if isinstance(error, NotLeading):
                    self._go_to(error.leader)
            await backoff.pause(self._leads[endpoint])
            self._leads[endpoint].clear()

    async def _head_start(self) -> None:
        """Wait for the known leader alone, until it fails."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HEAD_START_S):
                await self._doubt.wait()

    async def _first(self) -> Comm:
        while self._tasks or self._naming:
            await self._some_end()
            self._naming = {naming for naming in self._naming if not naming.done()}
            for task in [task for task in self._tasks if task.done()]:
                endpoint, error = self._tasks.pop(task), task.exception()
                if error is None:
                    self._directory.connected(endpoint)
                    return task.result()
                if not isinstance(error, OSError) or isinstance(error, IntroductionRefused):
                    raise error
        raise self._refusal()

    async def _some_end(self) -> None:
        """Wait until an attempt is over; others may begin meanwhile."""
        self._more.clear()
        more = asyncio.ensure_future(self._more.wait())
        waiting = {*self._tasks, *self._naming, more}
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            more.cancel()

    def _refusal(self) -> OSError:
        said = "; ".join(f"{endpoint}: {error}" for endpoint, error in self._failures.items())
        errors = self._failures.values()
        if errors and all(isinstance(error, FatalCommClosedError) for error in errors):
            return FatalCommClosedError(said)
        return OSError(f"no peer of the cell leads just now ({said})")


def why(error: BaseException) -> str:
    """The root cause of a failed connection, in words."""
    nothing = "no answer in time" if isinstance(error, TimeoutError) else type(error).__name__
    words = str(error) or nothing
    while error.__cause__ is not None:
        error = error.__cause__
        words = str(error) or words
    return words


def _discard(task: asyncio.Task[Comm]) -> None:
    """Cancel an attempt; a connection that it still makes is closed."""

    def close(done: asyncio.Task[Comm]) -> None:
        if not done.cancelled() and done.exception() is None:
            done.result().abort()

    task.cancel()
    task.add_done_callback(close)


async def _alive(comm: Any) -> None:
    """Wait until the other side has said anything; distributed reads it later.

    Tornado reads ahead to notice a closed connection, so it is in a buffer that Tornado does not
    show (iostream.py:1026, ``_maybe_add_error_listener``).
    """
    while not comm.stream._read_buffer_size:
        if comm.stream.closed():
            raise OSError("closed by the other side")
        await asyncio.sleep(LIFE_POLL_S)


class HABackend(Backend):
    """The backend that distributed loads by the entry point ``ha``.

    From then on plain clients and workers of this process that are given an ``ha://`` address
    become their HA kind.
    """

    scheme = SCHEME

    def __init__(self) -> None:
        for module in AUTOMATIC:
            importlib.import_module(module)

    def get_connector(self) -> Connector:
        return HAConnector(self.scheme)

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
        return unparse(self._parse(loc)).partition("://")[2]

    def get_local_address_for(self, loc: str) -> str:
        local: str = get_backend("tcp").get_local_address_for(str(self._likeliest(loc)))
        return local

    def _parse(self, loc: str) -> tuple[Endpoint, ...]:
        return parse(f"{self.scheme}://{loc}")

    def _likeliest(self, loc: str) -> Endpoint:
        endpoints = self._parse(loc)
        if len(endpoints) == 1 and not endpoints[0].is_indirect:
            return endpoints[0]
        likeliest = directory_of(endpoints).candidates()[0]
        return a_host_of(likeliest) if likeliest.is_indirect else likeliest


class HAServiceBackend(HABackend):
    """The same for ``ha+srv``."""

    scheme = SERVICE_SCHEME


def _host_of(loc: str) -> str:
    """The host to listen on; ``host:0`` is no endpoint."""
    return loc[1:].partition("]")[0] if loc.startswith("[") else loc.partition(":")[0]


def _towards_scheduler(server: object) -> str:
    """The local address from which ``server`` reaches its scheduler (as worker.py:1296)."""
    scheduler = getattr(server, "scheduler", None)
    peer = get_address_host(scheduler.address) if scheduler is not None else "127.0.0.1"
    with contextlib.suppress(OSError):
        peer = ensure_ip(peer)  # the one of a name may be of IPv6
    return str(get_ip(peer))


def _make_ha(server: object) -> None:
    """Make a plain Worker or Nanny that listens on ``ha://`` follow the leader.

    Plain ``dask worker ha://...`` passes here before it registers, whatever its options:
    ``--no-nanny`` reads its preloads before any address, and the command line gives a Nanny an
    empty list, so that the configuration is not consulted (nanny.py:150).
    """
    kinds = [kind.__name__ for kind in type(server).__mro__]
    for kind, preload in PRELOADS.items():
        if kind in kinds:
            importlib.import_module(preload).dask_setup(server)
            return
