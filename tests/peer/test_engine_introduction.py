"""A daemon and its engine introduce themselves: the code on disk may be of another release."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from ha_scheduler.engine.process import Channel
from ha_scheduler.peer.engine.inquest import End
from ha_scheduler.peer.engine.supervisor import Engine
from ha_scheduler.protocol import RELEASE, VERSION, frames
from ha_scheduler.protocol.engine import EngineReady, Ping, ToDaemon
from ha_scheduler.protocol.introduction import (
    Accepted,
    Introduction,
    Kind,
    Refused,
    RefusedError,
    accept,
    accepted,
    introduce,
    introduced,
)
from ha_scheduler.shared_exposures import SharedExposures
from ha_scheduler.shared_lease import SharedLease


class Daemon:
    """Hears what becomes of its engine."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[Any] = asyncio.Queue()

    def on_spawn(self, engine: Engine) -> None:
        raise NotImplementedError

    def on_accepted(self, engine: Engine) -> None:
        self.heard.put_nowait("accepted")

    def on_message(self, engine: Engine, message: ToDaemon) -> None:
        self.heard.put_nowait(message)

    def on_exit(self, engine: Engine, why: str) -> None:
        self.heard.put_nowait(why)

    def on_gone(self, engine: Engine, end: End) -> None:
        """No supervisor waits for it here."""


Told = tuple[asyncio.Queue[Any], asyncio.StreamReader, asyncio.StreamWriter]


def with_engine(told: Callable[[Told], Awaitable[None]]) -> None:
    """Run ``told`` as an engine that talks to the daemon's end."""

    async def run() -> None:
        daemon = Daemon()
        ours, theirs = socket.socketpair()
        engine = Engine(daemon, SharedLease.create(), SharedExposures.create())
        await asyncio.get_running_loop().create_connection(lambda: engine, sock=ours)
        reader, writer = await asyncio.open_connection(sock=theirs)
        async with asyncio.timeout(10):
            await told((daemon.heard, reader, writer))
        engine.kill("over")
        writer.close()
        engine.release()

    asyncio.run(run())


def test_a_daemon_says_what_it_is_before_anything_else() -> None:
    async def told(ends: Told) -> None:
        heard, reader, writer = ends
        said = introduced(await frames.read(reader.readexactly, frames.INTRODUCTION_BYTES_MAX))
        assert (said.kind, said.release) == (Kind.ENGINE, RELEASE)
        writer.write(frames.pack(accept()) + frames.pack(EngineReady("")))
        assert [await heard.get(), await heard.get()] == ["accepted", EngineReady("")]

    with_engine(told)


def test_an_engine_of_another_release_is_named_with_what_to_do(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def told(ends: Told) -> None:
        heard, _, writer = ends
        writer.write(frames.pack(Accepted(VERSION, "9.9.9", ())))
        assert await heard.get() == "accepted"

    with caplog.at_level(logging.WARNING):
        with_engine(told)
    assert f"is of release 9.9.9 and its daemon of {RELEASE}" in caplog.text
    assert "the package was replaced under a running peer; restart the peer" in caplog.text


@pytest.mark.parametrize("answer", [Accepted(VERSION + 1, "9", ()), Refused("of another version")])
def test_an_engine_of_another_version_ends_with_what_to_do(answer: Accepted | Refused) -> None:
    async def told(ends: Told) -> None:
        heard, _, writer = ends
        writer.write(frames.pack(answer))
        why = await heard.get()
        assert why.startswith("it refuses this daemon: ")
        assert " version" in why
        assert why.endswith("restart the peer")

    with_engine(told)


@pytest.mark.parametrize("first", [Ping(1), EngineReady(""), {"op": "nonsense"}])
def test_an_engine_that_does_not_answer_the_introduction_is_ended(first: Any) -> None:
    async def told(ends: Told) -> None:
        heard, _, writer = ends
        writer.write(frames.pack(first))
        assert "there is no message" in await heard.get()

    with_engine(told)


def test_an_engine_refuses_a_daemon_of_another_version() -> None:
    async def run() -> None:
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=ours)
        writer.write(frames.pack(Introduction(VERSION - 1, "0", (), Kind.ENGINE)))
        with pytest.raises(RefusedError, match="upgrade the caller"):
            await Channel.open(theirs.detach())
        with pytest.raises(RefusedError, match="upgrade the caller"):
            accepted(await frames.read(reader.readexactly, frames.INTRODUCTION_BYTES_MAX))
        writer.close()

    asyncio.run(run())


def test_an_engine_accepts_its_daemon() -> None:
    async def run() -> None:
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=ours)
        writer.write(frames.pack(introduce(Kind.ENGINE)) + frames.pack(Ping(7)))
        channel = await Channel.open(theirs.detach())
        answer = accepted(await frames.read(reader.readexactly, frames.INTRODUCTION_BYTES_MAX))
        assert answer.release == RELEASE
        assert await channel.receive() == [Ping(7)]
        writer.close()
        await writer.wait_closed()
        with pytest.raises(EOFError):
            await channel.receive()
        channel._writer.close()

    asyncio.run(run())
