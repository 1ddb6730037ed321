"""Nothing malformed reaches the core, and nothing well-formed is changed on the way."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgpack import packb, unpackb

from ha_scheduler.raft.errors import MalformedMessageError, RaftError
from ha_scheduler.raft.messages import (
    Entry,
    EntryKind,
    Membership,
    Message,
    MessageKind,
    SnapshotMeta,
)
from ha_scheduler.raft.wire import message_from_wire, message_to_wire

GOOD = Message(
    MessageKind.APPEND,
    2,
    1,
    5,
    log_term=3,
    index=7,
    commit=6,
    entries=(Entry(4, 8, EntryKind.NORMAL, b"x"), Entry(5, 9, EntryKind.CONF_CHANGE, b"")),
    round=3,
    tick=9,
)


def fields_of(message: Message) -> list[Any]:
    return list(unpackb(message_to_wire(message)))


def test_a_message_survives_the_wire() -> None:
    meta = SnapshotMeta(9, 4, Membership((1, 2), (3,)))
    snapshot = Message(MessageKind.SNAPSHOT, 2, 1, 5, snapshot=meta)
    read = Message(MessageKind.READ_INDEX, 2, 1, 5, context=b"q")
    for message in (GOOD, snapshot, read):
        assert message_from_wire(message_to_wire(message)) == message


def test_fields_of_a_later_release_are_ignored() -> None:
    assert message_from_wire(packb([*fields_of(GOOD), "new"])) == GOOD


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (0, 99),
        (0, "APPEND"),
        (1, 0),
        (2, -1),
        (3, 2**63),
        (3, True),
        (3, 0),
        (3, 2),
        (5, 8),
        (7, None),
        (7, [(4, 8, 0)]),
        (7, [(4, 8, 2, b"")]),
        (7, [(4, 8, 0, "text")]),
        (7, [(6, 8, 0, b"")]),
        (7, [(4, 8, 0, b""), (3, 9, 0, b"")]),
        (7, [(4, 8, 0, b""), (4, 10, 0, b"")]),
        (8, 1),
        (10, b"x" * 5000),
        (11, (1, 1, ((1,), ()))),
    ],
)
def test_a_field_out_of_order_is_refused(field: int, value: Any) -> None:
    fields = fields_of(GOOD)
    fields[field] = value
    with pytest.raises(MalformedMessageError):
        message_from_wire(packb(fields))


@pytest.mark.parametrize(
    "snapshot",
    [
        None,
        (9, 4, ((), ())),
        (9, 4, ((2, 1), ())),
        (9, 4, ((1, 1), ())),
        (9, 4, ((1,), (1,))),
        (9, 6, ((1,), ())),
    ],
)
def test_a_snapshot_that_cannot_be_is_refused(snapshot: Any) -> None:
    fields = fields_of(Message(MessageKind.SNAPSHOT, 2, 1, 5))
    fields[11] = snapshot
    with pytest.raises(MalformedMessageError):
        message_from_wire(packb(fields))


junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.binary(max_size=8)
    | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=5).map(tuple),
    max_leaves=10,
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 14), junk), max_size=3), st.sampled_from(MessageKind))
def test_junk_is_either_refused_or_a_message(changes: list[tuple[int, Any]], kind: Any) -> None:
    fields = fields_of(GOOD)
    fields[0] = int(kind)
    for position, value in changes:
        fields[position] = value
    try:
        message = message_from_wire(packb(fields))
    except RaftError:
        return
    assert message_from_wire(message_to_wire(message)) == message


def test_a_field_of_a_later_release_may_not_nest_without_end() -> None:
    fields = msgspec.msgpack.decode(message_to_wire(Message(MessageKind.HEARTBEAT, 1, 2, 3)))
    array_of_17 = b"\xdc\x00\x11"
    known = b"".join(map(msgspec.msgpack.encode, fields))
    assert message_from_wire(array_of_17 + known + b"\x90").term == 3
    with pytest.raises(MalformedMessageError, match="recursion"):
        message_from_wire(array_of_17 + known + b"\x91" * 100_000)
