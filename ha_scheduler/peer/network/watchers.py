"""Watchers: workers, clients and tools that are told who leads, and whose tokens hold.

Guarantee: a watcher gets the state when it connects, and the newest one after every change; states
in between may be skipped. Between changes a beat comes every ``BEAT_S``: a longer silence means
that this peer is dead or cut off, and the watcher asks another one.

A slow watcher costs one queued view. One that reads nothing for ``STALLED_S`` is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from ha_scheduler.protocol import frames
from ha_scheduler.protocol.ring import Ring
from ha_scheduler.protocol.watch import WatchBeat, WatchView
from ha_scheduler.security.identity import Identity

BEAT_S = 0.5
STALLED_S = 5.0


class Watchers:
    def __init__(self, view: Callable[[], WatchView]) -> None:
        self._view = view
        self._version = 0
        self._ring = b""  # as a frame
        self._ring_version = 0
        self._frame = b""
        self._frame_version = -1
        self._wakers: set[asyncio.Event] = set()

    @property
    def count(self) -> int:
        return len(self._wakers)

    def changed(self) -> None:
        """The state has changed."""
        self._version += 1
        for waker in self._wakers:
            waker.set()

    def tell_ring(self, ring: Ring) -> None:
        """Whose tokens hold, for those that watch now or later."""
        self._ring, self._ring_version = frames.pack(ring), self._ring_version + 1
        for waker in self._wakers:
            waker.set()

    async def serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, caller: Identity
    ) -> None:
        """Push to one watcher until it closes its connection."""
        waker = asyncio.Event()
        self._wakers.add(waker)
        end = asyncio.ensure_future(reader.read(1))
        push = asyncio.ensure_future(self._push(waker, writer))
        try:
            await asyncio.wait((end, push), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._wakers.discard(waker)
            for task in (end, push):
                task.cancel()
            await asyncio.gather(end, push, return_exceptions=True)

    async def _push(self, waker: asyncio.Event, writer: asyncio.StreamWriter) -> None:
        beat = frames.pack(WatchBeat())
        sent, ring = -1, 0
        while True:
            waker.clear()
            if sent != self._version:
                sent = self._version
                writer.write(self._packed())
            elif ring == self._ring_version:
                writer.write(beat)
            if ring != self._ring_version:
                ring = self._ring_version
                writer.write(self._ring)
            async with asyncio.timeout(STALLED_S):
                await writer.drain()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BEAT_S):
                    await waker.wait()

    def _packed(self) -> bytes:
        if self._frame_version != self._version:  # thousands of watchers share one encoding
            self._frame, self._frame_version = frames.pack(self._view()), self._version
        return self._frame
