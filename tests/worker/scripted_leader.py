"""A leader that does exactly what a test says: the engine's side of the protocol on a real port.

It keeps what it was told and answers with what it was given. The real engine is in
``test_failover``; here one can be stale, deaf in the middle of a registration, or wrong.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import time
from typing import Any

from distributed import Security
from distributed.comm import CommClosedError
from distributed.core import Server, Status

from tests.deadlines import SCALE


class ScriptedLeader(Server):  # type: ignore[misc]
    """Takes workers and clients. Start with ``await leader``; ``leader.port`` is where."""

    def __init__(self, term: int = 1, name: str = "scripted") -> None:
        self.term = term
        self.name = name
        self.registrations: list[dict[str, Any]] = []
        self.answer: Callable[[dict[str, Any]], Any] = lambda message: None
        self.streams: list[Any] = []
        self.told: list[dict[str, Any]] = []  # by the streams, in order
        self.beats: list[dict[str, Any]] = []
        self.beat_status = "OK"
        self.welcome: dict[str, Any] = {}
        self.plugins: dict[str, bytes] = {}
        self.calls: list[str] = []
        super().__init__(
            handlers={
                "ha-register-worker": self.take_worker,
                "register-client": self.take_client,
                "heartbeat_worker": self.beat,
                "identity": self.identity,
                "echo": self.echo,
                "die_once": self.die_once,
                "who_has": self.die_once,
                "fail": self.fail,
            },
            deserialize=False,
        )

    async def open(self, port: int = 0, security: Security | None = None) -> ScriptedLeader:
        """``security``: for TLS, with the certificate that the leader shows."""
        if security is None:
            await self.listen(f"tcp://127.0.0.1:{port}")
        else:
            await self.listen(f"tls://127.0.0.1:{port}", **security.get_listen_args("scheduler"))
        self.status = Status.running
        return self

    def __await__(self) -> Any:
        async def itself() -> ScriptedLeader:
            return self

        return itself().__await__()

    def cell(self) -> dict[str, Any]:
        own = {"term": self.term, "cell": "test", "watch": [], "addresses": []}
        return {**own, "leader": self.name, **self.welcome}

    def identity(self, n_workers: int = -1) -> dict[str, Any]:
        return {"type": "Scheduler", "id": self.name, "address": self.address, "workers": {}}

    # ---- plain calls

    def echo(self, x: Any) -> Any:
        self.calls.append("echo")
        return x

    async def die_once(self, comm: Any, **kwargs: Any) -> Any:
        """Loses the connection at the first call, answers the next."""
        self.calls.append("die_once")
        if len(self.calls) == 1:
            comm.abort()
        return "done"

    def fail(self) -> None:
        self.calls.append("fail")
        raise OSError("of its own")

    # ---- workers

    async def take_worker(self, comm: Any, **message: Any) -> Any:
        self.registrations.append(message)
        answer = self.answer(message)
        if asyncio.iscoroutine(answer):
            answer = await answer
        if answer is None:
            answer = {
                "status": "OK",
                "time": time(),
                "heartbeat-interval": 0.1,
                "worker-plugins": self.plugins,
                "ha": self.cell(),
            }
        await comm.write(answer)
        if answer["status"] == "OK":
            await self.listen_to(comm)
        return Status.dont_reply

    def beat(self, **message: Any) -> dict[str, Any]:
        self.beats.append(message)
        return {"status": self.beat_status, "time": time(), "heartbeat-interval": 0.1}

    # ---- clients

    async def take_client(self, comm: Any, **message: Any) -> Any:
        await comm.write([{"op": "stream-start"}])
        await self.listen_to(comm)
        return Status.dont_reply

    async def listen_to(self, comm: Any) -> None:
        self.streams.append(comm)
        try:
            while True:
                for message in await comm.read():
                    self.told.append(message)
                    answer = self.answer(message)
                    if answer is not None:
                        await comm.write(answer)
                    elif message["op"] == "ha-hello":
                        await comm.write([{"op": "ha-welcome", **self.cell()}])
        except CommClosedError:
            pass

    # ---- for the test

    def said(self, op: str) -> list[dict[str, Any]]:
        return [message for message in self.told if message["op"] == op]

    def ops(self) -> list[str]:
        quiet = ("heartbeat-client", "keep-alive")
        return [message["op"] for message in self.told if message["op"] not in quiet]

    async def tell(self, *messages: dict[str, Any]) -> None:
        await self.streams[-1].write(list(messages))

    async def die(self) -> None:
        """No goodbye: every connection breaks, and the port refuses."""
        self.stop()
        for comm in list(self._comms):
            comm.abort()
        await self.rpc.close()
        self.monitor.close()


async def until(condition: Callable[[], Any], within_s: float = 5.0) -> Any:
    """The first true value of ``condition``."""
    async with asyncio.timeout(within_s * SCALE):
        while True:
            value = condition()
            if value:
                return value
            await asyncio.sleep(0.01)
