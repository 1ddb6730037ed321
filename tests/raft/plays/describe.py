"""Messages, entries and states in the words of our plays."""

from __future__ import annotations

from collections.abc import Iterable

from ha_scheduler.raft.membership import decode_membership
from ha_scheduler.raft.messages import (
    Entry,
    EntryKind,
    HardState,
    Membership,
    Message,
    MessageKind,
    ServerState,
    SnapshotMeta,
)
from ha_scheduler.raft.node import RawNode
from ha_scheduler.raft.progress import ProgressView
from ha_scheduler.raft.ready import Ready

from ..harness import Peer

NAMES = {
    MessageKind.VOTE: "vote",
    MessageKind.VOTE_RESPONSE: "vote-reply",
    MessageKind.PRE_VOTE: "pre-vote",
    MessageKind.PRE_VOTE_RESPONSE: "pre-vote-reply",
    MessageKind.APPEND: "append",
    MessageKind.APPEND_RESPONSE: "append-reply",
    MessageKind.HEARTBEAT: "heartbeat",
    MessageKind.HEARTBEAT_RESPONSE: "heartbeat-reply",
    MessageKind.SNAPSHOT: "snapshot",
    MessageKind.TIMEOUT_NOW: "timeout-now",
    MessageKind.READ_INDEX: "read",
    MessageKind.READ_INDEX_RESPONSE: "read-reply",
}


def members(value: Membership) -> str:
    text = "voters " + (" ".join(map(str, value.voters)) or "none")
    return text + (" learners " + " ".join(map(str, value.learners)) if value.learners else "")


def entry(value: Entry) -> str:
    """Term/index and the data; ``-`` is the no-op of a new leader."""
    if value.kind is EntryKind.CONF_CHANGE:
        return f"{value.term}/{value.index} ({members(decode_membership(value.data)[0])})"
    shown = value.data.decode() or "-"
    return f"{value.term}/{value.index} " + (shown if len(shown) < 20 else f"<{len(shown)} bytes>")


def entries(values: Iterable[Entry]) -> str:
    return ", ".join(map(entry, values)) or "nothing"


def snapshot(value: SnapshotMeta) -> str:
    return f"up to {value.term}/{value.index}, {members(value.membership)}"


def message(value: Message) -> str:
    return f"{value.source} -> {value.to} {NAMES[value.kind]}: {_content(value)}"


def _content(value: Message) -> str:
    kind = value.kind
    if kind in (MessageKind.VOTE, MessageKind.PRE_VOTE):
        text = f"term {value.term}, log ends {value.log_term}/{value.index}"
        return text + (", forced" if value.force else "")
    if kind in (MessageKind.VOTE_RESPONSE, MessageKind.PRE_VOTE_RESPONSE):
        return ("no" if value.reject else "yes") + f", term {value.term}"
    if kind is MessageKind.APPEND:
        after = f"after {value.log_term}/{value.index}"
        return f"term {value.term}, {after}: {entries(value.entries)}; commit {value.commit}"
    if kind is MessageKind.APPEND_RESPONSE:
        return _append_reply(value)
    if kind is MessageKind.HEARTBEAT:
        return f"term {value.term}, commit {value.commit}"
    if kind is MessageKind.SNAPSHOT and value.snapshot is not None:
        return f"term {value.term}, {snapshot(value.snapshot)}"
    if kind is MessageKind.READ_INDEX:
        return value.context.decode()
    if kind is MessageKind.READ_INDEX_RESPONSE:
        return f"{value.context.decode()} at {value.index}"
    return f"term {value.term}"


def _append_reply(value: Message) -> str:
    if value.reject:
        hint = f"{value.log_term}/{value.reject_hint}"
        return f"lacks {value.index}, term {value.term}, try {hint}"
    if value.index == 0 and value.round == 0:
        return f"it is term {value.term} now"
    return f"has {value.index}, term {value.term}"


def hard_state(value: HardState) -> str:
    vote = f", vote for {value.vote}" if value.vote else ""
    return f"term {value.term}{vote}, commit {value.commit}"


def writes(ready: Ready) -> str:
    """What a Ready asks to make durable."""
    parts = []
    if ready.snapshot is not None:
        parts.append("snapshot " + snapshot(ready.snapshot))
    if ready.hard_state is not None:
        parts.append(hard_state(ready.hard_state))
    if ready.entries:
        parts.append(entries(ready.entries))
    return "; ".join(parts) or "nothing"


def standing(node: RawNode) -> str:
    """ServerState, leader and term as a sentence."""
    if node.role is ServerState.LEADER:
        return f"{node.peer_id} leads term {node.term}"
    if node.role is ServerState.FOLLOWER:
        return f"{node.peer_id} follows {node.leader or 'nobody'} in term {node.term}"
    return f"{node.peer_id} is {node.role.value} in term {node.term}"


def state(peer: Peer) -> str:
    """All that matters of a peer in one line; of the log only the terms."""
    node = peer.node
    first, last = node.first_index, node.last_index
    log = " ".join(str(node.entry_term(i)) for i in range(first, last + 1)) or "empty"
    log = f"{log} (after {first - 1})" if first > 1 else log
    lease = ", has the lease" if peer.lease_valid else ""
    disk = f" (durable {node.durable_index})" if node.durable_index < last else ""
    return f"{standing(node)}, log {log}{disk}, commit {node.commit}, applied {node.applied}{lease}"


def progress(value: ProgressView) -> str:
    text = f"{value.peer}: {value.state.value}, match {value.match}, next {value.next}"
    text += f", {value.inflight} in flight" if value.inflight else ""
    text += " (full)" if value.inflight and value.inflight_full else ""
    text += f", snapshot {value.pending_snapshot}" if value.pending_snapshot else ""
    text += ", paused" if value.paused else ""
    text += "" if value.recently_active else ", silent"
    return text + (", learner" if value.learner else "")
