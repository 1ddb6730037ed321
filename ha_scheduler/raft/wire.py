"""Messages as plain tuples that any serialiser takes, and back, trusting nothing.

The guarantee: `message_from_wire` returns a message that a correct peer can have sent, or raises
`MalformedMessageError`: types, ranges, and the entries' indices and terms are checked before the
core sees any of it. The position of a field is wire format: only append, with a default.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .errors import MalformedMessageError
from .membership import MAX_PEERS
from .messages import (
    MAX_CONTEXT_BYTES,
    Entry,
    EntryKind,
    Membership,
    Message,
    MessageKind,
    SnapshotMeta,
)

MAX_INT = 2**63 - 1
MAX_ENTRIES = 1_000_000
"""Of one message. The transport bounds bytes; this bounds objects."""

_FIELD_COUNT = 16
_ENTRY_KINDS = tuple(EntryKind)  # by number: a lookup is a tenth of a call of the enumeration


def message_to_wire(message: Message) -> tuple[Any, ...]:
    """A tuple of ints, bools, bytes, None and tuples of them."""
    return (
        int(message.kind),
        message.to,
        message.source,
        message.term,
        message.log_term,
        message.index,
        message.commit,
        tuple((e.term, e.index, int(e.kind), e.data) for e in message.entries),
        message.reject,
        message.reject_hint,
        message.context,
        _snapshot_to_wire(message.snapshot),
        message.round,
        message.tick,
        message.force,
        message.incarnation,
    )


def message_from_wire(fields: Sequence[Any]) -> Message:
    """The inverse of `message_to_wire`; a later release may have appended fields."""
    if not isinstance(fields, (tuple, list)) or len(fields) < _FIELD_COUNT:
        raise MalformedMessageError(f"a message has {_FIELD_COUNT} fields or more")
    term = _number(fields[3], "term")
    index = _number(fields[5], "index")
    message = Message(
        kind=_kind(fields[0]),
        to=_number(fields[1], "to", least=1),
        source=_number(fields[2], "source", least=1),
        term=term,
        log_term=_number(fields[4], "log_term"),
        index=index,
        commit=_number(fields[6], "commit"),
        entries=_entries(fields[7], index, term),
        reject=_flag(fields[8], "reject"),
        reject_hint=_number(fields[9], "reject_hint"),
        context=_bytes(fields[10], "context", MAX_CONTEXT_BYTES),
        snapshot=_snapshot_from_wire(fields[11], term),
        round=_number(fields[12], "round"),
        tick=_number(fields[13], "tick"),
        force=_flag(fields[14], "force"),
        incarnation=_number(fields[15], "incarnation"),
    )
    _check_shape(message)
    return message


def _check_shape(message: Message) -> None:
    if message.entries and message.kind is not MessageKind.APPEND:
        raise MalformedMessageError(f"{message.kind.name} carries entries")
    if (message.snapshot is not None) is not (message.kind is MessageKind.SNAPSHOT):
        raise MalformedMessageError(f"{message.kind.name}: snapshot missing or misplaced")
    if message.term == 0 and message.kind is not MessageKind.PRE_VOTE_RESPONSE:
        raise MalformedMessageError(f"{message.kind.name} of term 0; the first term is 1")
    if message.kind is MessageKind.APPEND and message.log_term > message.term:
        raise MalformedMessageError(
            f"APPEND of term {message.term} after an entry of term {message.log_term}"
        )


def _kind(value: Any) -> MessageKind:
    try:
        return MessageKind(_number(value, "kind"))
    except ValueError as error:
        raise MalformedMessageError(f"unknown message kind {value}") from error


def _number(value: Any, name: str, *, least: int = 0) -> int:
    if type(value) is not int or not least <= value <= MAX_INT:
        raise MalformedMessageError(f"{name} is not an integer in [{least}, {MAX_INT}]")
    return value


def _flag(value: Any, name: str) -> bool:
    if type(value) is not bool:
        raise MalformedMessageError(f"{name} is not a boolean")
    return value


def _bytes(value: Any, name: str, limit: int) -> bytes:
    if type(value) is not bytes or len(value) > limit:
        raise MalformedMessageError(f"{name} is not a byte string of at most {limit} bytes")
    return value


def _entries(value: Any, previous: int, message_term: int) -> tuple[Entry, ...]:
    if not isinstance(value, (tuple, list)) or len(value) > MAX_ENTRIES:
        raise MalformedMessageError(f"entries is not a list of at most {MAX_ENTRIES}")
    entries = []
    least_term = 1
    for item in value:
        previous += 1
        term, data, kind = _entry_fields(item, previous)
        if not least_term <= term <= message_term:
            raise MalformedMessageError(
                f"entry {previous} of term {term} cannot stand after one of term {least_term} in "
                f"a message of term {message_term}"
            )
        least_term = term
        entries.append(Entry(term, previous, kind, data))
    return tuple(entries)


def _entry_fields(item: Any, due: int) -> tuple[int, bytes, EntryKind]:
    """Term, data and kind of the entry that is ``due``; written out because there are many."""
    if not isinstance(item, (tuple, list)) or len(item) != 4:
        raise MalformedMessageError("an entry has 4 fields")
    term, index, kind, data = item
    if type(term) is not int or type(index) is not int or index != due or index > MAX_INT:
        raise MalformedMessageError(f"an entry's term and index are integers, and {due} is due")
    if type(kind) is not int or not 0 <= kind < len(_ENTRY_KINDS):
        raise MalformedMessageError(f"unknown entry kind {kind!r}")
    if type(data) is not bytes:
        raise MalformedMessageError("entry data is not a byte string")
    return term, data, _ENTRY_KINDS[kind]


def _snapshot_to_wire(meta: SnapshotMeta | None) -> tuple[Any, ...] | None:
    if meta is None:
        return None
    return meta.index, meta.term, meta.membership.voters, meta.membership.learners


def _snapshot_from_wire(value: Any, message_term: int) -> SnapshotMeta | None:
    if value is None:
        return None
    if not isinstance(value, (tuple, list)) or len(value) != 4:
        raise MalformedMessageError("a snapshot has 4 fields")
    voters, learners = _peers(value[2], "voters"), _peers(value[3], "learners")
    if not voters or set(voters) & set(learners):
        raise MalformedMessageError("a snapshot needs voters, none of them a learner")
    term = _number(value[1], "snapshot term", least=1)
    if term > message_term:
        raise MalformedMessageError(f"snapshot of term {term} in a message of {message_term}")
    index = _number(value[0], "snapshot index", least=1)
    return SnapshotMeta(index, term, Membership(voters, learners))


def _peers(value: Any, name: str) -> tuple[int, ...]:
    if not isinstance(value, (tuple, list)) or len(value) > MAX_PEERS:
        raise MalformedMessageError(f"{name} is not a list of at most {MAX_PEERS} peers")
    peers = tuple(_number(peer, name, least=1) for peer in value)
    if list(peers) != sorted(set(peers)):
        raise MalformedMessageError(f"{name} is not sorted and unique")
    return peers
