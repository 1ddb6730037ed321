"""Messages to arrays and back: what is checked, what is ignored, what is refused, and how."""

from __future__ import annotations

import enum
from typing import Annotated, Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ha_scheduler.protocol.codec import (
    INT_MAX,
    MalformedMessage,
    MessageSet,
    Port,
    ProtocolError,
    Range,
    Size,
    UnknownMessage,
    encode,
    from_op,
    message,
    to_op,
)


class Colour(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


@message("place")
class Place:
    host: str
    port: Port


@message("held")
class Held:
    key: Any
    size: int


@message("running")
class Running:
    key: Any


@message("everything")
class Everything:
    number: int
    delta: Annotated[int, Range(-5, 5)]
    ratio: float
    name: Annotated[str, Size(5)]
    data: bytes
    flag: bool
    colour: Colour
    maybe: str | None
    place: Place
    places: tuple[Place, ...]
    keys: Annotated[tuple[bytes, ...], Size(3)]
    pair: tuple[int, str]
    table: dict[str, int]
    claims: tuple[Held | Running, ...]
    anything: Any = None
    later: int = 7


@message("nothing")
class Nothing:
    pass


SET: MessageSet[Everything | Place | Nothing] = MessageSet(Everything, Place, Nothing)

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.text(max_size=5)
    | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)
NUMBERS = st.integers(0, INT_MAX)
PLACES = st.builds(Place, st.text(), st.integers(1, 65535))
EVERYTHING = st.builds(
    Everything,
    NUMBERS,
    st.integers(-5, 5),
    st.floats(allow_nan=False, allow_infinity=False),
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


def over_the_wire(value: Any) -> Any:
    return msgpack.unpackb(msgpack.packb(value, default=encode), use_list=False)


@given(EVERYTHING)
def test_what_is_decoded_is_what_was_encoded(value: Everything) -> None:
    assert SET.decode(over_the_wire(value)) == value
    assert from_op(Everything, over_the_wire(to_op(value))) == value


def test_a_message_is_an_array_of_its_tag_and_its_fields() -> None:
    assert over_the_wire(Place("h", 1)) == ("place", "h", 1)
    assert over_the_wire(Nothing()) == ("nothing",)
    assert to_op(Place("h", 1)) == {"op": "place", "host": "h", "port": 1}
    assert to_op(ONE)["claims"] == (("held", "k", 3), ("running", "l"))


@given(EVERYTHING, st.lists(PLAIN, max_size=3))
def test_fields_that_are_not_known_are_ignored(value: Everything, more: list[Any]) -> None:
    assert SET.decode((*over_the_wire(value), *more)) == value
    assert from_op(Everything, {**to_op(value), "of a newer release": more}) == value


def test_fields_that_are_not_known_are_refused_where_nothing_may_be_ignored() -> None:
    whole = MessageSet(Place, whole=True)
    assert whole.decode(("place", "h", 1)) == Place("h", 1)
    with pytest.raises(UnknownMessage, match=r"place with 3 fields is of a newer release; upgrade"):
        whole.decode(("place", "h", 1, 2))


def test_a_field_that_did_not_come_has_its_default() -> None:
    assert SET.decode(over_the_wire(ONE)[:-2]) == ONE
    assert from_op(Everything, {k: v for k, v in to_op(ONE).items() if k != "later"}) == ONE


@pytest.mark.parametrize("value", [("place",), ("place", "h")])
def test_a_missing_field_is_named(value: tuple[Any, ...]) -> None:
    name = ("host", "port")[len(value) - 1]
    with pytest.raises(MalformedMessage, match=f"place: {name} is missing"):
        SET.decode(value)


def test_a_missing_field_of_an_op_is_named() -> None:
    with pytest.raises(MalformedMessage, match="place: port is missing"):
        from_op(Place, {"host": "h"})


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("number", -1, "is not an integer from 0"),
        ("number", 2**63, "is not an integer from 0"),
        ("number", True, "is not an integer"),
        ("number", 1.0, "is not an integer"),
        ("delta", 6, "is not an integer from -5 to 5"),
        ("ratio", "1", "is not a finite number"),
        ("ratio", float("nan"), "is not a finite number"),
        ("ratio", 10**400, "is not a finite number"),
        ("name", b"name", "is not of type str"),
        ("name", "longer", "is longer than 5"),
        ("data", "text", "is not of type bytes"),
        ("flag", 1, "is not of type bool"),
        ("colour", "green", "is not one of 'red', 'blue'"),
        ("colour", ["red"], "is not one of 'red', 'blue'"),
        ("maybe", 1, "is not of type str"),
        ("keys", b"key", "is not an array"),
        ("keys", (b"k", "k"), "is not of type bytes"),
        ("keys", (b"",) * 4, "has more than 3 elements"),
        ("pair", (1,), "is not an array of 2"),
        ("pair", (1, 2), "is not of type str"),
        ("table", {"a": -1}, "is not an integer"),
        ("table", {1: 1}, "is not of type str"),
        ("table", (), "is not a map"),
    ],
)
def test_a_field_of_another_type_or_out_of_range_is_named(name: str, value: Any, why: str) -> None:
    fields = {**to_op(ONE), name: value}
    with pytest.raises(MalformedMessage, match=f"^everything: {name} {why}"):
        from_op(Everything, fields)
    del fields["op"]
    with pytest.raises(MalformedMessage, match=f"^everything: {name} {why}"):
        SET.decode(("everything", *fields.values()))


@pytest.mark.parametrize("value", [("place", "h", 0), ("place", "h", 65536), ("place", 1, 1)])
def test_a_field_of_a_message_in_a_field_is_named(value: tuple[Any, ...]) -> None:
    with pytest.raises(MalformedMessage, match=r"^place: (port|host) is not"):
        from_op(Everything, {**to_op(ONE), "place": value})


def test_a_message_that_is_not_known_is_refused_by_name() -> None:
    with pytest.raises(UnknownMessage, match=r"no message 'held' here; .* upgrade this one"):
        SET.decode(encode(Held("k", 1)))
    with pytest.raises(UnknownMessage, match="no message 'place' here"):
        from_op(Everything, {**to_op(ONE), "claims": (("place", "h", 1),)})


def test_what_is_shown_of_a_strange_message_is_short() -> None:
    with pytest.raises(UnknownMessage) as caught:
        SET.decode(("x" * 10_000,))
    assert len(str(caught.value)) < 250


def test_only_messages_are_encoded() -> None:
    with pytest.raises(TypeError, match="object is no message"):
        encode(object())


def test_a_field_that_no_message_can_have_is_a_defect_of_its_class() -> None:
    @message("strange")
    class Strange:
        field: complex

    with pytest.raises(TypeError, match="no field of a message can be"):
        MessageSet(Strange).decode(("strange", 1))


@settings(max_examples=300)
@given(PLAIN | st.tuples(st.sampled_from(["everything", "place", "nothing"]), PLAIN, PLAIN, PLAIN))
def test_garbage_raises_nothing_but_protocol_errors(value: Any) -> None:
    try:
        SET.decode(value)
    except ProtocolError:
        pass


@given(EVERYTHING, st.integers(0, 15), PLAIN)
def test_a_field_of_garbage_raises_nothing_but_protocol_errors(
    value: Everything, place: int, garbage: Any
) -> None:
    fields = list(over_the_wire(value))
    fields[1 + place] = garbage
    try:
        SET.decode(fields)
    except ProtocolError:
        pass
