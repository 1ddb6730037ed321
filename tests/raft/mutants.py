"""Seeded bugs: edits of the core's source that break one promise each.

They test the tests: `tests/mutants` applies each to a copy of the package and expects a test to
fail. An edit whose text is no longer found fails too: it must follow the source.
"""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    name: str
    module: str
    before: str
    after: str
    package: str = "raft"


MUTANTS = (
    Mutant("majority is half", "quorum.py", "count // 2 + 1", "(count + 1) // 2"),
    Mutant(
        "commit entries of older terms by counting",
        "leader.py",
        "index <= self._log.commit or self._log.term(index) != self.term",
        "index <= self._log.commit",
    ),
    Mutant(
        "vote twice in a term",
        "core.py",
        "free = self.vote == NO_PEER and",
        "free =",
    ),
    Mutant(
        "forget the vote in the hard state",
        "node.py",
        "HardState(self._core.term, self._core.vote, self._core.log.commit)",
        "HardState(self._core.term, 0, self._core.log.commit)",
    ),
    Mutant(
        "vote for any log",
        "core.py",
        "if not may or not self.log.is_up_to_date(message.index, message.log_term):",
        "if not may:",
    ),
    Mutant(
        "compare logs by length first",
        "log.py",
        "return (last_term, last_index) >= (self.last_term, self._last)",
        "return (last_index, last_term) >= (self._last, self.last_term)",
    ),
    Mutant(
        "count the own vote before it is durable",
        "core.py",
        "        self.vote = self.id\n",
        "        self.vote = self.id\n        self._votes[self.id] = True\n",
    ),
    Mutant(
        "let a candidacy leave before the disk",
        "outbox.py",
        "waits = early or message.kind",
        "waits = message.kind",
    ),
    Mutant(
        "let votes leave before the disk",
        "outbox.py",
        "{MessageKind.VOTE_RESPONSE, MessageKind.PRE_VOTE_RESPONSE, MessageKind.APPEND_RESPONSE}",
        "{MessageKind.PRE_VOTE_RESPONSE, MessageKind.APPEND_RESPONSE}",
    ),
    Mutant(
        "let acknowledgements leave before the disk",
        "outbox.py",
        "{MessageKind.VOTE_RESPONSE, MessageKind.PRE_VOTE_RESPONSE, MessageKind.APPEND_RESPONSE}",
        "{MessageKind.VOTE_RESPONSE, MessageKind.PRE_VOTE_RESPONSE}",
    ),
    Mutant(
        "count the leader's entries before they are durable",
        "replication.py",
        "own.accepted(self._log.durable_index)",
        "own.accepted(self._log.last_index)",
    ),
    Mutant(
        "skip the consistency check",
        "core.py",
        "elif not log.matches(message.index, message.log_term):",
        "elif message.index > log.last_index:",
    ),
    Mutant(
        "truncate without conflict",
        "core.py",
        "new = message.entries[self.log.conflict(message.entries) :]",
        "new = message.entries",
    ),
    Mutant(
        "commit beyond the last new entry",
        "core.py",
        "log.commit_to(min(message.commit, last_new))",
        "log.commit_to(min(message.commit, log.last_index))",
    ),
    Mutant(
        "heartbeat carries the commit index unbounded",
        "replication.py",
        "commit = min(progress.match, self._log.commit)",
        "commit = self._log.commit",
    ),
    Mutant(
        "a late write vouches for overwritten entries",
        "log.py",
        "            write.vouches_for = min(write.vouches_for, first - 1)\n",
        "            pass\n",
    ),
    Mutant(
        "apply what is not durable",
        "log.py",
        "return self.commit if self._apply_unpersisted else min(self.commit, self._offset - 1)",
        "return self.commit",
    ),
    Mutant(
        "take an old snapshot",
        "core.py",
        "if snapshot.index <= self.log.commit:",
        "if snapshot.index < 0:",
    ),
    Mutant(
        "a snapshot drops matching entries",
        "core.py",
        "if self.log.matches(snapshot.index, snapshot.term):",
        "if False:",
    ),
    Mutant(
        "apply entries while a snapshot is being installed",
        "log.py",
        "if self._snapshot is not None or self._applying_bytes",
        "if self._applying_bytes",
    ),
    Mutant(
        "two membership changes at a time",
        "leader.py",
        "if self._history.index > self._log.commit:",
        "if False:",
    ),
    Mutant(
        "change membership before committing in the own term",
        "leader.py",
        "if not self._committed_in_term:\n            raise",
        "if False:\n            raise",
    ),
    Mutant(
        "no rollback of a truncated membership",
        "core.py",
        "        self.history.truncate(new[0].index)\n",
        "",
    ),
    Mutant(
        "forget uncommitted memberships at a restart",
        "core.py",
        "            history.append(batch)\n",
        "",
    ),
    Mutant(
        "a removed leader stays",
        "leader.py",
        "return self._id not in voters and self._history.index <= self._log.commit",
        "return False",
    ),
    Mutant(
        "a removed leader leaves before the commit",
        "leader.py",
        "return self._id not in voters and self._history.index <= self._log.commit",
        "return self._id not in voters",
    ),
    Mutant(
        "a removed server never campaigns",
        "core.py",
        "return self.id in self.history.current.voters or self.id in committed.voters",
        "return self.id in self.history.current.voters",
    ),
    Mutant(
        "learners campaign",
        "core.py",
        "return self.id in self.history.current.voters or self.id in committed.voters",
        "return True",
    ),
    Mutant(
        "answer reads without a quorum",
        "replication.py",
        "return agreed_value(membership.voters, rounds)",
        "return self.round",
    ),
    Mutant(
        "older heartbeats confirm reads",
        "leader.py",
        "self._reads.place(self._log.commit, self.replication.round)",
        "self._reads.place(self._log.commit, self.replication.round - 1)",
    ),
    Mutant(
        "answer reads before committing in the own term",
        "leader.py",
        "        if self._committed_in_term:\n            self._reads.place",
        "        if True:\n            self._reads.place",
    ),
    Mutant(
        "contact from the time of the answer",
        "progress.py",
        "self.acked_tick = max(self.acked_tick, tick)",
        "self.acked_tick = max(self.acked_tick, tick) + 2",
    ),
    Mutant(
        "contact before anybody answered",
        "progress.py",
        "NEVER = -(2**62)",
        "NEVER = 0",
    ),
    Mutant(
        "lease from the newest message",
        "lease.py",
        "at = self._sent_at.get(message.tick)",
        "at = max(self._sent_at.values(), default=None)",
        "peer",
    ),
    Mutant(
        "lease before anybody answered",
        "lease.py",
        "self._heard.get(peer, 0.0) for peer in voters",
        "self._heard.get(peer, now) for peer in voters",
        "peer",
    ),
    Mutant(
        "lease while leadership is handed over",
        "lease.py",
        "return bool(self._given_away)",
        "return False",
        "peer",
    ),
    Mutant(
        "obey an old TIMEOUT_NOW",
        "core.py",
        "current = message.source == self.leader and message.tick >= self._leader_tick",
        "current = message.source == self.leader",
    ),
    Mutant(
        "obey a TIMEOUT_NOW for an earlier life",
        "core.py",
        "current and for_this_life and",
        "current and",
    ),
    Mutant(
        "hand over to a peer that lags",
        "leader.py",
        "if self.replication.progress[self.transferee].match != self._log.last_index:",
        "if False:",
    ),
    Mutant(
        "accept proposals while leadership is handed over",
        "leader.py",
        "if self.transferee != NO_PEER:\n            raise",
        "if False:\n            raise",
    ),
    Mutant(
        "never give up a transfer",
        "leader.py",
        "            self.transferee = NO_PEER  # 3.10",
        "            pass  # 3.10",
    ),
    Mutant(
        "vote while hearing a leader",
        "core.py",
        "if kind in RESPONSE_TO and self._bound and not message.force:",
        "if False:",
    ),
    Mutant(
        "a restart ends the promise",
        "core.py",
        "config.election_ticks if hard_state.term > 0 else 0",
        "0",
    ),
    Mutant(
        "a stray higher term ends the promise",
        "core.py",
        "and self.leader == NO_PEER and not bound",
        "and self.leader == NO_PEER",
    ),
    Mutant(
        "a pre-vote changes the term",
        "core.py",
        "            return True  # a question about a term nobody is in yet\n",
        "            self.become_follower(message.term, NO_PEER)\n            return True\n",
    ),
    Mutant(
        "a leader without quorum stays",
        "leader.py",
        "if self._config.check_quorum and not self._still_has_quorum():",
        "if False:",
    ),
    Mutant(
        "ignore a higher term",
        "core.py",
        "        if message.term > self.term:\n",
        "        if message.term > self.term and message.kind is not list(MessageKind)[5]:\n",
    ),
    Mutant(
        "unbounded pipeline",
        "progress.py",
        "            self.waiting = self.inflights.full\n",
        "",
    ),
    Mutant(
        "a leader with a stuck disk stays",
        "leader.py",
        "self._disk_stuck_for + 1 if lags and not moved else 0",
        "0",
    ),
    Mutant(
        "a leader with a slow disk goes",
        "leader.py",
        "self._disk_stuck_for + 1 if lags and not moved else 0",
        "self._disk_stuck_for + 1",
    ),
    Mutant(
        "what the own disk has not taken is not counted",
        "leader.py",
        "done = min(self._log.commit, self._log.durable_index)",
        "done = self._log.commit",
    ),
    Mutant(
        "a change leaves no majority that answers",
        "leader.py",
        "if self.replication.quorum_age(after) > limit:",
        "if False:",
    ),
    Mutant(
        "answers to an earlier member count for one that joins",
        "replication.py",
        "self.round += 1  # answers",
        "pass  # answers",
    ),
    Mutant(
        "a commit index lost in a crash is not made up for",
        "log.py",
        "commit = max(commit, applied)",
        "pass",
    ),
    Mutant(
        "no limit of uncommitted bytes",
        "leader.py",
        "if self._uncommitted and self._uncommitted_bytes + size > limit:",
        "if False:",
    ),
    Mutant(
        "next is not moved back by a rejection",
        "progress.py",
        "            self.next = max(min(index, hint + 1), self.match + 1)\n",
        "            pass\n",
    ),
    Mutant(
        "an old rejection moves a probe",
        "progress.py",
        "            if self.next - 1 != index:\n                return False\n",
        "",
    ),
    Mutant(
        "a failed snapshot is never tried again",
        "replication.py",
        "        progress.become_probe()\n        progress.waiting = True\n",
        "        return\n",
    ),
    Mutant(
        "an answer to an older leadership moves progress",
        "replication.py",
        "if message.round < progress.since_round:",
        "if False:",
    ),
    Mutant(
        "no no-op at the election",
        "core.py",
        "        self.lead.start()\n",
        "",
    ),
    Mutant(
        "a truncation keeps one entry too many",
        "log.py",
        "            del self._tail[first - self._offset :]\n",
        "            del self._tail[first - self._offset + 1 :]\n",
    ),
    Mutant(
        "a snapshot on its way counts as durable",
        "log.py",
        "return 0 if self._snapshot is not None else self._offset - 1",
        "return self._offset - 1",
    ),
    Mutant(
        "a refusal skips a term too much",
        "log.py",
        "found = floor - 1 + bisect_right(range(floor, index + 1), term, key=self.term)",
        "found = floor - 1 + bisect_right(range(floor, index + 1), term - 1, key=self.term)",
    ),
    Mutant(
        "lease as long as the promise",
        "lease.py",
        "MARGIN_TICKS = 2",
        "MARGIN_TICKS = -1",
        "peer",
    ),
    Mutant(
        "lease of a minority",
        "lease.py",
        "contact = newest[len(newest) // 2]",
        "contact = newest[(len(newest) - 1) // 2]",
        "peer",
    ),
    Mutant(
        "learners count for commitment",
        "replication.py",
        "return agreed_value(membership.voters, matched)",
        "return agreed_value(membership.peers, matched)",
    ),
    Mutant(
        "learners count for the quorum that a leader hears",
        "replication.py",
        "return self.now - agreed_value(membership.voters, sent)",
        "return self.now - agreed_value(membership.peers, sent)",
    ),
    Mutant(
        "a learner that lags becomes a voter",
        "leader.py",
        "if progress.match < self._log_ends[0]:",
        "if False:",
    ),
    Mutant(
        "a snapshot does not bring its membership",
        "core.py",
        "        self.history.restart(snapshot.index, snapshot.membership)\n",
        "",
    ),
    Mutant(
        "a snapshot is sent to whoever is silent",
        "replication.py",
        "if not progress.recently_active:",
        "if False:",
    ),
    Mutant(
        "a heartbeat's answer does not end a pause",
        "replication.py",
        "        progress.waiting = False\n        if progress.match",
        "        if progress.match",
    ),
    Mutant(
        "a lost link does not stop the pipeline",
        "replication.py",
        "        if progress.state is ProgressState.REPLICATE:\n"
        "            progress.become_probe()\n\n",
        "        return\n\n",
    ),
    Mutant(
        "priority does not count",
        "core.py",
        "return timeouts * self.config.election_ticks",
        "return 0",
    ),
    Mutant(
        "an own vote of an older term counts",
        "core.py",
        "if self.role is ServerState.CANDIDATE and self.term == term:",
        "if self.role is ServerState.CANDIDATE:",
    ),
    Mutant(
        "believe any term",
        "terms.py",
        "return min(known + self._config.max_term_jump, MAX_TERM)",
        "return MAX_TERM",
    ),
    Mutant(
        "the own term counts for a jump though one voter gave it",
        "terms.py",
        "self._own: self._terms[0]}",
        "self._own: self._terms[-1]}",
    ),
    Mutant(
        "jumps are not counted over an election timeout",
        "terms.py",
        "known = max(self._terms[0],",
        "known = max(self._terms[-1],",
    ),
    Mutant(
        "one voter confirms a term",
        "terms.py",
        "agreed_value(membership.voters, said)",
        "max(said.values())",
    ),
    Mutant(
        "nobody is asked about a term",
        "core.py",
        "if self.limit.doubt(message):",
        "if self.limit.doubt(message) and False:",
    ),
    Mutant(
        "a claim that stays is never gone towards",
        "core.py",
        "if lost and known and step > self.term and self.limit.stays(message.source):",
        "if False:",
    ),
    Mutant(
        "one stray message is gone towards",
        "core.py",
        "if lost and known and step > self.term and self.limit.stays(message.source):",
        "if lost and known and step > self.term:",
    ),
)
