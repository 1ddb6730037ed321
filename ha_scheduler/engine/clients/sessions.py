"""The sessions of clients, as calls see them: to list, to detach, to attach and to cancel.

Guarantee: what a call says or does has committed when it is answered. A session is cancelled as a
whole: its client is told, at once or when it comes back, and what others want as well stays. A
session of another subject is an admin's alone to see and to cancel.
"""

from __future__ import annotations

from collections import Counter
from time import time
from typing import Any

from distributed.scheduler import ClientState

from ha_scheduler.comm.calling import CALLER
from ha_scheduler.engine.clients.registration import Clients
from ha_scheduler.engine.stream.keys import Key
from ha_scheduler.ledger.records import SessionAdvanced
from ha_scheduler.protocol.client import (
    AFTER,
    FIRE_AND_FORGET,
    NUMBER,
    PSEUDO_CLIENTS,
    CancelSession,
    Detach,
    ListSessions,
    SessionKeys,
)
from ha_scheduler.protocol.codec import tag_of
from ha_scheduler.security.identity import Identity
from ha_scheduler.security.permissions import is_admin

SHOWN_KEYS = 10  # of what a session waits for
CANCELLED = "session-cancelled"  # the reason for cancelled keys
_OUTCOMES = ("memory", "erred")


class SessionCalls(Clients):
    def session_calls(self) -> dict[str, Any]:
        """The handlers by operation."""
        return {
            tag_of(Detach): self.detach_client,
            tag_of(SessionKeys): self.session_keys,
            tag_of(ListSessions): self.list_sessions,
            tag_of(CancelSession): self.cancel_session,
        }

    async def detach_client(self, client: str) -> str:
        """The client goes without a goodbye; keep what it wants as if it had fallen silent."""
        self._absence.detached(client)
        await self.transactions.settled()
        return "OK"

    async def session_keys(self, client: str) -> dict[str, Any]:
        await self.transactions.settled()
        cs = self.clients.get(client)
        keys = [ts.key for ts in cs.wants_what] if cs is not None else []
        return {"keys": keys, "last": self.sessions.last(self.session_of.get(client, ""))}

    async def list_sessions(self, client: str) -> list[dict[str, Any]]:
        identity = CALLER.get()
        others = (
            cs
            for name, cs in self.clients.items()
            if not name.startswith(PSEUDO_CLIENTS) and self._may_see(identity, name)
        )
        forgotten = self.clients.get(FIRE_AND_FORGET)
        listed = [*others, *([forgotten] if forgotten is not None else ())]
        return [self._described(cs) for cs in listed]

    def _may_see(self, identity: Identity, client: str) -> bool:
        return is_admin(identity) or self.speaks_for(identity, client)

    def _described(self, cs: ClientState) -> dict[str, Any]:
        waiting = [ts for ts in cs.wants_what if ts.state not in _OUTCOMES]
        return {
            "name": cs.client_key,
            "connected": cs.client_key in self.client_comms,
            "last_seen": cs.last_seen,
            "keys": len(cs.wants_what),
            "waits_for": dict(Counter(ts.state for ts in waiting)),
            "first": [ts.key for ts in waiting[:SHOWN_KEYS]],
            "nbytes": sum(ts.nbytes for ts in cs.wants_what if ts.state == "memory"),
        }

    async def cancel_session(self, client: str, session: str) -> int:
        """Raises ``ValueError`` for a session that is not there, or is another subject's."""
        cs = self.clients.get(session) if self._may_see(CALLER.get(), session) else None
        if cs is None or (session.startswith(PSEUDO_CLIENTS) and session != FIRE_AND_FORGET):
            raise ValueError(f"the cell has no session {session!r}; see Client.sessions()")
        keys = [ts.key for ts in cs.wants_what]
        if session != FIRE_AND_FORGET:
            self._announce_cancellation(session, keys, by=client)
        self.client_releases_keys(keys=keys, client=session, stimulus_id=f"cancel-{time()}")
        # It changes nothing, and commits after the releases.
        own = self.session_of.get(client, "")
        self.record(SessionAdvanced(own, 0), self.transactions.mark())
        await self.transactions.settled()
        return len(keys)

    def _announce_cancellation(self, client: str, keys: list[Key], by: str) -> None:
        why = f"All that this client wanted was cancelled by {by} (Client.cancel_session)."
        numbers = self._give_notice({client: keys}, "", set(), CANCELLED, why, 0)
        if client in self.client_comms and client not in self._kept_for:
            message = {"op": "cancelled-keys", "keys": keys, "reason": CANCELLED, "msg": why}
            known = {AFTER: self._last_of(client), NUMBER: numbers.get(client, 0)}
            self.client_comms[client].send({**message, **known})
