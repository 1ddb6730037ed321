"""The engine process: one channel to its daemon, one scheduler.

Guarantee: crash-only. The process follows, may be activated once, and ends with its channel or at
any error that it cannot answer for; nothing is handed over, since all that matters is in the log or
on the workers.

A leader's engine also ends when its lease has been over for ``LEASE_LOST_SECONDS``: its daemon
hangs, or it would have ended the engine, and another peer leads. Such an engine would accept
connections and never answer.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Sequence
from typing import Any

from ha_scheduler.comm.address import Endpoint
from ha_scheduler.engine.confirmations import OnConfirmed, Rounds
from ha_scheduler.engine.fencing import lost
from ha_scheduler.engine.stream.recorder import CommitTracker, OnCommit
from ha_scheduler.gate.nofile import raise_limit
from ha_scheduler.log_lines import FORMATS, VARIABLE, formatter, restyle
from ha_scheduler.protocol import frames
from ha_scheduler.protocol.client import Welcome
from ha_scheduler.protocol.engine import (
    REFUSAL_CHARS_MAX,
    TO_ENGINE,
    Activate,
    CallerRefused,
    CaughtUp,
    Confirm,
    Confirmed,
    EngineReady,
    EngineSettings,
    LeaderNamed,
    Mark,
    Phase,
    Ping,
    Pong,
    Propose,
    RecordCommitted,
    Serving,
    ToDaemon,
    ToEngine,
)
from ha_scheduler.protocol.introduction import Refused, RefusedError, accept, introduced
from ha_scheduler.protocol.ring import Ring
from ha_scheduler.shared_exposures import SharedExposures
from ha_scheduler.shared_lease import SharedLease

logger = logging.getLogger(__name__)

LEASE_LOST_SECONDS = 3.0  # some elections
UNSENT_BYTES_MAX = 2 * 1024**3  # proposals that the daemon has not taken; beyond it we are stuck


class ChannelLost(Exception):
    """Local: the daemon is gone; this engine must not go on."""


class Channel:
    """The engine's end of the socket pair, and the ``Log`` of an active engine."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder = frames.Decoder(frames.ENGINE_BYTES_MAX)
        self.commits = CommitTracker()
        self.rounds = Rounds(lambda number: self.send(Confirm(number)))

    @classmethod
    async def open(cls, fd: int) -> Channel:
        """Take over the inherited socket and the daemon's introduction.

        Raises ``RefusedError`` when it is of another version.
        """
        sock = socket.socket(fileno=fd)
        sock.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=sock, limit=frames.READ_BYTES)
        try:
            introduced(await frames.read(reader.readexactly, frames.INTRODUCTION_BYTES_MAX))
        except RefusedError as error:
            writer.write(frames.pack(Refused(str(error))))
            writer.close()
            await writer.wait_closed()
            raise
        writer.write(frames.pack(accept()))
        return cls(reader, writer)

    async def receive(self) -> list[ToEngine]:
        """The next messages. Raises ``EOFError`` when the daemon is gone."""
        return list(map(TO_ENGINE.decode, await frames.read_some(self._reader, self._decoder)))

    def send(self, message: ToDaemon) -> None:
        if self._writer.transport.get_write_buffer_size() > UNSENT_BYTES_MAX:
            raise ChannelLost("the peer daemon takes no proposals")
        self._writer.write(frames.pack(message))

    def propose(self, data: bytes, on_commit: OnCommit | None) -> None:
        """Append a record to the event stream; see ``recorder.Log``."""
        self.send(Propose(self.commits.number(on_commit), data))

    def confirm(self, on_confirmed: OnConfirmed) -> None:
        """See ``recorder.Log``."""
        self.rounds.confirm(on_confirmed)


