"""The supervisor of the engine process: spawn, detect its end, spawn a fresh one.

Guarantee: at most one engine of this daemon runs at any time. ``on_exit`` is called exactly once
for each ``on_spawn``, after the revocation of the lease and SIGKILL; the next engine is spawned
after the process is gone. It is confined (``isolation.py``) before its own code runs.

An engine ends with its channel or its process (pidfd), whichever is noticed first; or the watchdog
ends it (``watchdog.py``). ``on_gone`` follows ``on_exit`` when the process is gone, with what is
known of its end. The kernel ends the engine with the daemon (``launch.py``).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ha_scheduler.backoff import Backoff
from ha_scheduler.confinement.plan import Plan
from ha_scheduler.peer.engine.inquest import End, How
from ha_scheduler.peer.engine.launch import CONFINED
from ha_scheduler.peer.engine.oom import OomKills
from ha_scheduler.peer.engine.watchdog import EVERY_S, Watchdog
from ha_scheduler.protocol import RELEASE, frames
from ha_scheduler.protocol.codec import ProtocolError, tag_of
from ha_scheduler.protocol.engine import TO_DAEMON, Ping, Pong, Propose, ToDaemon, ToEngine
from ha_scheduler.protocol.introduction import Kind, RefusedError, accepted, introduce
from ha_scheduler.shared_exposures import SharedExposures
from ha_scheduler.shared_lease import SharedLease

BACKOFF_FIRST_S = 0.05  # a takeover may wait for the first restart
BACKOFF_MAX_S = 5.0
HEALTHY_AFTER_S = 10.0  # an engine that lived this long resets the backoff
REAP_POLL_S = 0.002
UNANSWERED_MAX = 1024  # pings; beyond it the oldest no longer count
CHANNEL_BUFFER_BYTES = 1024 * 1024  # written, and not yet read by the engine

_REPLACED = "the package was replaced under a running peer; restart the peer"

logger = logging.getLogger(__name__)


class EngineEvents(Protocol):
    """The life and the messages of an engine."""

    def on_spawn(self, engine: Engine) -> None: ...

    def on_accepted(self, engine: Engine) -> None: ...

    def on_message(self, engine: Engine, message: ToDaemon) -> None: ...

    def on_exit(self, engine: Engine, why: str) -> None: ...

    def on_gone(self, engine: Engine, end: End) -> None: ...


class Engine(asyncio.Protocol):
    """One engine process and its channel."""

    def __init__(
        self, events: EngineEvents, lease: SharedLease, exposures: SharedExposures
    ) -> None:
        self.lease = lease
        self.exposures = exposures
        self.how, self.why = How.BY_DAEMON, ""  # it ended, once it has
        self.spawned_at = time.monotonic()
        self.heard_at = self.spawned_at
        self.process: subprocess.Popen[bytes] | None = None
        self.gone = asyncio.Event()
        self._events = events
        self._decoder = frames.Decoder(frames.ENGINE_BYTES_MAX)
        self._accepted = False
        self._transport: asyncio.Transport | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._ended = False
        self.paused = False
        self.answered = False  # a ping, at least once
        self.fed = 0  # it was sent all of the log up to here
        self.replayed = 0  # and has read it, up to here
        self._pings = 0
        #: Number, time and what it was sent before.
        self._unanswered: deque[tuple[int, float, int]] = deque(maxlen=UNANSWERED_MAX)

    @property
    def lag_s(self) -> float:
        """The replay lag in seconds: the age of the oldest open ping, which queues with records."""
        return time.monotonic() - self._unanswered[0][1] if self._unanswered else 0.0

    @property
    def alive(self) -> bool:
        """Whether its end was not noticed yet."""
        return not self._ended

    @property
    def pid(self) -> int:
        return self.process.pid if self.process is not None else 0

    def send(self, *batch: ToEngine) -> None:
        """Queue messages in one write. ``drain`` is the backpressure."""
        if self._transport is not None and not self._ended:
            self._transport.write(b"".join(map(frames.pack, batch)))

    def ping(self) -> None:
        """Probe the engine, behind all messages so far."""
        self._pings += 1
        self._unanswered.append((self._pings, time.monotonic(), self.fed))
        self.send(Ping(self._pings))

    async def drain(self) -> None:
        """Wait until the engine has read most of the queue, or ended."""
        await self._writable.wait()

    @property
    def writable(self) -> bool:
        """Whether ``drain`` would return at once."""
        return self._writable.is_set()

    def pause(self) -> None:
        """Read nothing more from the engine: it has proposed more than is committed."""
        if self._transport is not None and not self._ended:
            self.paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None and not self._ended:
            self.paused = False
            self._transport.resume_reading()

    def kill(self, why: str, how: How = How.BY_DAEMON) -> None:
        """End it now. Idempotent; ``on_exit`` has been called when this returns."""
        if self._ended:
            return
        self._ended = True
        self.how, self.why = how, why
        self.lease.revoke()
        if self.process is not None:
            # The process may be frozen or hang in its exit: only SIGKILL ends both.
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
        if self._transport is not None:
            self._transport.abort()
        self._writable.set()
        self._events.on_exit(self, why)
        self.gone.set()

    def release(self) -> None:
        """Give back what was shared with a process that is gone."""
        self.lease.close()
        self.exposures.release()

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.set_write_buffer_limits(high=CHANNEL_BUFFER_BYTES)
        self._transport = transport
        transport.write(frames.pack(introduce(Kind.ENGINE)))

    def data_received(self, data: bytes) -> None:
        self.heard_at = time.monotonic()
        try:
            for value in self._decoder.feed(data):
                if self._ended:
                    return
                self._take(value)
        except ProtocolError as error:
            self.kill(f"it sent what no engine of this release does: {error}")
        except RefusedError as error:
            self.kill(f"it refuses this daemon: {error}; {_REPLACED}")

    def _take(self, value: Any) -> None:
        if not self._accepted:
            self._accept(accepted(value).release)
            return
        message = TO_DAEMON.decode(value)
        if not isinstance(message, Propose) and len(value) > frames.ENGINE_WORDS_BYTES_MAX:
            raise ProtocolError(f"{tag_of(type(message))}: {len(value)} bytes")
        if not isinstance(message, Pong):
            self._events.on_message(self, message)
            return
        self.answered = True
        while self._unanswered and self._unanswered[0][0] <= message.number:
            *_, self.replayed = self._unanswered.popleft()

    def _accept(self, release: str) -> None:
        self._accepted = True
        if release != RELEASE:
            logger.warning(
                "engine %d is of release %s and its daemon of %s: %s",
                self.pid,
                release,
                RELEASE,
                _REPLACED,
                extra={"action": "engine_of_another_release"},
            )
        self._events.on_accepted(self)

    def eof_received(self) -> None:
        self.kill("its channel closed", How.BY_ITSELF)

    def connection_lost(self, exc: Exception | None) -> None:
        why = f"its channel broke: {exc!r}" if exc else "its channel closed"
        self.kill(why, How.BY_ITSELF)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()


class Supervisor:
    """Keeps one engine running until ``stop``."""

    def __init__(
        self,
        module: str,
        events: EngineEvents,
        watchdog_s: float,
        plan: Plan,
        environment: Mapping[str, str],
        inherited: Sequence[int] = (),
        stderr: int | None = None,
    ) -> None:
        """``plan`` confines each engine; ``environment`` is all that it has of one.

        ``inherited``: sockets that listen at the Dask port. ``stderr``: for what engines write
        there; None: that of this process.
        """
        self.engine: Engine | None = None
        self._module = module
        self._events = events
        self.watchdog_s = watchdog_s  # of the next engine, if it changes
        self._stderr = stderr
        self._plan = plan
        self._environment = dict(environment)
        self._inherited = tuple(inherited)
        self._backoff = Backoff(BACKOFF_FIRST_S, BACKOFF_MAX_S)
        self._stopping = False
        self._oom = OomKills()
        self._oom_kills = 0  # at the last look

    async def run(self) -> None:
        """Spawn, watch, wait, repeat."""
        while not self._stopping:
            try:
                engine = await self._spawn()
            except OSError as error:  # no memory, no processes: retry
                logger.error(
                    "cannot start an engine: %s", error, extra={"action": "engine_not_started"}
                )
                await self._back_off(time.monotonic())
                continue
            watchdog = asyncio.create_task(self._watch(engine))
            try:
                await self._wait_for_end(engine)
            finally:
                engine.kill("the daemon is going down")
                watchdog.cancel()
                await asyncio.shield(_reap(engine))
                self.engine = None
            self._events.on_gone(engine, self._end_of(engine))
            engine.release()
            await self._back_off(engine.spawned_at)

    def stop(self) -> None:
        """End the engine and start no other."""
        self._stopping = True
        if self.engine is not None:
            self.engine.kill("the daemon is going down")

    async def _spawn(self) -> Engine:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        engine = Engine(self._events, SharedLease.create(), SharedExposures.create())
        try:
            engine.process = self._start(theirs.fileno(), engine.lease.fd, engine.exposures.fd)
        except OSError:
            ours.close()
            engine.release()
            raise
        finally:
            theirs.close()
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: engine, sock=ours)
        self.engine = engine
        logger.info("engine started with pid %d", engine.pid, extra={"action": "engine_started"})
        self._events.on_spawn(engine)
        return engine

    def _start(self, channel_fd: int, lease_fd: int, exposures_fd: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "ha_scheduler.peer.engine.launch", str(os.getpid())),
                *(CONFINED, self._plan.to_text()),
                self._module,
                f"--channel-fd={channel_fd}",
                f"--lease-fd={lease_fd}",
                f"--exposures-fd={exposures_fd}",
                *(f"--dask-fd={fd}" for fd in self._inherited),
            ],
            pass_fds=(channel_fd, lease_fd, exposures_fd, *self._inherited),
            stdin=subprocess.DEVNULL,
            stderr=self._stderr,
            env=self._environment,
        )

    async def _wait_for_end(self, engine: Engine) -> None:
        assert engine.process is not None
        loop = asyncio.get_running_loop()
        handle = os.pidfd_open(engine.process.pid)
        loop.add_reader(handle, engine.kill, "its process ended", How.BY_ITSELF)
        try:
            await engine.gone.wait()
        finally:
            loop.remove_reader(handle)
            os.close(handle)

    async def _watch(self, engine: Engine) -> None:
        heard_at, watchdog = engine.heard_at, Watchdog(self.watchdog_s)
        while engine.alive:
            engine.ping()
            self._oom_kills = self._oom.count()
            await asyncio.sleep(EVERY_S)
            heard = engine.paused or engine.heard_at != heard_at
            heard_at = engine.heard_at
            clocks, started = engine.exposures.clocks(), engine.answered
            if engine.alive and (why := watchdog.observe(heard, clocks, started=started)):
                engine.kill(why, How.HUNG)

    def _end_of(self, engine: Engine) -> End:
        assert engine.process is not None
        return End(
            how=engine.how,
            status=engine.process.returncode,
            why=engine.why,
            own_signal=engine.exposures.own_signal(),
            oom_kills=self._oom.count() - self._oom_kills,
        )

    async def _back_off(self, spawned_at: float) -> None:
        if time.monotonic() - spawned_at > HEALTHY_AFTER_S:
            self._backoff.reset()
        if not self._stopping:
            await self._backoff.pause()


async def _reap(engine: Engine) -> None:
    """Wait for the process's end after SIGKILL."""
    assert engine.process is not None
    while engine.process.poll() is None:  # noqa: ASYNC110 - a zombie's end is not an event
        await asyncio.sleep(REAP_POLL_S)
    logger.info(
        "engine %d is gone with status %s",
        engine.pid,
        engine.process.returncode,
        extra={"action": "engine_gone"},
    )
