"""Messages to bytes and maps and back: what is checked, ignored and refused, and how."""

from __future__ import annotations

import enum
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Meta

from ha_scheduler.protocol.codec import (
    INT_MAX,
    TERM_MAX,
    MalformedMessage,
    Message,
    MessageSet,
    Number,
    Part,
    Port,
    ProtocolError,
    UnknownMessage,
    from_op,
    to_op,
)
from ha_scheduler.raft.messages import MAX_TERM


class Colour(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


class Place(Part):
    host: str
    port: Port


class Held(Part, tag="held"):
    key: Any
    size: Number


class Running(Part, tag="running"):
    key: Any


class Everything(Message, tag="everything"):
    number: Number
    delta: Annotated[int, Meta(ge=-5, le=5)]
    ratio: float
    name: Annotated[str, Meta(max_length=5)]
    data: bytes
    flag: bool
    colour: Colour
    maybe: str | None
    place: Place
    places: tuple[Place, ...]
    keys: Annotated[tuple[bytes, ...], Meta(max_length=3)]
    pair: tuple[Number, str]
    table: dict[str, Number]
    claims: tuple[Held | Running, ...]
    anything: Any = None
    later: Number = 7


class Short(Message, tag="short"):
    text: str


class Nothing(Message, tag="nothing"):
    pass


SET: MessageSet[Everything | Short | Nothing] = MessageSet(Everything | Short | Nothing)

NUMBERS = st.integers(0, INT_MAX)
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.text(max_size=5)
    | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
PLACES = st.builds(Place, st.text(), st.integers(1, 65535))
EVERYTHING = st.builds(
    Everything,
    NUMBERS,
    st.integers(-5, 5),
    st.floats(allow_nan=False),
    st.text(max_size=5),
    st.binary(),
    st.booleans(),
    st.sampled_from(Colour),
    st.none() | st.text(),
    PLACES,
    st.lists(PLACES, max_size=3).map(tuple),
    st.lists(st.binary(), max_size=3).map(tuple),
    st.tuples(NUMBERS, st.text()),
    st.dictionaries(st.text(max_size=4), NUMBERS, max_size=3),
    st.lists(st.builds(Held, PLAIN, NUMBERS) | st.builds(Running, PLAIN), max_size=3).map(tuple),
    PLAIN,
    NUMBERS,
)
ONE = Everything(
    1,
    -2,
    0.5,
    "name",
    b"data",
    True,
    Colour.BLUE,
    None,
    Place("h", 1),
    (Place("h", 2),),
    (b"k",),
    (3, "x"),
    {"a": 1},
    (Held("k", 3), Running("l")),
)

pack = msgspec.msgpack.encode


@given(EVERYTHING)
def test_what_is_decoded_is_what_was_encoded(value: Everything) -> None:
    assert SET.decode(pack(value)) == value
    assert SET.decode(pack(to_op(value))) == value
    assert from_op(Everything, to_op(value)) == value


def test_a_message_is_a_map_and_a_part_of_it_an_array() -> None:
    fields = msgspec.msgpack.decode(pack(ONE))
    assert fields["op"] == "everything"
    assert fields["place"] == ["h", 1]
    assert fields["claims"] == [["held", "k", 3], ["running", "l"]]
    assert to_op(ONE)["claims"] == (("held", "k", 3), ("running", "l"))
    assert to_op(Short("x")) == {"op": "short", "text": "x"}


def test_what_dask_carries_in_a_field_stays_as_it_is() -> None:
    key, value = ("name", (1, 2)), object()
    message = from_op(Running, ["running", key])
    assert message.key is key
    message = from_op(Everything, {**to_op(ONE), "anything": value})
    assert to_op(message)["anything"] is value


@given(EVERYTHING, PLAIN)
def test_fields_that_are_not_known_are_ignored(value: Everything, more: Any) -> None:
    fields = {**to_op(value), "of a newer release": more, "place": ("h", 1, more)}
    known = msgspec.structs.replace(value, place=Place("h", 1))
    assert SET.decode(pack(fields)) == known
    assert from_op(Everything, fields) == known


def test_a_field_that_did_not_come_has_its_default() -> None:
    fields = {name: value for name, value in to_op(ONE).items() if name != "later"}
    assert SET.decode(pack(fields)) == ONE
    assert from_op(Everything, fields) == ONE


REQUIRED = [name for name in to_op(ONE) if name not in ("op", "anything", "later")]


@pytest.mark.parametrize("name", REQUIRED)
def test_a_missing_field_is_named(name: str) -> None:
    fields = {key: value for key, value in to_op(ONE).items() if key != name}
    missing = f"^everything: Object missing required field `{name}`"
    with pytest.raises(MalformedMessage, match=missing):
        SET.decode(pack(fields))
    with pytest.raises(MalformedMessage, match=missing):
        from_op(Everything, fields)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("number", -1),
        ("number", 2**63),
        ("number", True),
        ("number", 1.5),
        ("number", "1"),
        ("delta", 6),
        ("ratio", "1"),
        ("name", b"name"),
        ("name", "longer"),
        ("data", "ZGF0YQ=="),
        ("flag", 1),
        ("colour", "green"),
        ("colour", ["red"]),
        ("maybe", 1),
        ("place", {"host": "h", "port": 1}),
        ("place", ("h", 0)),
        ("place", ("h", 65536)),
        ("place", ("h",)),
        ("places", (("h", 1), 2)),
        ("keys", b"key"),
        ("keys", (b"k", "k")),
        ("keys", (b"",) * 4),
        ("pair", (1,)),
        ("pair", (1, 2)),
        ("table", {"a": -1}),
        ("table", ()),
        ("claims", (("lost", "k"),)),
        ("claims", (("held", "k", -1),)),
    ],
)
def test_a_field_of_another_type_or_out_of_range_is_named(name: str, value: Any) -> None:
    fields = {**to_op(ONE), name: value}
    with pytest.raises(MalformedMessage, match=rf"^everything: .* at `\$\.{name}\b"):
        SET.decode(pack(fields))
    with pytest.raises(MalformedMessage, match=rf"^everything: .* at `\$\.{name}\b"):
        from_op(Everything, fields)


