"""Control: the operator's requests to one peer, as frames in and frames out.

Guarantee: each request gets exactly one answer, ``{"ok": true, …}`` or ``{"ok": false, "reason":
…}``; a transfer is answered when it is over, so that "ok" means that another peer leads.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from ha_scheduler.peer import wire

TRANSFER_TIMEOUT_S = 3.0  # a transfer takes two round trips; then something is wrong
TRANSFER_POLL_S = 0.005


class Controlled(Protocol):
    """What control asks of the daemon."""

    def status(self) -> dict[str, Any]: ...

    def history_entries(self) -> list[dict[str, Any]]: ...

    def leader_name(self) -> str | None: ...

    def leading(self) -> bool: ...

    def term(self) -> int: ...

    def transfer(self, to: str | None) -> str | None:
        """Begin a transfer; the reason why not, or None."""
        ...


class Control:
    """Answers control connections."""

    def __init__(self, daemon: Controlled) -> None:
        self._daemon = daemon

    async def serve(
        self, hello: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Answer one caller until it goes."""
        while True:
            request = await wire.read_dict(reader, wire.REQUEST_BYTES_MAX)
            writer.write(wire.pack(await self.answer(request)))
            await writer.drain()

    async def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request."""
        match request.get("op"):
            case "status":
                return {"ok": True, "status": self._daemon.status()}
            case "history":
                return {"ok": True, "history": self._daemon.history_entries()}
            case "transfer":
                return await self._transfer(request.get("to"))
            case op:
                return wire.refusal(f"there is no request {op!r}")

    async def _transfer(self, to: str | None) -> dict[str, Any]:
        daemon = self._daemon
        if not daemon.leading():
            leader = daemon.leader_name()
            reason = "this peer does not lead; " + (
                f"ask peer {leader}" if leader else "no leader is known, ask again in a moment"
            )
            return {**wire.refusal(reason), "leader": leader}
        reason = daemon.transfer(to) or ""
        if reason:
            return wire.refusal(reason)
        term, loop = daemon.term(), asyncio.get_running_loop()
        deadline = loop.time() + TRANSFER_TIMEOUT_S
        while loop.time() < deadline:
            leader = daemon.leader_name()
            if daemon.term() > term and leader is not None and not daemon.leading():
                return {"ok": True, "leader": leader, "term": daemon.term()}
            await asyncio.sleep(TRANSFER_POLL_S)
        return wire.refusal("the transfer was not completed in time; ask for the status")