class EngineProcess:
    def __init__(
        self,
        channel: Channel,
        lease: SharedLease,
        exposures: SharedExposures,
        inherited: Sequence[socket.socket] = (),
    ) -> None:
        """``inherited``: sockets that listen at the Dask port, for when it leads."""
        self._channel = channel
        self._inherited = inherited
        self._lease = lease
        self._exposures = exposures
        self._scheduler: Any = None
        self._activation: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Follow the daemon's messages until the channel ends. Raises whatever ends the process."""
        while True:
            for message in await self._channel.receive():
                self._handle(message)
            if self._activation is not None and self._activation.done():
                self._activation.result()
            await asyncio.sleep(0)

    def _handle(self, message: ToEngine) -> None:
        match message:
            case RecordCommitted(_, proposal, data):
                if proposal:
                    self._channel.commits.committed(proposal)
                else:
                    self._scheduler.replay.read(data)
            case Confirmed(number):
                self._channel.rounds.confirmed(number)
            case Ping(number):
                self._channel.send(Pong(number))
            case LeaderNamed(name, dashboard):
                self._scheduler.known_leader = name, dashboard
            case EngineSettings():
                self._scheduler = self._create(message)
            case Ring():
                self._scheduler.take_ring(message)
            case CaughtUp():
                self._scheduler.replay.caught_up()
                self._channel.send(EngineReady(_dashboard(self._scheduler)))
            case Activate(term, cell_id, predecessor, format_):
                self._scheduler.name_cell(cell_id, predecessor)
                self._scheduler.format = format_
                self._activation = asyncio.create_task(self._activate(term))
                self._activation.add_done_callback(_end_on_failure)
            case _:
                raise TypeError(message)

    def _create(self, settings: EngineSettings) -> Any:
        import distributed  # noqa: F401  # it sets levels of its own, and handlers

        restyle(formatter(os.environ.get(VARIABLE, FORMATS[0]), "engine"))
        level = (settings.options.get("log_level") or "info").upper()
        for name in (None, "distributed"):
            logging.getLogger(name).setLevel(level)
        from ha_scheduler.comm.permitted import denials
        from ha_scheduler.engine import message_parts
        from ha_scheduler.engine.exposures import Exposures, note_own_signals
        from ha_scheduler.engine.options import contact_address, scheduler_arguments
        from ha_scheduler.engine.rehearsal import rehearse
        from ha_scheduler.engine.scheduler import Scheduler

        protocol = settings.options.get("protocol") or "tls"
        watch = tuple((peer.name, peer.host, peer.peer_port) for peer in settings.peers)
        addresses = tuple(
            f"{protocol}://{Endpoint(peer.host, peer.dask_port)}" for peer in settings.peers
        )
        cell = Welcome(0, settings.cell, settings.name, watch, addresses)
        (own,) = (peer for peer in settings.peers if peer.name == settings.name)
        arguments = scheduler_arguments(settings.options)
        arguments["contact_address"] = contact_address(protocol, own)
        _name_certificate(settings.options)
        note_own_signals(self._exposures)
        exposures = Exposures(self._exposures)
        scheduler = Scheduler(cell=cell, lease=self._lease, exposures=exposures, **arguments)
        scheduler.inherited = self._inherited
        scheduler.tell_scale = lambda message: self._channel.send(message)
        denials.tell = self._tell_refusal
        message_parts.install(scheduler)
        rehearse()
        return scheduler

    def _tell_refusal(self, subject: str, role: str, why: str, times: int) -> None:
        said = why[:REFUSAL_CHARS_MAX].encode(errors="replace").decode()
        self._channel.send(CallerRefused(subject, role, said, times))

    async def _activate(self, term: int) -> None:
        def mark(phase: str, detail: dict[str, int]) -> None:
            self._channel.send(Mark(term, Phase(phase), time.monotonic(), detail))

        await self._scheduler.activate(term, self._channel, mark)
        self._channel.send(Serving(term, self._scheduler.address))
        await lost(self._lease, LEASE_LOST_SECONDS)
        logger.critical(
            "The lease has been over for %.0f s and the peer daemon is silent; this engine exits.",
            LEASE_LOST_SECONDS,
            extra={"action": "lease_lost"},
        )
        os._exit(1)


def _end_on_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        logger.critical(
            "The activation failed; this engine exits.",
            exc_info=task.exception(),
            extra={"action": "activation_failed"},
        )
        os._exit(1)


def _name_certificate(options: dict[str, Any]) -> None:
    """By its configuration upstream tells whether the link to a dashboard is one of https."""
    import dask

    name = "distributed.scheduler.dashboard.tls"
    if options.get("tls_cert") and not dask.config.get(f"{name}.cert"):
        files = {"cert": options["tls_cert"], "key": options["tls_key"]}
        dask.config.set({f"{name}.{part}": path for part, path in files.items()})


def _dashboard(scheduler: Any) -> str:
    server = scheduler.http_server
    scheme = "https" if server.ssl_options is not None else "http"
    return f"{scheme}://:{server.port}" if getattr(server, "port", None) else ""


async def run(
    channel_fd: int, lease_fd: int, exposures_fd: int, dask_fds: Sequence[int] = ()
) -> int:
    """The whole life of an engine. Returns the exit status."""
    raise_limit()
    for fd in dask_fds:
        os.set_inheritable(fd, False)  # a process that users start may outlive us, and the daemon
    try:
        channel = await Channel.open(channel_fd)
        lease, exposures = SharedLease(lease_fd), SharedExposures(exposures_fd)
        inherited = [socket.socket(fileno=fd) for fd in dask_fds]
        await EngineProcess(channel, lease, exposures, inherited).run()
    except (ChannelLost, OSError, EOFError) as error:
        logger.critical(
            "The channel to the peer daemon ended (%s); this engine exits.",
            error,
            extra={"action": "channel_lost"},
        )
    except RefusedError as error:
        logger.critical(
            "This engine refuses its peer daemon (%s) and exits.",
            error,
            extra={"action": "daemon_refused"},
        )
    except Exception:  # whatever it is, the daemon starts another engine
        logger.critical(
            "This engine cannot go on and exits.", exc_info=True, extra={"action": "engine_failed"}
        )
    return 1
