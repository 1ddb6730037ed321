"""The first words of a connection: versions, refusals, and what a stranger may send."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ha_scheduler.protocol import RELEASE, VERSION, frames
from ha_scheduler.protocol.codec import MalformedMessage, ProtocolError, UnknownMessage
from ha_scheduler.protocol.introduction import (
    FEATURES_MAX,
    TOKEN_BYTES_MAX,
    Accepted,
    Introduction,
    Kind,
    Refused,
    RefusedError,
    accept,
    accepted,
    call,
    introduce,
    introduced,
)

wire = msgspec.msgpack.encode

FIRST = msgspec.msgpack.decode(wire(introduce(Kind.PEER)))


def test_a_caller_says_its_version_release_and_purpose() -> None:
    said = introduced(wire(introduce(Kind.PEER, cell="a=h:1", name="a")))
    assert said == Introduction(VERSION, RELEASE, (), "peer", "a=h:1", "a")
    assert accepted(wire(accept())) == Accepted(VERSION, RELEASE, ())


def test_the_version_is_a_field_of_a_map_for_ever() -> None:
    for first in (introduce(Kind.WATCH), accept()):
        assert msgspec.msgpack.decode(wire(first))["version"] == VERSION


@pytest.mark.parametrize(("version", "old"), [(VERSION - 1, "caller"), (VERSION + 1, "called one")])
def test_a_caller_of_another_version_is_told_which_side_to_upgrade(version: int, old: str) -> None:
    """Whatever else its introduction has become."""
    with pytest.raises(RefusedError) as caught:
        introduced(wire({"op": "introduction", "version": version, "release": {}}))
    assert str(caught.value) == (
        f"the caller speaks version {version} of the protocol and the called one version {VERSION}"
        f"; upgrade the {old}"
    )


def test_who_is_called_and_has_another_version_is_known_by_its_answer() -> None:
    with pytest.raises(RefusedError, match="upgrade the caller"):
        accepted(wire(Accepted(VERSION + 1, "9", ())))


def test_a_refusal_says_why() -> None:
    with pytest.raises(RefusedError, match=r"^no$") as caught:
        accepted(wire(Refused("no", gone=True)))
    assert caught.value.gone


def test_a_kind_of_a_later_release_is_for_the_service_to_refuse_by_name() -> None:
    assert introduced(wire({**FIRST, "kind": "archive"})).kind == "archive"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("features", ("x",) * (FEATURES_MAX + 1)),
        ("kind", "x" * 300),
        ("cell", "c" * 5000),
        ("name", "n" * 300),
        ("token", b"t" * (TOKEN_BYTES_MAX + 1)),
        ("version", "1"),
    ],
)
def test_what_a_stranger_says_is_bounded(field: str, value: Any) -> None:
    with pytest.raises(MalformedMessage, match=f"introduction: .*{field}"):
        introduced(wire({**FIRST, field: value}))


def test_anything_else_is_refused_by_name() -> None:
    with pytest.raises(UnknownMessage, match="no message 'accepted' here"):
        introduced(wire(accept()))
    with pytest.raises(UnknownMessage, match="no message 'introduction' here"):
        accepted(wire(introduce(Kind.PEER)))


@given(st.binary() | st.dictionaries(st.sampled_from(sorted(FIRST)), st.integers() | st.text()))
def test_garbage_raises_nothing_but_the_errors_that_are_promised(value: Any) -> None:
    for body in (value if isinstance(value, bytes) else b"", wire({**FIRST, "x": repr(value)})):
        for take in (introduced, accepted):
            try:
                take(body)
            except (ProtocolError, RefusedError):
                pass


def test_a_call_returns_what_the_other_side_announced() -> None:
    async def run() -> None:
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=ours)
        other_reader, other_writer = await asyncio.open_connection(sock=theirs)
        calling = asyncio.create_task(call(reader, writer, introduce(Kind.WATCH)))
        said = await frames.read(other_reader.readexactly, frames.INTRODUCTION_BYTES_MAX)
        assert introduced(said).kind is not Kind.PEER
        assert introduced(said).kind == Kind.WATCH
        other_writer.write(frames.pack(Accepted(VERSION, "9.9", ("leases", "more"))))
        assert (await calling).features == ("leases", "more")
        for end in (writer, other_writer):
            end.close()
            await end.wait_closed()

    asyncio.run(run())
