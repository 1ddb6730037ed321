"""What a peer finds out about its host and its ways to the other peers, for ``doctor``.

Guarantee: it changes nothing but a file of 4 KiB that it deletes, and is over in ``ASK_TIMEOUT_S``
and a little. The offset of another clock is known to half a round trip (Cristian 1989).
"""

from __future__ import annotations

import asyncio
import os
import platform
import resource
import shutil
import statistics
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ha_scheduler.peer.members.joining import FAILURES, Asker
from ha_scheduler.peer.members.roster import Roster
from ha_scheduler.peer.settings import PeerSettings
from ha_scheduler.protocol import RELEASE
from ha_scheduler.protocol.control import Clock, ClockRequest, Examined, Way
from ha_scheduler.protocol.peer import PeerAddress

ROUND_TRIPS = 5
FSYNCS_MAX = 20
FSYNC_BYTES = 4096  # a small entry of the log
FSYNC_S_MAX = 1.0  # on a disk that is slow
PORT_TIMEOUT_S = 1.0
PACKAGES = ("dask", "distributed", "lmdb", "msgspec", "tornado", "cryptography", "bokeh")
_PROBE = "fsync.probe"


class Examination:
    """Of one peer."""

    def __init__(
        self,
        settings: PeerSettings,
        roster: Roster,
        asker: Asker,
        serving: Callable[[], tuple[int, str, str] | None],
    ) -> None:
        self._settings = settings
        self._roster = roster
        self._asker = asker
        self._serving = serving

    async def run(self) -> Examined:
        timing, path = self._settings.timing, self._settings.data_dir
        others = [p for p in self._roster.current() if p.name != self._settings.name]
        fsyncs = asyncio.get_running_loop().run_in_executor(None, measure_fsync, path)
        ways = await asyncio.gather(*map(self._way, others))
        taken = await fsyncs
        return Examined(
            name=self._settings.name,
            release=RELEASE,
            versions={"python": platform.python_version(), **versions()},
            system=f"{platform.system()} {platform.release()} {platform.machine()}",
            at=time.time(),
            tick_ms=timing.tick_ms,
            heartbeat_ticks=timing.heartbeat_ticks,
            election_ticks=timing.election_ticks,
            priority=self._settings.priority,
            fsync_s=statistics.median(taken) if taken else 0.0,
            fsync_s_max=max(taken, default=0.0),
            free_bytes=shutil.disk_usage(path).free,
            files_max=max(0, resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
            ways=tuple(ways),
        )

    async def _way(self, to: PeerAddress) -> Way:
        try:
            trips = await self._round_trips(to)
        except FAILURES as error:
            why = str(error) or f"no answer ({type(error).__name__})"
            return Way(to.name, why[:1000], 0.0, 0.0, "")
        trip, offset = min(trips)  # the quickest knows the offset best
        serving = self._serving()
        leads = serving is not None and serving[1] == to.name
        port = await _port_error(to.host, to.dask_port) if leads else ""
        return Way(to.name, "", trip, offset, port)

    async def _round_trips(self, to: PeerAddress) -> list[tuple[float, float]]:
        """Seconds of each, and by how much the other clock was ahead."""
        found = []
        async with self._asker.connected(to, self._roster.founding.identity) as ask:
            for _ in range(ROUND_TRIPS):
                began, sent = time.monotonic(), time.time()
                answer = await ask(ClockRequest())
                trip = time.monotonic() - began
                if isinstance(answer, Clock):
                    found.append((trip, answer.at - sent - trip / 2))
        if not found:
            raise OSError("it does not tell its time; is it of an older release?")
        return found


def measure_fsync(directory: Path) -> list[float]:
    """Seconds of small synchronous writes in ``directory``; none if it cannot be written."""
    taken: list[float] = []
    try:
        descriptor = os.open(directory / _PROBE, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return taken
    try:
        while len(taken) < FSYNCS_MAX and sum(taken) < FSYNC_S_MAX:
            began = time.monotonic()
            os.pwrite(descriptor, bytes(FSYNC_BYTES), 0)
            os.fdatasync(descriptor)
            taken.append(time.monotonic() - began)
    except OSError:
        pass
    finally:
        os.close(descriptor)
        (directory / _PROBE).unlink(missing_ok=True)
    return taken


def versions() -> dict[str, str]:
    """Of the packages that matter, as far as they are there."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


async def _port_error(host: str, port: int) -> str:
    """Why nobody can connect to that port, or empty."""
    try:
        async with asyncio.timeout(PORT_TIMEOUT_S):
            _, writer = await asyncio.open_connection(host, port)
    except OSError as error:
        return error.strerror or str(error) or f"no answer within {PORT_TIMEOUT_S:g} s"
    writer.close()
    return ""
