"""One core without a cell around it: what tests step it with, and what they answer it."""

from __future__ import annotations

import random

from ha_scheduler.raft.config import Config
from ha_scheduler.raft.messages import (
    Entry,
    EntryKind,
    Membership,
    Message,
    MessageKind,
    ServerState,
)
from ha_scheduler.raft.node import RawNode
from ha_scheduler.raft.ready import Ready
from tests.twins.log import MemoryLog

from .harness import TICKS

THREE = Membership((1, 2, 3))
FIVE = Membership((1, 2, 3, 4, 5))


def node_of(
    peer_id: int = 1, log: MemoryLog | None = None, seed: int = 1, **settings: object
) -> RawNode:
    config = Config(peer_id=peer_id, **{**TICKS, **settings})  # type: ignore[arg-type]
    return RawNode(config, log or MemoryLog(THREE), random.Random(seed))


def entry(term: int, index: int, data: bytes = b"x") -> Entry:
    return Entry(term, index, EntryKind.NORMAL, data)


def follower(log: MemoryLog, **settings: object) -> RawNode:
    return node_of(log=log, **settings)


def append(term: int, index: int, log_term: int, *entries: Entry, commit: int = 0) -> Message:
    return Message(
        MessageKind.APPEND,
        1,
        2,
        term,
        log_term=log_term,
        index=index,
        commit=commit,
        entries=entries,
        round=1,
    )


def leader_of(log: MemoryLog, **settings: object) -> RawNode:
    """Peer 1, elected, its no-op not yet handed out."""
    node = follower(log, pre_vote=False, **settings)
    node.campaign()
    node.persisted(node.ready().number)
    for peer in node.membership.voters[1:]:
        node.step(Message(MessageKind.VOTE_RESPONSE, 1, peer, node.term))
    assert node.role is ServerState.LEADER
    return node


def accept(node: RawNode, peer: int, index: int, **more: object) -> None:
    node.step(
        Message(MessageKind.APPEND_RESPONSE, 1, peer, node.term, index=index, round=1, **more)
    )  # type: ignore[arg-type]


def persist(log: MemoryLog, node: RawNode, ready: Ready) -> None:
    if ready.hard_state is not None:
        log.set_hard_state(ready.hard_state)
    log.append(ready.entries)
    node.persisted(ready.number)


def vote(source: int, term: int, index: int = 0, log_term: int = 0, **more: object) -> Message:
    return Message(MessageKind.VOTE, 1, source, term, index=index, log_term=log_term, **more)  # type: ignore[arg-type]


def answers(node: RawNode) -> list[tuple[int, bool]]:
    """(recipient, rejected) of the votes that leave once the disk is done."""
    ready = node.ready()
    node.persisted(ready.number)
    return [(m.to, m.reject) for m in ready.messages_after_persist]
