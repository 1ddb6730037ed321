"""Who may ask a scheduler for what, where that depends on more than the caller's role.

Guarantee: a call for a client is made by that client; what concerns the work of others is done for
an admin, and for a client only while no other subject has work here; a request that is passed on to
workers or nannies is one that its caller might make there, and goes to members of the cell alone.

The caller is that of the connection (``comm/calling.py``). On plaintext it is anybody, who may do
everything, as in plain Dask.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ha_scheduler.comm.calling import CALLER
from ha_scheduler.comm.permitted import denials
from ha_scheduler.engine.clients.quotas import check_prefix, is_off
from ha_scheduler.engine.clients.registration import Clients
from ha_scheduler.engine.holders import ANYBODY, Holder, holder_of
from ha_scheduler.protocol.client import SESSION
from ha_scheduler.protocol.codec import shown
from ha_scheduler.security.identity import ANYBODY_LOCAL, Identity, TokenRole
from ha_scheduler.security.permissions import (
    Operation,
    Surface,
    describe,
    is_admin,
    is_worker_alone,
    only_own,
    refusal,
)

#: What ends, or runs anew, the work of everybody.
OF_ALL = frozenset({"restart", "restart_workers", "terminate"})
#: The argument of a call that names tasks, which have to be the caller's own.
OF_TASKS = {"retry": "keys", "set_restrictions": "worker"}


#: What a worker says that retires itself, or its nanny for it.
OF_OWN_RETIREMENT = {"workers", "close_workers", "remove", "stimulus_id", "ha_call", "comm"}
#: The argument that names the worker for which a call is made.
OF_WORKERS = {"heartbeat_worker": "address", "unregister": "address", "add_keys": "worker"}
#: The argument with the keys of scattered data.
OF_KEYS = {"scatter": "data", "update_data": "who_has"}


class Rights(Clients):
    def check_caller(self, op: str, arguments: dict[str, Any]) -> None:
        """Raises ``PermissionError``, and takes the proof out of the arguments."""
        client, said = arguments.get("client"), arguments.pop(SESSION, None)
        session = self.session_of.get(client) if client is not None else None
        if session is not None and said != session:
            raise PermissionError(f"only {client} itself may make this call for {client}")
        identity = self._acting(op, CALLER.get(), said, arguments)
        if identity is ANYBODY_LOCAL and not (off := is_off(op)):
            return
        if identity is ANYBODY_LOCAL:
            raise PermissionError(off)
        try:
            self._check_rights(identity, op, arguments)
        except PermissionError as error:
            denials.note(identity, op, str(error))
            raise

    def _acting(
        self, op: str, identity: Identity, session: Any, arguments: Mapping[str, Any]
    ) -> Identity:
        """For whom the caller acts: a worker, where it has no right of its own, for the submitter
        of its tasks. Raises ``PermissionError``."""
        operation = Operation(Surface.REQUEST, op)
        if op in OF_WORKERS or not is_worker_alone(identity) or not only_own(identity, operation):
            return identity
        if op == "retire_workers" and self._are_own(identity, arguments):
            return identity
        named = {c for c, own in self.session_of.items() if own == session} if session else ()
        holders = {self.holders.get(client, ANYBODY) for client in named} or self._employers(
            identity
        )
        if len(holders) != 1:
            raise PermissionError(
                f"{op} is for the role client, and this is {describe(identity)}, which acts for "
                f"the submitter of a task that it runs; {len(holders)} subjects have tasks there"
            )
        (holder,) = holders
        acting = Identity(holder.subject, TokenRole.CLIENT, holder.scopes, identity.token_id)
        if reason := refusal(acting, operation, added=True):
            raise PermissionError(reason)
        return acting

    def _are_own(self, identity: Identity, arguments: Mapping[str, Any]) -> bool:
        """Whether a worker retires workers of its own subject, by their addresses: it ends."""
        named = arguments.get("workers")
        if arguments.keys() - OF_OWN_RETIREMENT or not isinstance(named, list | tuple | set):
            return False
        registered = [self.worker_callers.get(a) for a in named if isinstance(a, str)]
        return len(registered) == len(named) > 0 and all(
            by is not None and by.subject == identity.subject for by in registered
        )

    def _employers(self, identity: Identity) -> set[Holder]:
        """Whose tasks run on the workers of ``identity``."""
        own = [a for a, by in self.worker_callers.items() if by.subject == identity.subject]
        tasks = (ts for a in own if a in self.workers for ts in self.workers[a].processing)
        graphs = {self.graphs.maker_of(ts.key) for ts in tasks}
        return {self.holder_named(self.graphs.subjects.get(graph, "")) for graph in graphs}

    def _check_rights(self, identity: Identity, op: str, arguments: dict[str, Any]) -> None:
        client = arguments.get("client")
        if isinstance(client, str) and not self.speaks_for(identity, client):
            raise PermissionError(f"{op}: {client} is not of {describe(identity)}")
        if is_admin(identity):
            return
        if off := is_off(op):
            raise PermissionError(off)
        if op in OF_WORKERS:
            self._require_own_worker(identity, op, arguments.get(OF_WORKERS[op]))
        if op in OF_KEYS:
            check_prefix(holder_of(identity), arguments.get(OF_KEYS[op]) or ())
        operation = Operation(Surface.REQUEST, op)
        if op in OF_ALL and only_own(identity, operation):
            self._require_alone(identity, op)
        if op in OF_TASKS:
            self._require_own(identity, op, arguments.get(OF_TASKS[op]))
        if op in ("broadcast", "proxy"):
            self._check_inner(identity, op, arguments)

    def _require_alone(self, identity: Identity, op: str) -> None:
        others = {held.subject for held in self.holders.values()} - {"", identity.subject}
        if others:
            raise PermissionError(
                f"{op} would end the work of {len(others)} other subjects, and takes the role "
                f"admin; this is {describe(identity)}"
            )

    def _require_own(self, identity: Identity, op: str, keys: Any) -> None:
        listed = list(keys) if isinstance(keys, Collection) and not isinstance(keys, str) else []
        foreign = [key for key in listed if self.is_foreign_work(identity.subject, key)]
        if foreign:
            raise PermissionError(
                f"{op}: {shown(foreign[0])} is the work of another subject, which takes the role "
                f"admin; this is {describe(identity)}"
            )

    def _require_own_worker(self, identity: Identity, op: str, address: Any) -> None:
        registered = self.worker_callers.get(address) if isinstance(address, str) else None
        if registered is not None and registered.subject != identity.subject:
            raise PermissionError(
                f"{op}: the worker at {shown(address)} is not of {describe(identity)}"
            )

    def _check_inner(self, identity: Identity, op: str, arguments: Mapping[str, Any]) -> None:
        """What is passed on, and to whom."""
        message = arguments.get("msg")
        inner = message.get("op") if isinstance(message, dict) else None
        if not isinstance(inner, str):
            raise PermissionError(f"{op} passes on a message with an op, and not {shown(message)}")
        surface = Surface.NANNY if arguments.get("nanny") else Surface.WORKER
        reason = refusal(identity, Operation(surface, inner), added=True)
        if reason:
            raise PermissionError(f"{op}: {reason}")
        named = arguments.get("workers") if op == "broadcast" else [arguments.get("worker")]
        for address in named or ():
            if address not in self.workers:
                raise PermissionError(f"{op}: {shown(address)} is no worker of this cell")
