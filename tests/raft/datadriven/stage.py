"""Performs a play of etcd-io/raft with our core: one method per command.

With ``async-storage-writes`` the plays show messages to an append thread and an apply thread.
Our core has no such messages: a Ready has a number, and `persisted` and `applied_to` report
back. This stage translates: it shows each Ready as those messages, and turns the delivery of
their responses into the two calls.
"""

from __future__ import annotations

import random

from ha_scheduler.raft.config import Config
from ha_scheduler.raft.membership import ChangeKind, MembershipChange, decode_membership
from ha_scheduler.raft.messages import (
    Entry,
    EntryKind,
    HardState,
    Membership,
    Message,
    MessageKind,
    ServerState,
)
from ha_scheduler.raft.node import RawNode
from ha_scheduler.raft.ready import Ready
from tests.twins.log import MemoryLog

from . import describe
from .script import Step, list_of

UNLIMITED = 2**40
CHANGES = {"v": ChangeKind.ADD_VOTER, "l": ChangeKind.ADD_LEARNER, "r": ChangeKind.REMOVE}


class NotOurDesignError(Exception):
    """The play asks for what our core does not have."""


def etcd_sends_at_once(message: Message) -> bool:
    """With us these wait until the disk has their term; with etcd not, and its plays show that."""
    return message.kind in (MessageKind.VOTE, MessageKind.HEARTBEAT_RESPONSE)


class Actor:
    """A node of the play, its storage, and the work of its storage threads."""

    def __init__(self, config: Config, log: MemoryLog, *, threads: bool) -> None:
        self.config = config
        self.log = log
        self.threads = threads
        self.node = RawNode(config, log, random.Random(config.peer_id), applied=log.applied)
        self.append_work: list[describe.Local] = []
        self.apply_work: list[describe.Local] = []
        self.shown = (ServerState.FOLLOWER, 0)

    def persist(self, work: describe.Local) -> None:
        if work.snapshot is not None:
            self.log.install_snapshot(work.snapshot)
        if work.hard_state is not None:
            self.log.set_hard_state(work.hard_state)
        self.log.append(work.entries)

    def apply(self, entries: tuple[Entry, ...]) -> None:
        membership = self.log.initial_state()[1]
        for entry in entries:
            if entry.kind is EntryKind.CONF_CHANGE:
                membership = decode_membership(entry.data)[0]
        if entries:
            self.log.record_applied(entries[-1].index, membership)


