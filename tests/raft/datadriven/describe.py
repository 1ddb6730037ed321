"""Our values in the words of etcd's plays, so that outputs can be compared as text."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field

from ha_scheduler.raft.membership import decode_membership
from ha_scheduler.raft.messages import (
    Entry,
    EntryKind,
    HardState,
    Message,
    MessageKind,
    ServerState,
    SnapshotMeta,
)
from ha_scheduler.raft.progress import ProgressState, ProgressView

MESSAGE_NAMES = {
    MessageKind.VOTE: "MsgVote",
    MessageKind.VOTE_RESPONSE: "MsgVoteResp",
    MessageKind.PRE_VOTE: "MsgPreVote",
    MessageKind.PRE_VOTE_RESPONSE: "MsgPreVoteResp",
    MessageKind.APPEND: "MsgApp",
    MessageKind.APPEND_RESPONSE: "MsgAppResp",
    MessageKind.HEARTBEAT: "MsgHeartbeat",
    MessageKind.HEARTBEAT_RESPONSE: "MsgHeartbeatResp",
    MessageKind.SNAPSHOT: "MsgSnap",
    MessageKind.TIMEOUT_NOW: "MsgTimeoutNow",
}

ROLE_NAMES = {
    ServerState.FOLLOWER: "StateFollower",
    ServerState.PRE_CANDIDATE: "StatePreCandidate",
    ServerState.CANDIDATE: "StateCandidate",
    ServerState.LEADER: "StateLeader",
}

PROGRESS_NAMES = {
    ProgressState.PROBE: "StateProbe",
    ProgressState.REPLICATE: "StateReplicate",
    ProgressState.SNAPSHOT: "StateSnapshot",
}


@dataclass(frozen=True)
class Local:
    """etcd's messages between a node and its storage threads; our core has numbers instead."""

    name: str
    source: str
    to: str
    term: int = 0
    log_term: int = 0
    index: int = 0
    hard_state: HardState | None = None
    entries: tuple[Entry, ...] = ()
    snapshot: SnapshotMeta | None = None
    responses: tuple[Local | Message, ...] = field(default=())
    #: The Ready this belongs to, and the index that it reports as applied.
    number: int = 0
    applied: int = 0


def entry(value: Entry) -> str:
    if value.kind is EntryKind.CONF_CHANGE:
        words = decode_membership(value.data)[1].decode()  # as the play named the change
        return f"{value.term}/{value.index} {words}"
    return f"{value.term}/{value.index} EntryNormal {json.dumps(value.data.decode())}"


def hard_state(value: HardState) -> str:
    vote = f" Vote:{value.vote}" if value.vote else ""
    return f"HardState Term:{value.term}{vote} Commit:{value.commit}"


def snapshot(value: SnapshotMeta) -> str:
    voters, learners = (
        " ".join(map(str, peers)) for peers in (value.membership.voters, value.membership.learners)
    )
    return (
        f"Index:{value.index} Term:{value.term} ConfState:Voters:[{voters}] VotersOutgoing:[] "
        f"Learners:[{learners}] LearnersNext:[] AutoLeave:false"
    )


def _entries(values: tuple[Entry, ...]) -> list[str]:
    if not values:
        return [""]
    if len(values) == 1:
        return [f" Entries:[{entry(values[0])}]"]
    return [" Entries:[", *indent(entry(value) for value in values), "]"]


def name(value: Message | Local) -> str:
    return value.name if isinstance(value, Local) else MESSAGE_NAMES[value.kind]


def message(value: Message | Local) -> list[str]:
    if isinstance(value, Local):
        return _local(value)
    head = f"{value.source}->{value.to} {MESSAGE_NAMES[value.kind]} Term:{value.term}"
    head += f" Log:{value.log_term}/{value.index}"
    if value.reject:
        head += f" Rejected (Hint: {value.reject_hint})"
    if value.commit:
        head += f" Commit:{value.commit}"
    first, *rest = _entries(value.entries)
    lines = [head + first, *rest]
    if value.snapshot is not None:
        lines.append(f"  Snapshot: {snapshot(value.snapshot)}")
    return lines


def _local(value: Local) -> list[str]:
    state = value.hard_state
    term = state.term if state is not None else value.term
    head = f"{value.source}->{value.to} {value.name} Term:{term} Log:{value.log_term}/{value.index}"
    if state is not None:
        head += f" Commit:{state.commit}" + (f" Vote:{state.vote}" if state.vote else "")
    first, *rest = _entries(value.entries)
    lines = [head + first, *rest]
    if value.responses:
        lines[-1] += " Responses:["
        for response in value.responses:
            lines.extend(indent(message(response)))
        lines.append("]")
    return lines


def progress(value: ProgressView) -> str:
    text = f"{value.peer}: {PROGRESS_NAMES[value.state]} match={value.match} next={value.next}"
    text += " learner" if value.learner else ""
    text += " paused" if value.paused else ""
    text += f" pendingSnap={value.pending_snapshot}" if value.pending_snapshot else ""
    text += "" if value.recently_active else " inactive"
    text += f" inflight={value.inflight}" if value.inflight else ""
    return text + ("[full]" if value.inflight and value.inflight_full else "")


def indent(lines: Iterable[str]) -> list[str]:
    return [f"  {line}" for line in lines]
