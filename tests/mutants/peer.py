"""Seeded bugs of what keeps a leader from acting or answering when it is none, and of the ledger.

As those of the store (``store.py``). Each breaks one promise of lease, leadership, replica, feed,
fold, sessions, adoption, fencing or confirmations.
"""

from __future__ import annotations

from functools import partial

from .mutant import Mutant

_lease = partial(Mutant, module="lease.py", package="peer/consensus")
_leadership = partial(Mutant, module="leadership.py", package="peer/consensus")
_replica = partial(Mutant, module="replica.py", package="peer")
_feed = partial(Mutant, module="feed.py", package="peer/engine")
_sessions = partial(Mutant, module="sessions.py", package="ledger")
_fold = partial(Mutant, module="fold.py", package="ledger")
_adoption = partial(Mutant, module="adoption.py", package="engine/takeover")
_withheld = partial(Mutant, module="withheld.py", package="engine/takeover")
_engine = partial(Mutant, package="engine")

PEER_MUTANTS = (
    _lease(
        "the lease counts from the last message of a tick",
        before="elif message.kind in FROM_LEADER and message.tick not in self._sent_at:",
        after="elif message.kind in FROM_LEADER:",
    ),
    _lease(
        "an answer of another term proves contact",
        before="if message.kind not in _ANSWERS or message.term != self.term:",
        after="if message.kind not in _ANSWERS:",
    ),
    _lease(
        "whoever was told to campaign leaves the certainty here",
        before="        if self.closed:\n            return 0.0\n",
        after="",
    ),
    _lease(
        "a minority's contact is enough",
        before="contact = newest[len(newest) // 2]",
        after="contact = newest[(len(newest) - 1) // 2 - 1]",
    ),
    _replica(
        "the order to campaign leaves while the lease holds",
        before="            self.engine.revoke()  # once it has left, another may be elected\n",
        after="            pass\n",
    ),
    _replica(
        "the lease outlives a fatal error of the store",
        before="        self.engine.revoke()\n        self.vip.deposed()\n",
        after="        self.vip.deposed()\n",
    ),
    _replica(
        "a revocation that was decided is not done",
        before="            case RevokeLease():\n                self.engine.revoke()\n",
        after="            case RevokeLease():\n                pass\n",
    ),
    _leadership(
        "a lost leadership revokes nothing",
        before="effects: list[Effect] = [RevokeLease()] if self.leading else []",
        after="effects: list[Effect] = []",
    ),
    _leadership(
        "an engine is activated twice in a term",
        before="        if self._used_term == self.term:\n",
        after="        if False:\n",
    ),
    _feed(
        "a message that is due after a record comes before it",
        before="            self.cursor = entry.index\n            batch += self._due()\n",
        after="            batch += self._due()\n            self.cursor = entry.index\n",
    ),
    _sessions(
        "an answered request is unknown at the end of its range",
        before="return at % 2 == 1 or (at > 0 and self.bounds[at - 1] == sequence)",
        after="return at % 2 == 1",
    ),
    _sessions(
        "a request of a client that has left revives its session",
        before="        if self._clients.get(client) == session:\n",
        after="        if True:\n",
    ),
    _fold(
        "the answers of requests are forgotten",
        before="    Answered: lambda tables, index, record, data: sessions.answer_of(\n",
        after="    Answered: lambda tables, index, record, data: (lambda *_: None)(\n",
    ),
    _adoption(
        "a client hears of one of several late results",
        before="        step.tell_clients(told)\n",
        after="        step.client_msgs.update(told)\n",
    ),
    _withheld(
        "what a silent worker may have is run",
        before="return None if ts in self.withheld else super()",
        after="return super()",
    ),
    _withheld(
        "what was queued is given out at once",
        before='            if state == "queued" and ts.state == "no-worker":\n',
        after="            if False:\n",
    ),
    _engine(
        "a stream is written without the lease",
        "fencing.py",
        "        if not self._lease.valid():\n            await hold(self._lease)\n",
        "",
    ),
    _engine(
        "a handler that a library added runs without the lease",
        "requests.py",
        "        await hold(lease)\n        if not _caller_is_checked",
        "        if not _caller_is_checked",
    ),
    _engine(
        "an unknown request is answered as if it were done",
        "requests.py",
        "    return dict(refusal)\n",
        "    return None  # type: ignore[return-value]\n",
    ),
    _engine(
        "a read is answered by an earlier confirmation",
        "confirmations.py",
        "        self._next.append(on_confirmed)\n",
        "        (self._asked or self._next).append(on_confirmed)\n",
    ),
    _engine(
        "a read is told before it is confirmed",
        "confirmations.py",
        "        await confirm()\n        return result\n",
        "        return result\n",
    ),
)
