"""``Client.cancel``: idempotent, in order with the client's graphs, and told to all concerned.

Guarantee: a cancellation acts on the graphs that its client submitted before it and on none after
it, on whichever leader and however often it arrives. It is acknowledged when its releases have
committed. Every client whose futures it cancelled is told, with reason and message, even if the
leader dies first; what a client submitted since is not cancelled by that.

Order: notices to other clients enter the log before the releases, the answer after them. So a
leader's death in between leaves a cancellation to be retried, and never a future that stays pending
for want of a notice. A notice is deleted when its client has confirmed it (``ha-heard``).

What is cancelled is upstream's (scheduler.py:5758): a key that only the client wants, or any by
``force``, and its dependents alike; but ``force`` ends no futures of another subject, unless an
admin says so. Three defects of upstream's are avoided: an unwanted intermediate result is passed
through, where upstream fails an assertion and ends the client's stream; a long chain does not
exhaust the stack; many keys take no quadratic time.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from time import time
from typing import Any

from distributed.scheduler import ClientState, TaskState

from ha_scheduler import failpoints
from ha_scheduler.comm.calling import CALLER
from ha_scheduler.engine.clients.intents import Intents
from ha_scheduler.engine.stream.keys import Key
from ha_scheduler.engine.stream.tables import DELETED, Table
from ha_scheduler.protocol.client import AFTER, NUMBER, Heard
from ha_scheduler.security.permissions import is_admin

# Where upstream's own message is looked for.
logger = logging.getLogger("distributed.scheduler")

NOTICES = "cancelled"  # (client, number) → keys, after, reason, message


@dataclass(frozen=True, slots=True)
class Notice:
    """Futures of one client were cancelled, and it may not know yet.

    ``after``: graphs of the client above this sequence number were submitted later.
    """

    keys: tuple[Key, ...]
    after: int
    reason: str | None
    msg: str | None


class Cancellation(Intents):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._notices: dict[str, dict[int, Notice]] = {}  # by client and number
        self._notice_rows = self.tables.add(
            Table(NOTICES, apply=self._apply_notice, lead=self._restore_notices)
        )

    def _apply_notice(self, at: tuple[str, int], value: Any) -> None:
        client, number = at
        if value is not DELETED:
            self._notices.setdefault(client, {})[number] = Notice(*value)
        elif client in self._notices:
            self._notices[client].pop(number, None)

    def _restore_notices(self) -> None:
        """This engine leads: number its notices above all others; drop those of absent clients."""
        self._notice_numbers = itertools.count(self.term << 32)
        for client in [client for client in self._notices if client not in self.session_of]:
            self.drop_notices(client, self._notices[client])

    def stimulus_cancel(
        self,
        keys: Collection[Key],
        client: str,
        force: bool = False,
        reason: str | None = None,
        msg: str | None = None,
        ha_sequence: int = 0,
    ) -> None:
        """A client cancels keys; idempotent by (session, ``ha_sequence``)."""
        failpoints.reach("cancel-keys.arrived")
        if self.was_answered(client, ha_sequence):
            return
        self.pending_releases.give_way_to_all()
        logger.info("Client %s requests to cancel %d keys", client, len(keys))
        self.log_event(client, {"action": "cancel", "count": len(keys), "force": force})
        cs = self.clients.get(client)
        if cs is not None:
            self._cancel(keys, cs, force, reason, msg, ha_sequence)
        self.answer(client, ha_sequence, "cancel-keys")
        if self.recorder is not None:
            self.recorder.flush()
        failpoints.reach("cancel-keys.appended")

    def _cancel(
        self,
        keys: Collection[Key],
        cs: ClientState,
        force: bool,
        reason: str | None,
        msg: str | None,
        sequence: int,
    ) -> None:
        tasks = [self.tasks[key] for key in keys if key in self.tasks]
        mine = self._releasable(cs, force)
        chosen = _with_dependents(tasks, mine)
        if not chosen:
            return
        for ts in chosen:
            logger.info("Scheduler cancels key %s.  Force=%s", ts.key, force)
        released: dict[str, list[Key]] = {}
        for ts in chosen:
            for wanting in mine & (ts.who_wants or set()):
                released.setdefault(wanting.client_key, []).append(ts.key)
        numbers = self._give_notice(released, cs.client_key, set(keys), reason, msg, sequence)
        for client, theirs in released.items():
            stimulus_id = f"cancel-key-{time()}"
            self.client_releases_keys(keys=theirs, client=client, stimulus_id=stimulus_id)
        message: dict[str, Any] = {"op": "cancelled-keys", "keys": [ts.key for ts in chosen]}
        message |= {"reason": reason, "msg": msg}
        self._tell(message, numbers, {cs.client_key: sequence})

    def _releasable(self, cs: ClientState, force: bool) -> set[ClientState]:
        """Whose futures a cancellation by ``cs`` may end."""
        if not force:
            return {cs}
        subject = self.subject_of(cs.client_key)
        if not subject or is_admin(CALLER.get()):
            return set(self.clients.values())
        own = ("", subject)
        return {other for name, other in self.clients.items() if self.subject_of(name) in own}

    # Telling

    def _give_notice(
        self,
        released: dict[str, list[Key]],
        by: str,
        known: set[Key],
        reason: str | None,
        msg: str | None,
        sequence: int,
    ) -> dict[str, int]:
        """Record a notice for each client, except of keys that the canceller itself named."""
        numbers: dict[str, int] = {}
        changes = []
        for client, keys in released.items():
            news = tuple(key for key in keys if client != by or key not in known)
            if news and client in self.session_of:
                after = max(self._last_of(client), sequence if client == by else 0)
                notice = Notice(news, after, reason, msg)
                numbers[client] = number = next(self._notice_numbers)
                self._notices.setdefault(client, {})[number] = notice
                row = (news, after, reason, msg)
                changes.append(self._notice_rows.set((client, number), row))
        self.transactions.note(*changes)
        return numbers

    def _last_of(self, client: str) -> int:
        return self.sessions.last(self.session_of.get(client, ""))

    def _tell(
        self, message: dict[str, Any], numbers: dict[str, int], sequences: dict[str, int]
    ) -> None:
        """Tell every client, as upstream: one may want a key by a request still on its way."""
        for client, comm in list(self.client_comms.items()):
            if client in self._kept_for or comm.closed():
                continue  # it is about to state what it wants, and is told then
            told = message
            if client in self.session_of:
                after = max(self._last_of(client), sequences.get(client, 0))
                told = {**message, AFTER: after, NUMBER: numbers.get(client, 0)}
            comm.send(told)

    def tell_cancelled(self, client: str, wanted: set[Key]) -> set[Key]:
        """Tell a returning client which of these keys were cancelled; returns them."""
        cs = self.clients[client]
        cancelled: set[Key] = set()
        for number, notice in sorted(self._notices.get(client, {}).items()):
            # One that it wants here was asked for again since.
            again = {key for key in notice.keys if self.tasks.get(key) in cs.wants_what}
            keys = [key for key in notice.keys if key in wanted and key not in again]
            cancelled.update(keys)
            self.client_comms[client].send(
                {
                    "op": "cancelled-keys",
                    "keys": keys,
                    "reason": notice.reason,
                    "msg": notice.msg,
                    AFTER: notice.after,
                    NUMBER: number,
                }
            )
        return cancelled

    def ha_heard(self, client: str, message: Heard) -> None:
        self.drop_notices(client, message.numbers)

    def drop_notices(self, client: str, numbers: Iterable[int]) -> None:
        """The client has confirmed these notices."""
        kept = self._notices.get(client, {})
        gone = [number for number in numbers if number in kept]
        for number in gone:
            del kept[number]
        if not kept:
            self._notices.pop(client, None)
        self.transactions.note(*(self._notice_rows.delete((client, number)) for number in gone))

    def remove_client(self, client: str, stimulus_id: str | None = None) -> None:
        """As upstream's; there is nobody left to tell."""
        super().remove_client(client=client, stimulus_id=stimulus_id)
        if self.recorder is not None:
            self.drop_notices(client, list(self._notices.get(client, ())))


def _with_dependents(tasks: Iterable[TaskState], mine: set[ClientState]) -> list[Any]:
    """All tasks to cancel: those that nobody but ``mine`` wants, past unwanted ones."""
    passed: dict[Any, None] = {}
    stack = list(tasks)
    while stack:
        ts = stack.pop()
        if ts not in passed and not (ts.who_wants or set()) - mine:
            passed[ts] = None
            stack.extend(ts.dependents)
    return [ts for ts in passed if ts.who_wants]
