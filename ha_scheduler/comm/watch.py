"""The watch: a light connection to one peer, for views of the cell.

Guarantee: the silent death of the leader is known within two seconds of its successor serving, that
of the watched peer within ``SILENCE_S``: the watched peer is one that does *not* lead (if there is
one) and sends something every 500 ms, and silence makes the watch go on to the next peer.

Only the peer of the name is listened to, by its certificate: what it says raises terms.

The watch never ends by itself. It reports every view to its ``Directory``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import ssl
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import TypeVar

from ha_scheduler.backoff import Backoff
from ha_scheduler.comm.address import HAAddressError
from ha_scheduler.comm.directory import Directory, Peer, View
from ha_scheduler.protocol import frames
from ha_scheduler.protocol.codec import ProtocolError
from ha_scheduler.protocol.introduction import Kind, RefusedError, call, introduce
from ha_scheduler.protocol.ring import Ring
from ha_scheduler.protocol.watch import WATCH, WatchBeat, WatchView
from ha_scheduler.security.tls import check_peer

logger = logging.getLogger("distributed.ha.watch")

T = TypeVar("T")

SILENCE_S = 1.5  # three beats
CONNECT_S = 1.0


class Watch:
    """Watches one cell, from the loop on which ``start`` was called."""

    def __init__(
        self,
        directory: Directory,
        ssl_context: ssl.SSLContext | None,
        on_ring: Callable[[Ring], None] = lambda ring: None,
    ) -> None:
        """``on_ring``: is told whose tokens hold."""
        self._directory = directory
        self._on_ring = on_ring
        self._ssl_context = ssl_context
        self._task: asyncio.Task[None] | None = None
        self._refusal = ""  # logged last
        self.watched: Peer | None = None

    def start(self) -> None:
        """Start watching. Idempotent."""
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(self._run())

    async def stop(self) -> None:
        """Stop, and wait until the connection is closed."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _run(self) -> None:
        backoff = Backoff()
        tried: set[str] = set()  # names: ports of a peer become known one by one
        while True:
            peer = self._choose(tried)
            if peer is None:
                await backoff.pause()
                tried.clear()
                continue
            tried.add(peer.name)
            if await self._watch(peer):
                backoff.reset()
                tried = {peer.name}

    def _choose(self, tried: set[str]) -> Peer | None:
        """The next peer to try: a follower if possible, at random."""
        left = [peer for peer in self._directory.peers if peer.name not in tried]
        followers = [peer for peer in left if not self._leads(peer)]
        return random.choice(followers or left) if left else None

    def _leads(self, peer: Peer) -> bool:
        view = self._directory.view
        return view is not None and view.leader == peer.name

    async def _watch(self, peer: Peer) -> bool:
        """Watch one peer until it fails or leads. Returns whether it sent anything."""
        heard = False
        try:
            async with contextlib.aclosing(self._messages(peer)) as messages:
                async for message in messages:
                    heard = True
                    self.watched = peer
                    if isinstance(message, WatchView):
                        self._directory.observe(View.from_watch(message))
                    elif isinstance(message, Ring):
                        self._on_ring(message)
                    if self._leads(peer) and self._others(peer):
                        break
        except (OSError, TimeoutError, EOFError) as error:
            logger.debug("The watch on %s ended: %s", peer.name, error)
        except RefusedError as error:
            if str(error) != self._refusal:
                self._refusal = str(error)
                logger.warning(
                    "%s does not let us watch: %s",
                    peer.name,
                    error,
                    extra={"action": "watch_refused"},
                )
        except (ProtocolError, HAAddressError) as error:
            logger.warning(
                "The watch on %s gave nonsense: %s",
                peer.name,
                error,
                extra={"action": "watch_nonsense"},
            )
        finally:
            self.watched = None
        return heard

    def _others(self, peer: Peer) -> bool:
        return any(other.name != peer.name for other in self._directory.peers)

    def _messages(self, peer: Peer) -> AsyncGenerator[WatchView | WatchBeat | Ring, None]:
        view = self._directory.view
        return messages_of(peer, self._ssl_context, view.cell if view else "")


async def messages_of(
    peer: Peer, ssl_context: ssl.SSLContext | None, cell: str = ""
) -> AsyncGenerator[WatchView | WatchBeat | Ring, None]:
    """What ``peer`` tells a watcher; first a view.

    Raises ``OSError``, ``EOFError``, ``TimeoutError``, ``RefusedError`` and ``ProtocolError``.
    """
    async with asyncio.timeout(CONNECT_S):
        reader, writer = await asyncio.open_connection(peer.host, peer.peer_port, ssl=ssl_context)
    try:
        check_peer(writer.get_extra_info("ssl_object"), peer.name)
        async with asyncio.timeout(SILENCE_S):
            await call(reader, writer, introduce(Kind.WATCH, cell))
        while True:
            async with asyncio.timeout(SILENCE_S):
                body = await frames.read(reader.readexactly, frames.WATCH_BYTES_MAX)
            yield WATCH.decode(body)
    finally:
        writer.transport.abort()


async def ask(
    directory: Directory, peers: Iterable[Peer], ssl_context: ssl.SSLContext | None
) -> list[View]:
    """The views of all daemons that answer now, which ``directory`` takes in."""
    said = await _first(WatchView, peers, ssl_context)
    views: list[View] = []
    for answer in said:
        with contextlib.suppress(HAAddressError):
            views.append(View.from_watch(answer))
    for view in views:
        directory.observe(view)
    return views


async def silent_peers(peers: Iterable[Peer], ssl_context: ssl.SSLContext | None) -> dict[str, str]:
    """Of these the names of those whose daemons do not answer now, and why."""
    asked = list(peers)
    answers = await asyncio.gather(*(_silence_of(peer, ssl_context) for peer in asked))
    return {peer.name: why for peer, why in zip(asked, answers, strict=True) if why}


async def _silence_of(peer: Peer, ssl_context: ssl.SSLContext | None) -> str:
    try:
        async with contextlib.aclosing(messages_of(peer, ssl_context)) as messages:
            await anext(messages)
    except (OSError, EOFError, TimeoutError, ProtocolError) as error:
        nothing = "no answer in time" if isinstance(error, TimeoutError) else type(error).__name__
        return str(error) or nothing
    except RefusedError as error:  # it is there
        logger.debug("Peer %s does not let us watch: %s", peer.name, error)
    return ""


async def ask_rings(peers: Iterable[Peer], ssl_context: ssl.SSLContext | None) -> list[Ring]:
    """The key rings of all daemons that answer now."""
    return await _first(Ring, peers, ssl_context)


async def _first(
    kind: type[T], peers: Iterable[Peer], ssl_context: ssl.SSLContext | None
) -> list[T]:
    """The first message of a kind of each daemon that answers."""

    async def first(peer: Peer) -> T | None:
        try:
            async with contextlib.aclosing(messages_of(peer, ssl_context)) as messages:
                async for message in messages:
                    if isinstance(message, kind):
                        return message
        except (OSError, EOFError, TimeoutError, RefusedError, ProtocolError) as error:
            logger.debug("Peer %s did not answer: %s", peer.name, error)
        return None

    said = await asyncio.gather(*map(first, peers))
    return [message for message in said if message is not None]
