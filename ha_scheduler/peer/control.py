"""Control: the operator's requests to one peer, as frames in and frames out.

Guarantee: each request gets exactly one answer, ``{"ok": true, …}`` or ``{"ok": false, "reason":
…}``; a transfer is answered when it is over, so that "ok" means that another peer leads. A wish to
join or to remove is answered when the leader has taken it on: its end is in the status.

Anybody with a certificate of the cell may ask for the status and for a transfer. To change who
belongs to the cell takes a peer's certificate, and to join as peer c takes that of peer c.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any, Protocol

from ha_scheduler.errors import CertificateRefused
from ha_scheduler.ledger.records import PeerNamed
from ha_scheduler.peer import wire
from ha_scheduler.peer.membership import Refused
from ha_scheduler.peer.roster import from_wire
from ha_scheduler.security.tls import Role, name_of, role_of

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

    def founding_list(self) -> str: ...

    def join(self, disk: PeerNamed, replacing: bool | None) -> Refused | None:
        """Let a new disk in; a refusal, or None."""
        ...

    def remove(self, name: str) -> Refused | None:
        """Begin to remove a peer; a refusal, or None."""
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
            shown = writer.get_extra_info("ssl_object")
            writer.write(wire.pack(await self.answer(request, shown)))
            await writer.drain()

    async def answer(
        self, request: dict[str, Any], shown: ssl.SSLObject | None = None
    ) -> dict[str, Any]:
        """The answer to one request; ``shown``: the caller's certificate, None in plaintext."""
        match request.get("op"):
            case "status":
                return {"ok": True, "status": self._daemon.status()}
            case "history":
                return {"ok": True, "history": self._daemon.history_entries()}
            case "transfer":
                return await self._transfer(request.get("to"))
            case "cell":
                return {"ok": True, "founding": self._daemon.founding_list()}
            case "join":
                return self._join(request, shown)
            case "remove":
                return self._remove(request, shown)
            case op:
                return wire.refusal(f"there is no request {op!r}")

    async def _transfer(self, to: str | None) -> dict[str, Any]:
        daemon = self._daemon
        if not daemon.leading():
            return self._not_leading()
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

    def _not_leading(self) -> dict[str, Any]:
        leader = self._daemon.leader_name()
        reason = "this peer does not lead; " + (
            f"ask peer {leader}" if leader else "no leader is known, ask again in a moment"
        )
        return wire.refusal(reason, leader=leader)

    def _join(self, request: dict[str, Any], shown: ssl.SSLObject | None) -> dict[str, Any]:
        try:
            disk, replacing = from_wire(request), request.get("replacing")
        except (KeyError, TypeError, ValueError) as error:
            return wire.refusal(f"this is no wish to join: {error!r}")
        reason = _not_peer(shown, disk.name)
        if reason:
            return wire.refusal(reason)
        if not self._daemon.leading():
            return self._not_leading()
        return _taken(self._daemon.join(disk, None if replacing is None else bool(replacing)))

    def _remove(self, request: dict[str, Any], shown: ssl.SSLObject | None) -> dict[str, Any]:
        reason = _not_peer(shown, None)
        if reason:
            return wire.refusal(reason)
        if not self._daemon.leading():
            return self._not_leading()
        return _taken(self._daemon.remove(str(request.get("peer"))))


def _taken(refused: Refused | None) -> dict[str, Any]:
    if refused is None:
        return {"ok": True}
    return wire.refusal(refused.reason, passing=refused.passing)


def _not_peer(shown: ssl.SSLObject | None, name: str | None) -> str:
    """Why the caller may not do what takes the certificate of peer ``name``, or of any peer."""
    if shown is None:
        return ""  # plaintext on loopback, as the operator asked for
    try:
        role, holder = role_of(shown), name_of(shown)
    except CertificateRefused as error:
        return str(error)
    if role is not Role.PEER or name not in (None, holder):
        wanted = f"peer {name}" if name is not None else "a peer"
        return f"this takes the certificate of {wanted}, not that of {role} {holder}"
    return ""
