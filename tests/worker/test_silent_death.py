"""A leader that freezes, or goes without a FIN: only the watch can tell. TLS on everything."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from client_replay import Client
from ha_scheduler.security.authority import client_files, peer_files
from ha_scheduler.security.contexts import server_context
from tests.certificates import issue, security_of
from tests.comm.watch_peer import WatchPeer, view_of
from tests.worker.cell import Cell, cell, eventually

pytestmark = [pytest.mark.system, pytest.mark.filterwarnings("default")]


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    thread = threading.Thread(target=made.run_forever, daemon=True)
    thread.start()
    yield made
    asyncio.run_coroutine_threadsafe(_end_tasks(), made).result()
    made.call_soon_threadsafe(made.stop)
    thread.join()
    made.close()


async def _end_tasks() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """In files, as operators have them."""
    return issue(tmp_path, "peer0", "peer1", "peer2")


@pytest.fixture
def watched(
    tmp_path: Path, loop: asyncio.AbstractEventLoop, certificates: Path
) -> Iterator[tuple[Cell, list[WatchPeer]]]:
    names = [f"peer{i}" for i in range(3)]
    peers = [WatchPeer(name, server_context(peer_files(tmp_path, name))) for name in names]
    for peer in peers:
        asyncio.run_coroutine_threadsafe(peer.start(), loop).result()
    with cell(tmp_path, peers=3) as made:
        made.watch = [peer.peer for peer in peers]
        made.protocol, made.tls = "tls", certificates
        yield made, peers
    for peer in peers:
        asyncio.run_coroutine_threadsafe(peer.stop(), loop).result()


def test_a_frozen_leader_is_left_within_two_seconds_and_changes_nothing_when_it_wakes(
    watched: tuple[Cell, list[WatchPeer]],
    loop: asyncio.AbstractEventLoop,
    certificates: Path,
) -> None:
    made, peers = watched

    def push(leader: str, term: int) -> None:
        view = view_of(peers, leader, term, made.ports)
        view = msgspec.structs.replace(view, address=view.address.replace("tcp", "tls"))
        for peer in peers:
            loop.call_soon_threadsafe(peer.push, view)

    push("peer0", 1)
    frozen = made.engine(0, term=1)
    made.worker("w")
    with Client(made.address, security=security_of(client_files(certificates))) as client:
        client.wait_for_workers(1, timeout=30)
        assert client.submit(lambda: 1).result(10) == 1
        pids = client.run(os.getpid)
        eventually(lambda: sum(p.watchers for p in peers) >= 2, 10, "client and worker watch")
        running = client.submit(time.sleep, 4)
        eventually(lambda: len(client._ha.journal) == 0, 5, "committed")

        frozen.send_signal(signal.SIGSTOP)
        made.engine(1, term=2)
        eventually(lambda: "Scheduler at" in made.log("engine1"), 20, "the next one serves")
        began = time.monotonic()
        push("peer1", 2)
        eventually(
            lambda: client._ha.follower.fence.joined == 2, 5, "the client is with the next leader"
        )
        assert time.monotonic() - began < 2.0
        during = client.submit(lambda: 2)
        assert during.result(20) == 2
        frozen.send_signal(signal.SIGCONT)
        running.result(10)
        time.sleep(0.5)
        assert client.submit(lambda: 3).result(5) == 3
        assert client.run(os.getpid) == pids
        assert client._ha.follower.fence.term == 2
