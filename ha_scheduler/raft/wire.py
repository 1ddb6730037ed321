"""The wire format of messages, with validation.

The guarantee: `message_from_wire` returns a message that a correct peer can have sent, or raises
`MalformedMessageError`: types and ranges, by the annotations of `Message`, and the entries' indices
and terms are checked first. Fields of a later release are ignored.
"""

from __future__ import annotations

import msgspec

from .errors import MalformedMessageError
from .messages import Entry, Message, MessageKind, SnapshotMeta

_decoder = msgspec.msgpack.Decoder(Message)

message_to_wire = msgspec.msgpack.Encoder().encode


def message_from_wire(wire: bytes | msgspec.Raw) -> Message:
    """The inverse of `message_to_wire`."""
    try:
        message = _decoder.decode(wire)
    except (ValueError, OverflowError, RecursionError) as error:
        raise MalformedMessageError(f"not a message of the core: {error}") from error
    _check_shape(message)
    _check_entries(message.entries, message.index, message.term)
    if message.snapshot is not None:
        _check_snapshot(message.snapshot, message.term)
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


def _check_entries(entries: tuple[Entry, ...], index: int, message_term: int) -> None:
    least_term = 1
    for entry in entries:
        index += 1
        if entry.index != index:
            raise MalformedMessageError(f"entry {entry.index} stands where {index} is due")
        if not least_term <= entry.term <= message_term:
            raise MalformedMessageError(
                f"entry {index} of term {entry.term} cannot stand after one of term {least_term} "
                f"in a message of term {message_term}"
            )
        least_term = entry.term


def _check_snapshot(meta: SnapshotMeta, message_term: int) -> None:
    voters, learners = meta.membership.voters, meta.membership.learners
    if not voters or set(voters) & set(learners):
        raise MalformedMessageError("a snapshot needs voters, none of them a learner")
    for peers in (voters, learners):
        if list(peers) != sorted(set(peers)):
            raise MalformedMessageError(f"peers {peers} are not sorted and unique")
    if not (meta.index and 1 <= meta.term <= message_term):
        raise MalformedMessageError(
            f"a snapshot of index {meta.index} and term {meta.term} in a message of {message_term}"
        )
