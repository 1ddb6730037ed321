"""Performs a play: one method per command. After each the invariants of every peer are checked.

Nothing happens by itself: time passes, disks finish and messages arrive when the play says so.
The trace tells what became visible: messages as they arrive or are lost, who leads, what commits,
what is applied. A command behind ``quietly`` happens all the same, without a trace.

==============================  ==================================================================
peers 1 2 3 [voters=1,2] [k=v]  begin with these; ``k=v`` are fields of `Config`
timeouts 1=10 2=15              ticks until a peer campaigns (before ``peers``)
log 1 terms=1,1,2 term=2        a peer's log as a figure shows it (and ``vote``, ``commit``)
campaign, step-down 1           what an operator may call
propose 1 a b                   on a peer; ``big*20`` proposes 20 bytes
change 1 add-voter 4            also add-learner, remove
transfer 1 3                    leadership, from 1 to 3
read 1 r                        a read index with the context r
tick 1 5                        time of one peer passes, nothing else moves
pass 5 [1 2]                    time of all (of some) passes, and all messages flow
settle [1 2]                    disks finish, messages arrive, until nothing is left to do (among
                                these peers, while the others stand still)
work 1                          one peer does all it has to; messages wait on the wire
take 1                          it hands out one Ready: its write is under way, messages leave
fsync 1                         the oldest write is durable, and the peer knows
disk 1                          the oldest write is durable, the peer does not know yet
stick 1, unstick 1              its disk finishes nothing meanwhile
crash 1, start 1                writes under way are lost; begin again with what the disk has
deliver [1->2] [append]         what is on the wire (of one link, of one kind); ``last`` or
                                ``first`` narrows it to one message
drop, copy                      likewise: it is lost; it will arrive twice
hold [1->2] [append], release   the network keeps them until they are delivered by name
cut 1->2, isolate, deafen,      links that lose everything
mute 1, heal
set-electable 1 no              whether a peer should lead
keep-no-ledger 1                it has no snapshot to give, like a witness
compact 1 3                     drop the log up to and including an entry
unreachable 1 2                 the transport tells 1 that its link to 2 broke
snapshot-sent 1 2 ok            the transport tells 1 that 2 has its snapshot (or ``failed``)
show [1], members, progress 1   what a peer knows
==============================  ==================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields

from ha_scheduler.raft.config import Config
from ha_scheduler.raft.errors import CallerError, LogReadError, PeerError
from ha_scheduler.raft.membership import ChangeKind, MembershipChange
from ha_scheduler.raft.messages import Entry, HardState, Membership, Message, ServerState
from tests.twins.log import MemoryLog

from ..harness import log_of
from . import describe
from .actor import Actor, Timeouts
from .script import Step
from .wire import Wire

SETTLE_LIMIT = 1000
CHANGES = {
    "add-voter": ChangeKind.ADD_VOTER,
    "add-learner": ChangeKind.ADD_LEARNER,
    "remove": ChangeKind.REMOVE,
}


def _setting(name: str, text: str) -> object:
    assert name in {field.name for field in fields(Config)}, f"Config has no {name}"
    return {"yes": True, "no": False}[text] if text in ("yes", "no") else int(text)


class Stage:
    def __init__(self) -> None:
        self.actors: dict[int, Actor] = {}
        self.wire = Wire()
        self._timeouts: dict[int, int] = {}
        self._settings: dict[str, object] = {}
        self._trace: list[str] = []
        self._known: dict[int, tuple[str, int]] = {}  # what the trace last said of a peer
        self._leader_of: dict[int, int] = {}
        self._applied: dict[int, Entry] = {}

    def perform(self, step: Step) -> tuple[str, ...]:
        """The trace of one command."""
        words = step.command.split()
        quiet = words[0] == "quietly"
        name, *arguments = words[1:] if quiet else words
        self._trace = []
        try:
            getattr(self, "do_" + name.replace("-", "_"))(*arguments)
        except CallerError as error:
            self._say(f"refused, {type(error).__name__}: {error}")
        except Exception as error:
            error.add_note(f"line {step.line}: {step.command}")
            raise
        for actor in self.actors.values():
            self._look(actor)
        return () if quiet else tuple(self._trace)

    # -- the beginning ---------------------------------------------------------------------

    def do_timeouts(self, *choices: str) -> None:
        for choice in choices:
            peer, _, ticks = choice.partition("=")
            self._timeouts[int(peer)] = int(ticks)

    def do_peers(self, *words: str) -> None:
        named = dict(word.split("=") for word in words if "=" in word)
        peers = [int(word) for word in words if "=" not in word]
        voters, learners = (
            tuple(int(peer) for peer in named.pop(name, default).split(",") if peer)
            for name, default in (("voters", ",".join(map(str, peers))), ("learners", ""))
        )
        self._settings |= {name: _setting(name, text) for name, text in named.items()}
        for peer in peers:
            self._enter(peer, MemoryLog(Membership(voters, learners)))

    def do_log(self, peer: str, *words: str) -> None:
        named = dict(word.split("=") for word in words)
        actor = self.actors[int(peer)]
        terms = [int(term) for term in named.get("terms", "").split(",") if term]
        term = int(named.get("term", terms[-1] if terms else 0))
        log = log_of(terms, actor.log.snapshot().membership, term)
        log.set_hard_state(HardState(term, int(named.get("vote", 0)), int(named.get("commit", 0))))
        self._enter(actor.id, log)

    def _enter(self, peer: int, log: MemoryLog) -> None:
        actor = Actor(peer, log, Timeouts(peer, self._timeouts), self._settings)
        self.actors = dict(sorted({**self.actors, peer: actor}.items()))
        node = actor.node
        self._known[peer] = (describe.standing(node), node.commit)

    # -- what is asked of a peer -----------------------------------------------------------

    def do_campaign(self, peer: str) -> None:
        self.actors[int(peer)].node.campaign()

    def do_step_down(self, peer: str) -> None:
        self.actors[int(peer)].node.step_down()

    def do_propose(self, peer: str, *data: str) -> None:
        batch = []
        for word in data:
            text, _, times = word.partition("*")
            batch.append((text * int(times or 1)).encode())
        self.actors[int(peer)].node.propose_batch(batch)

    def do_change(self, peer: str, kind: str, target: str) -> None:
        self.actors[int(peer)].node.propose_membership(MembershipChange(CHANGES[kind], int(target)))

    def do_transfer(self, peer: str, to: str) -> None:
        self.actors[int(peer)].node.transfer_leadership(int(to))

    def do_read(self, peer: str, context: str) -> None:
        self.actors[int(peer)].node.read_index(context.encode())

    def do_unreachable(self, peer: str, other: str) -> None:
        self.actors[int(peer)].node.report_unreachable(int(other))

    def do_snapshot_sent(self, peer: str, to: str, outcome: str) -> None:
        self.actors[int(peer)].node.report_snapshot(int(to), outcome == "ok")

    def do_set_electable(self, peer: str, value: str) -> None:
        self.actors[int(peer)].node.electable = value == "yes"

    def do_keep_no_ledger(self, peer: str) -> None:
        """As a witness: its log serves whoever needs it, a snapshot it cannot give."""
        log = self.actors[int(peer)].log
        log.snapshot = lambda: None  # type: ignore[method-assign]

    def do_compact(self, peer: str, index: str) -> None:
        self.actors[int(peer)].log.compact(int(index))

    # -- time ------------------------------------------------------------------------------

    def do_tick(self, peer: str, count: str = "1") -> None:
        for _ in range(int(count)):
            self._tick(self.actors[int(peer)])

    def do_pass(self, count: str, *peers: str) -> None:
        chosen = [self.actors[int(peer)] for peer in peers] or list(self.actors.values())
        for _ in range(int(count)):
            for actor in chosen:
                self._tick(actor)
            self.do_settle()

    def _tick(self, actor: Actor) -> None:
        if actor.up:
            actor.tick()
            self._look(actor)

    # -- disks -----------------------------------------------------------------------------

    def do_work(self, peer: str) -> None:
        self._work(self.actors[int(peer)])

    def do_take(self, peer: str) -> None:
        actor = self.actors[int(peer)]
        if not actor.node.has_ready():
            self._say(f"{peer} has nothing to do")
            return
        ready = actor.take()
        self._say(f"{peer} begins to write: {describe.writes(ready)}")
        self._leave(ready.messages)
        self._say_reads(actor)

    def do_fsync(self, peer: str) -> None:
        actor = self.actors[int(peer)]
        self.do_disk(peer)
        messages = actor.complete()
        self._look(actor)
        self._leave(messages)

    def do_disk(self, peer: str) -> None:
        actor = self.actors[int(peer)]
        ready = actor.reach_disk()
        self._say(f"{peer} has durably: {describe.writes(ready)}")
        self._say_applied(actor, ready.committed)

    def do_stick(self, peer: str) -> None:
        self.actors[int(peer)].stuck = True

    def do_unstick(self, peer: str) -> None:
        self.actors[int(peer)].stuck = False

    def do_crash(self, peer: str) -> None:
        lost = self.actors[int(peer)].crash()
        self._say(f"{peer} crashes")
        for ready in lost:
            self._say(f"{peer} loses: {describe.writes(ready)}")

    def do_start(self, peer: str) -> None:
        actor = self.actors[int(peer)]
        actor.start()
        self._known[actor.id] = (describe.standing(actor.node), actor.node.commit)
        self._say(describe.state(actor))

    def _leave(self, messages: Iterable[Message]) -> None:
        for message in messages:
            self._say(f"leaves: {describe.message(message)}")
            self.wire.send([message])

    def _work(self, actor: Actor) -> bool:
        """Carry out all there is. Returns whether there was anything."""
        busy = False
        while actor.up and (actor.node.has_ready() or actor.has_finished_writes):
            busy = True
            if actor.node.has_ready():
                self.wire.send(actor.take().messages)
                self._say_reads(actor)
            while actor.in_flight and not actor.stuck:
                self._say_applied(actor, actor.reach_disk().committed)
            self.wire.send(actor.complete())
            self._look(actor)
        return busy

    # -- the network -----------------------------------------------------------------------

    def do_settle(self, *peers: str) -> None:
        among = {int(peer) for peer in peers} or set(self.actors)
        for _ in range(SETTLE_LIMIT):
            busy = [self._work(self.actors[peer]) for peer in sorted(among)]
            batch = self.wire.take_all(among if peers else None)
            for message in batch:
                self._arrive(message)
            if not batch and not any(busy):
                return
        raise AssertionError("the cell does not come to rest")

    def do_deliver(self, *words: str) -> None:
        for message in self.wire.take(words):
            self._arrive(message)

    def do_drop(self, *words: str) -> None:
        for message in self.wire.take(words):
            self._say(f"lost: {describe.message(message)}")

    def do_copy(self, *words: str) -> None:
        self.wire.copy(words)

    def _arrive(self, message: Message) -> None:
        actor = self.actors.get(message.to)
        if self.wire.loses(message) or actor is None or not actor.up:
            self._say(f"lost: {describe.message(message)}")
            return
        self._say(describe.message(message))
        try:
            actor.step(message)
        except PeerError as error:
            self._say(f"{actor.id} drops it, {type(error).__name__}: {error}")
        except LogReadError as error:
            self._say(f"{actor.id} stops for good, {type(error).__name__}: {error}")
            actor.crash()
            return
        self._look(actor)

    def do_hold(self, *words: str) -> None:
        self.wire.hold(words)

    def do_release(self) -> None:
        self.wire.release()

    def do_cut(self, *links: str) -> None:
        ends = (link.split("->") for link in links)
        self.wire.cut((int(source), int(to)) for source, to in ends)

    def do_isolate(self, *peers: str) -> None:
        self.do_deafen(*peers)
        self.do_mute(*peers)

    def do_deafen(self, *peers: str) -> None:
        self.wire.cut((other, int(peer)) for peer in peers for other in self.actors)

    def do_mute(self, *peers: str) -> None:
        self.wire.cut((int(peer), other) for peer in peers for other in self.actors)

    def do_heal(self) -> None:
        self.wire.heal()

    # -- what is seen ----------------------------------------------------------------------

    def do_show(self, *peers: str) -> None:
        self._each(peers, describe.state)

    def do_members(self, *peers: str) -> None:
        self._each(peers, lambda actor: f"{actor.id}: {describe.members(actor.node.membership)}")

    def do_progress(self, peer: str) -> None:
        for view in self.actors[int(peer)].node.progress():
            if view.peer != int(peer):
                self._say(describe.progress(view))

    def _each(self, peers: tuple[str, ...], words: Callable[[Actor], str]) -> None:
        for peer in map(int, peers or map(str, self.actors)):
            actor = self.actors[peer]
            self._say(words(actor) if actor.up else f"{peer} is down")

    def _say(self, text: str) -> None:
        self._trace.append(text)

    def _say_applied(self, actor: Actor, committed: tuple[Entry, ...]) -> None:
        if committed:
            self._say(f"{actor.id} applies {describe.entries(committed)}")
        for entry in committed:
            known = self._applied.setdefault(entry.index, entry)
            assert known == entry, f"{actor.id} applies {entry}, another peer applied {known}"

    def _say_reads(self, actor: Actor) -> None:
        for state in actor.reads:
            self._say(f"{actor.id} may answer {state.context.decode()} at {state.index}")
        actor.reads.clear()

    def _look(self, actor: Actor) -> None:
        """Check a peer, and tell what has changed."""
        if not actor.up:
            return
        node = actor.node
        node.check_invariants()
        if node.role is ServerState.LEADER:
            leader = self._leader_of.setdefault(node.term, node.peer_id)
            assert leader == node.peer_id, f"{leader} and {node.peer_id} lead term {node.term}"
        standing, commit = self._known[actor.id]
        self._known[actor.id] = (describe.standing(node), node.commit)
        if describe.standing(node) != standing:
            self._say(describe.standing(node))
        if node.commit != commit:
            self._say(f"{actor.id} commits {node.commit}")