def test_a_message_that_is_not_known_is_refused_by_name() -> None:
    only: MessageSet[Short] = MessageSet(Short)
    with pytest.raises(UnknownMessage, match=r"no message 'nothing' here; .* upgrade this one"):
        only.decode(pack(Nothing()))
    with pytest.raises(UnknownMessage, match="no message 'new' here"):
        SET.decode(pack({"op": "new", "text": 1}))


def test_what_is_shown_of_a_strange_message_is_short() -> None:
    with pytest.raises(UnknownMessage) as caught:
        SET.decode(pack({"op": "x" * 10_000}))
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",  # no type
        b"\x81\xa2op\xa2\xff\xff",  # no UTF-8
        b"\x91" * 100_000,  # nested without end
        b"\x82\xa2op\xa5short\xa3new" + b"\x91" * 100_000,
        b"\xdd\xff\xff\xff\xff",  # an array of four billion
        b"\x81\xa2op\xd6\xff\x00\x00\x00\x00",  # a timestamp
        b"\x81\x80\x01",  # a map for a key
        b"\x01\x02",  # more than one value
        pack(Short("x")) + b"\x01",
        pack(["short", "x"]),
        pack({"op": 1}),
        pack({"text": "x"}),
    ],
)
def test_bytes_that_are_no_message_are_refused(body: bytes) -> None:
    with pytest.raises(MalformedMessage):
        SET.decode(body)


@settings(max_examples=300)
@given(st.binary() | PLAIN.map(pack) | st.dictionaries(st.just("op"), PLAIN).map(pack))
def test_garbage_raises_nothing_but_protocol_errors(body: bytes) -> None:
    try:
        SET.decode(body)
    except ProtocolError:
        pass


@given(EVERYTHING, st.sampled_from(REQUIRED), PLAIN)
def test_a_field_of_garbage_raises_nothing_but_protocol_errors(
    value: Everything, name: str, garbage: Any
) -> None:
    fields = {**to_op(value), name: garbage}
    for decode in (lambda: SET.decode(pack(fields)), lambda: from_op(Everything, fields)):
        try:
            decode()
        except ProtocolError:
            pass


def test_no_message_speaks_of_a_term_that_the_core_does_not_know() -> None:
    assert TERM_MAX == MAX_TERM