class Stage:
    def __init__(self) -> None:
        self.actors: dict[int, Actor] = {}
        self.wire: list[Message | describe.Local] = []
        self.quiet = False

    def perform(self, step: Step) -> tuple[str, ...]:
        """The output of one command, in etcd's words."""
        lines = getattr(self, "do_" + step.command.replace("-", "_"))(step)
        for actor in self.actors.values():
            actor.node.check_invariants()
        quiet = self.quiet or step.named.get("log-level") == "none"
        return () if quiet else tuple(line.rstrip() for line in lines)

    # -- commands --------------------------------------------------------------------------

    def do_log_level(self, step: Step) -> list[str]:
        self.quiet = step.positional[0] == "none"
        return []

    def do_add_nodes(self, step: Step) -> list[str]:
        named = step.named
        voters = tuple(int(v) for v in list_of(named.get("voters", "()")))
        learners = tuple(int(v) for v in list_of(named.get("learners", "()")))
        index = int(named.get("index", "0"))
        threads = named.get("async-storage-writes") == "true"
        for _ in range(int(step.positional[0])):
            log = MemoryLog(Membership(voters, learners), index=index, term=1 if index else 0)
            log.set_hard_state(HardState(0, 0, index))
            config = Config(
                peer_id=len(self.actors) + 1,
                election_ticks=3,
                heartbeat_ticks=1,
                promotion_lag_ticks=12,
                disk_patience_ticks=60,
                pre_vote=named.get("prevote") == "true",
                check_quorum=named.get("checkquorum") == "true",
                prompt_step_down=False,
                max_append_bytes=UNLIMITED,
                max_inflight_messages=int(named.get("inflight", UNLIMITED)),
                max_inflight_bytes=UNLIMITED,
                apply_unpersisted=not threads,
            )
            self.actors[config.peer_id] = Actor(config, log, threads=threads)
        return []

    def do_campaign(self, step: Step) -> list[str]:
        self._actor(step).node.campaign()
        return []

    def do_propose(self, step: Step) -> list[str]:
        self._actor(step).node.propose(step.positional[1].encode())
        return []

    def do_propose_conf_change(self, step: Step) -> list[str]:
        """One change at a time: ``v3``, ``l3`` or ``r3``, which travels along as the context."""
        words = " ".join(step.input)
        if len(words.split()) != 1 or "transition" in step.named:
            raise NotOurDesignError(f"several changes in one, or a joint membership: {words}")
        version = "" if step.named.get("v1") == "true" else "V2"
        change = MembershipChange(
            CHANGES[words[0]], int(words[1:]), f"EntryConfChange{version} {words}".encode()
        )
        self._actor(step).node.propose_membership(change)
        return []

    def do_forget_leader(self, step: Step) -> list[str]:
        raise NotOurDesignError("no peer can be told to forget its leader")

    def do_compact(self, step: Step) -> list[str]:
        self._actor(step).log.compact(int(step.positional[1]))
        return self.do_raft_log(step)

    def do_raft_log(self, step: Step) -> list[str]:
        log = self._actor(step).log
        first, last = log.first_index(), log.last_index()
        if first > last:
            return [f"log is empty: first index={first}, last index={last}"]
        return [describe.entry(e) for e in log.entries(first, last + 1, UNLIMITED)]

    def do_status(self, step: Step) -> list[str]:
        return [describe.progress(view) for view in self._actor(step).node.progress()]

    def do_tick_heartbeat(self, step: Step) -> list[str]:
        return self._tick(step, self._actor(step).config.heartbeat_ticks)

    def do_tick_election(self, step: Step) -> list[str]:
        return self._tick(step, self._actor(step).config.election_ticks)

    def _tick(self, step: Step, count: int) -> list[str]:
        for _ in range(count):
            self._actor(step).node.tick()
        return []

    def do_set_randomized_election_timeout(self, step: Step) -> list[str]:
        self._actor(step).node._core._timeout = int(step.named["timeout"])
        return []

    def do_transfer_leadership(self, step: Step) -> list[str]:
        self.actors[int(step.named["from"])].node.transfer_leadership(int(step.named["to"]))
        return []

    def do_report_unreachable(self, step: Step) -> list[str]:
        self._actor(step).node.report_unreachable(int(step.positional[1]))
        return []

    def do_raft_state(self, step: Step) -> list[str]:
        lines = []
        for peer, actor in self.actors.items():
            node = actor.node
            part = "Voter" if peer in node.membership.voters else "Non-Voter"
            role = describe.ROLE_NAMES[node.role]
            lines.append(f"{peer}: {role} ({part}) Term:{node.term} Lead:{node.leader}")
        return lines

    def do_send_snapshot(self, step: Step) -> list[str]:
        """An operator ships a snapshot that the leader did not ask for."""
        source, to = map(int, step.positional)
        actor = self.actors[source]
        meta = actor.log.snapshot()
        message = Message(MessageKind.SNAPSHOT, to, source, actor.node.term, snapshot=meta, round=1)
        self.wire.append(message)
        return describe.message(message)

    def do_process_ready(self, step: Step) -> list[str]:
        return self._each(step, "handling Ready", self._process_ready)

    def do_process_append_thread(self, step: Step) -> list[str]:
        return self._each(step, "processing append thread", self._append_once)

    def do_process_apply_thread(self, step: Step) -> list[str]:
        return self._each(step, "processing apply thread", self._apply_once)

    def do_deliver_msgs(self, step: Step) -> list[str]:
        lines = []
        for peer in step.positional:
            lines.extend(self._deliver(int(peer), drop=False, only=step.named.get("type")))
        for peer in list_of(step.named.get("drop", "()")):
            lines.extend(self._deliver(int(peer), drop=True))
        return lines or ["no messages"]

    def do_stabilize(self, step: Step) -> list[str]:
        peers = [int(p) for p in step.positional] or list(self.actors)
        lines: list[str] = []
        while more := self._stabilize_once(peers):
            lines.extend(more)
        return lines

    # -- how they work ---------------------------------------------------------------------

    def _actor(self, step: Step) -> Actor:
        return self.actors[int(step.positional[0])]

    def _each(self, step: Step, title: str, action: object) -> list[str]:
        peers = [int(p) for p in step.positional]
        if len(peers) == 1:
            return action(peers[0])  # type: ignore[operator, no-any-return]
        lines = []
        for peer in peers:
            lines.append(f"> {peer} {title}")
            lines.extend(describe.indent(action(peer)))  # type: ignore[operator]
        return lines

    def _stabilize_once(self, peers: list[int]) -> list[str]:
        lines: list[str] = []

        def section(peer: int, title: str, body: list[str]) -> None:
            lines.append(f"> {peer} {title}")
            lines.extend(describe.indent(body))

        for peer in peers:
            if self.actors[peer].node.has_ready():
                section(peer, "handling Ready", self._process_ready(peer))
        for peer in peers:
            if any(self._recipient(m) == peer for m in self.wire):
                section(peer, "receiving messages", self._deliver(peer, drop=False))
        for title, work, action in (
            ("processing append thread", "append_work", self._append_once),
            ("processing apply thread", "apply_work", self._apply_once),
        ):
            for peer in peers:
                body: list[str] = []
                while getattr(self.actors[peer], work):
                    body.extend(action(peer))
                if body:
                    section(peer, title, body)
        return lines

    @staticmethod
    def _recipient(message: Message | describe.Local) -> int:
        return int(message.to)

    def _deliver(self, peer: int, *, drop: bool, only: str | None = None) -> list[str]:
        batch = [m for m in self.wire if self._recipient(m) == peer]
        if only is not None:
            batch = [m for m in batch if describe.name(m) == only]
        self.wire = [m for m in self.wire if not any(m is taken for taken in batch)]
        lines = []
        for message in batch:
            shown = describe.message(message)
            lines.extend(["dropped: " + shown[0], *shown[1:]] if drop else shown)
            if not drop:
                self._step(self.actors[peer], message)
        return lines

    def _step(self, actor: Actor, message: Message | describe.Local) -> None:
        if isinstance(message, Message):
            actor.node.step(message)
        elif message.name == "MsgStorageApplyResp":
            actor.node.applied_to(message.applied)
        else:
            actor.node.persisted(message.number)

    def _process_ready(self, peer: int) -> list[str]:
        actor = self.actors[peer]
        if not actor.node.has_ready():
            return ["<empty Ready>"]
        ready = actor.node.ready()
        messages: list[Message | describe.Local] = list(ready.messages)
        if actor.threads:
            messages.extend(m for m in ready.messages_after_persist if etcd_sends_at_once(m))
            self._hire_threads(actor, ready, messages)
        else:
            messages.extend(ready.messages_after_persist)
        lines = self._describe_ready(actor, ready, messages)
        if not actor.threads:
            self._finish(actor, ready)
        self.wire.extend(m for m in messages if not str(m.to).endswith("Thread"))
        return lines

    def _finish(self, actor: Actor, ready: Ready) -> None:
        actor.persist(
            describe.Local(
                "",
                "",
                "",
                hard_state=ready.hard_state,
                entries=ready.entries,
                snapshot=ready.snapshot,
            )
        )
        actor.apply(ready.committed)
        actor.node.persisted(ready.number)
        if ready.committed:
            actor.node.applied_to(ready.committed[-1].index)

    def _hire_threads(
        self, actor: Actor, ready: Ready, messages: list[Message | describe.Local]
    ) -> None:
        me = str(actor.config.peer_id)
        if ready.has_write or ready.messages_after_persist:
            work = describe.Local(
                "MsgStorageAppend",
                me,
                "AppendThread",
                hard_state=ready.hard_state,
                entries=ready.entries,
                snapshot=ready.snapshot,
                responses=self._append_responses(actor, ready),
            )
            actor.append_work.append(work)
            messages.append(work)
        if ready.committed:
            last = ready.committed[-1].index
            done = describe.Local(
                "MsgStorageApplyResp", "ApplyThread", me, entries=ready.committed, applied=last
            )
            apply = describe.Local(
                "MsgStorageApply", me, "ApplyThread", entries=ready.committed, responses=(done,)
            )
            actor.apply_work.append(apply)
            messages.append(apply)

    def _append_responses(self, actor: Actor, ready: Ready) -> tuple[Message | describe.Local, ...]:
        """To other peers, to itself (a vote, an acknowledgement), and to the unstable log."""
        node, number, me = actor.node, ready.number, str(actor.config.peer_id)
        responses: list[Message | describe.Local] = [
            m for m in ready.messages_after_persist if not etcd_sends_at_once(m)
        ]
        if node.role is ServerState.CANDIDATE and ready.must_sync and not ready.entries:
            responses.append(describe.Local("MsgVoteResp", me, me, term=node.term, number=number))
        if node.role is ServerState.LEADER and ready.entries:
            last = ready.entries[-1].index
            responses.append(
                describe.Local("MsgAppResp", me, me, term=node.term, index=last, number=number)
            )
        if node.durable_index < node.last_index or ready.snapshot is not None:
            responses.append(
                describe.Local(
                    "MsgStorageAppendResp",
                    "AppendThread",
                    me,
                    term=node.term,
                    log_term=node.entry_term(node.last_index),
                    index=node.last_index,
                    number=number,
                )
            )
        return tuple(responses)

    def _append_once(self, peer: int) -> list[str]:
        actor = self.actors[peer]
        work = actor.append_work.pop(0)
        actor.persist(work)
        return self._report(work)

    def _apply_once(self, peer: int) -> list[str]:
        actor = self.actors[peer]
        work = actor.apply_work.pop(0)
        actor.apply(work.entries)
        return self._report(work)

    def _report(self, work: describe.Local) -> list[str]:
        responses = work.responses
        self.wire.extend(responses)
        bare = describe.Local(
            work.name, work.source, work.to, hard_state=work.hard_state, entries=work.entries
        )
        lines = ["Processing:", *describe.message(bare), "Responses:"]
        for response in responses:
            lines.extend(describe.message(response))
        return lines

    def _describe_ready(
        self, actor: Actor, ready: Ready, messages: list[Message | describe.Local]
    ) -> list[str]:
        """etcd does not sync for a snapshot alone (its driver does); ours asks for it."""
        must_sync = ready.must_sync and (ready.snapshot is None or bool(ready.entries))
        lines = [f"Ready MustSync={'true' if must_sync else 'false'}:"]
        soft = ready.soft_state
        if soft is not None and (soft.role, soft.leader) != actor.shown:
            actor.shown = (soft.role, soft.leader)
            lines.append(f"Lead:{soft.leader} State:{describe.ROLE_NAMES[soft.role]}")
        if ready.hard_state is not None:
            lines.append(describe.hard_state(ready.hard_state))
        if ready.entries:
            lines.extend(["Entries:", *map(describe.entry, ready.entries)])
        if ready.snapshot is not None:
            lines.append(f"Snapshot {describe.snapshot(ready.snapshot)}")
        if ready.committed:
            lines.extend(["CommittedEntries:", *map(describe.entry, ready.committed)])
        if messages:
            lines.append("Messages:")
            for message in messages:
                lines.extend(describe.message(message))
        return lines
