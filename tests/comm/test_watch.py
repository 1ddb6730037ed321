"""The watch: with whom it is kept, and how soon it notices."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ha_scheduler.cell.tls_files import TlsFiles
from ha_scheduler.comm.address import Endpoint
from ha_scheduler.comm.directory import Directory, Peer, View
from ha_scheduler.comm.watch import SILENCE_S, Watch
from ha_scheduler.protocol import frames
from ha_scheduler.protocol.introduction import Kind, Refused
from ha_scheduler.security.authority import client_files, engine_files, peer_files
from ha_scheduler.security.contexts import client_context, server_context
from tests.certificates import issue
from tests.comm.watch_peer import WatchPeer, view_of
from tests.deadlines import SCALE


async def until(condition: Callable[[], object], within_s: float = 3.0) -> float:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < within_s * SCALE, "not in time"
        await asyncio.sleep(0.01)
    return time.monotonic() - began


@asynccontextmanager
async def watching(
    count: int = 3,
    leader: str = "p0",
    shown: Callable[[str], TlsFiles] | None = None,
    watcher: TlsFiles | None = None,
) -> AsyncIterator[tuple[list[WatchPeer], Directory, Watch]]:
    """``shown``: the files of each peer, by name; without, there is no TLS."""
    names = [f"p{i}" for i in range(count)]
    contexts = {name: server_context(shown(name)) if shown else None for name in names}
    peers = [await WatchPeer(name, contexts[name]).start() for name in names]
    for peer in peers:
        peer.push(view_of(peers, leader, 1, [11, 12, 13][:count]))
    cell = Directory([Endpoint("127.0.0.1", 11)])
    cell.observe(
        View("test", 1, leader, Endpoint("127.0.0.1", 11), tuple(Peer(*p.peer) for p in peers))
    )
    watch = Watch(cell, client_context(watcher) if watcher else None)
    watch.start()
    try:
        yield peers, cell, watch
    finally:
        await watch.stop()
        for peer in peers:
            await peer.stop()


def watched(peers: list[WatchPeer]) -> list[str]:
    return [peer.name for peer in peers if peer.watchers]


async def test_the_watch_is_kept_with_one_peer_that_does_not_lead() -> None:
    async with watching() as (peers, _, watch):
        await until(lambda: watch.watched)
        assert len(watched(peers)) == 1
        assert watched(peers) != ["p0"]
        (caller,) = [caller for peer in peers for caller in peer.callers]
        assert (caller.kind, caller.cell) == (Kind.WATCH, "test")


async def test_a_new_leader_is_known_at_once() -> None:
    async with watching() as (peers, cell, watch):
        await until(lambda: watch.watched)
        heard: list[View] = []
        cell.subscribe(heard.append)
        for peer in peers[1:]:
            peer.push(view_of(peers, "p2", 2, [11, 12, 13]))
        assert await until(lambda: heard) < 0.2
        assert (cell.term, cell.leader_hint) == (2, Endpoint("127.0.0.1", 13))


async def test_silence_makes_the_watch_go_on_to_another_peer() -> None:
    async with watching() as (peers, _, watch):
        await until(lambda: watch.watched)
        (quiet,) = (peer for peer in peers if peer.watchers)
        quiet.silent = True
        other = next(p for p in peers if p is not quiet and p.name != "p0")
        took_s = await until(lambda: other.watchers)
        assert SILENCE_S - 0.5 < took_s < 2.0


async def test_a_dead_peer_is_replaced_within_a_moment() -> None:
    async with watching() as (peers, _, watch):
        await until(lambda: watch.watched)
        (dead,) = (peer for peer in peers if peer.watchers)
        await dead.stop()
        assert await until(lambda: any(p.watchers for p in peers if p is not dead)) < 0.5


async def test_a_peer_that_comes_to_lead_is_no_longer_the_one_to_watch() -> None:
    async with watching() as (peers, cell, watch):
        await until(lambda: watch.watched)
        (name,) = watched(peers)
        for peer in peers:
            peer.push(view_of(peers, name, 2, [11, 12, 13]))
        await until(lambda: cell.term == 2 and watched(peers) not in ([], [name]))


async def test_a_lone_peer_is_watched_although_it_leads_and_waited_for_when_it_is_gone() -> None:
    async with watching(count=1) as ((peer,), _, watch):
        await until(lambda: watch.watched)
        await peer.stop()
        await until(lambda: not watch.watched)
        await peer.start()
        await until(lambda: watch.watched)


async def test_over_tls_a_peer_is_watched_that_shows_its_certificate(tmp_path: Path) -> None:
    files = issue(tmp_path, "p0", "p1", "p2")
    shown = partial(peer_files, files)
    async with watching(shown=shown, watcher=client_files(files)) as (_, cell, watch):
        await until(lambda: watch.watched)
        assert cell.peers[0].dask_port == 11


@pytest.mark.parametrize("whose", ["client", "engine", "another peer"])
async def test_nobody_else_is_watched_whatever_it_says(
    tmp_path: Path, whose: str, caplog: pytest.LogCaptureFixture
) -> None:
    files = issue(tmp_path, "p0", "p1", "p2")
    impostors = {
        "client": client_files(files),
        "engine": engine_files(files, "p1"),
        "another peer": peer_files(files, "p2"),
    }

    def shown(name: str) -> TlsFiles:
        return impostors[whose] if name == "p1" else peer_files(files, name)

    async with watching(2, shown=shown, watcher=client_files(files)) as (peers, cell, _):
        peers[1].push(view_of(peers, "p1", 2**31 - 1, [11, 12]))
        await until(lambda: "p1 does not let us watch: the certificate there" in caplog.text)
        await until(lambda: cell.peers[0].dask_port == 11)
        assert cell.term == 1
        assert peers[1].callers == [], "not a byte was said to it"


NONSENSE = [{"op": "view", "term": "x"}, {"op": "tale"}, [], b"x" * (1 << 20)]


@pytest.mark.parametrize("nonsense", NONSENSE)
async def test_nonsense_ends_the_connection_and_not_the_watch(nonsense: Any) -> None:
    async with watching() as (peers, _, watch):
        await until(lambda: watch.watched)
        (mad,) = (peer for peer in peers if peer.watchers)
        mad.push(nonsense)
        await until(lambda: any(p.watchers for p in peers if p is not mad))


async def test_a_peer_that_refuses_is_named_once_and_the_watch_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await frames.read(reader.readexactly, frames.INTRODUCTION_BYTES_MAX)
        writer.write(frames.pack(Refused("the caller speaks version 0; upgrade the caller")))
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    cell = Directory([Endpoint("127.0.0.1", 11)])
    cell.observe(View("test", 1, "a", Endpoint("127.0.0.1", 11), (Peer("a", "127.0.0.1", port),)))
    watch = Watch(cell, None)
    watch.start()
    await until(lambda: "a does not let us watch: the caller speaks version 0" in caplog.text)
    good = await WatchPeer("b").start()
    cell.observe(View("test", 2, "a", None, (*cell.peers, Peer(*good.peer))))
    await until(lambda: good.watchers)
    assert caplog.text.count("does not let us watch") == 1
    await watch.stop()
    await good.stop()
    server.close()
