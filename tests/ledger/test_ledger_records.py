"""Records: what a decoder lets through no fold falls over, and what is newer is called so."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ha_scheduler.ledger import encoding
from ha_scheduler.ledger import records as r
from ha_scheduler.ledger.admission import check
from ha_scheduler.ledger.calls import pack_payload
from ha_scheduler.ledger.fold import fold
from ha_scheduler.ledger.rebuild import rebuild
from ha_scheduler.ledger.unfit import MalformedRecordError, RejectedRecord, UnknownRecordError
from ha_scheduler.protocol.engine import Exposure
from tests.twins.tables import MemoryTables

GRAPH = (1 << 32) + 1
EXPOSURE = Exposure(b"c" * 16, "graph", "of x", "c", "s", 1)
SAMPLES: list[Any] = [
    r.TermStarted(1, "a"),
    r.BlobPart(1, 1, 0, b"part"),
    r.GraphSubmitted(GRAPH, "c", "s", 1, b"graph", 0, 0),
    r.GraphsRetired((GRAPH,), 1),
    r.Desired(GRAPH, "c", (b"k",)),
    r.Released(GRAPH, "c", (b"k",), 1),
    r.Forgotten(GRAPH, (b"k",)),
    r.Erred(GRAPH, b"k", b"error"),
    r.Retried(GRAPH, (b"k",)),
    r.Scattered("c", (b"k",)),
    r.ScatteredForgotten((b"k",)),
    r.ClientJoined("c", "s"),
    r.ClientLeft("c", 1),
    r.SessionAdvanced("s", 1),
    r.ValueSet("v", b"n", b"value", 0, 0, 1),
    r.ValueDeleted("v", b"n"),
    r.Restarted(),
    r.SessionRestored("s", 1, (3, 4)),
    r.PeerNamed(1, 7, "a", "h", 1, 2, False, ""),
    r.Called(
        "s", 0, 1, pack_payload((encoding.encode(r.ValueDeleted("v", b"n")),), b"answer"), 0, 0, 1
    ),
    r.CallsOpened("s", "o"),
    r.CallsEnded("s"),
    r.AnswerDropped("s", 0),
    r.Answered("c", "s", (1,)),
    r.RecordRejected(1, 3, 1, 2, 100, b"digest", "part-misplaced"),
    r.EngineEnded(1, "a", 1, True, "SIGSEGV", 1, (EXPOSURE,)),
    r.CaseRestored(EXPOSURE, (r.Death(1, "a", 1, True, "SIGSEGV", 1, True),)),
    r.CaseReleased(EXPOSURE.content),
    r.CellFounded("0123456789abcdef" * 2, "", "a"),
    r.SigningKeyAdded(b"k" * 32, "a", 1),
    r.SigningKeyRetired(b"k" * 32),
    r.TokenIssued(b"t" * 16, "alice", "client", 1, 2, "", "a"),
    r.TokenRevoked(b"t" * 16, 2, 1, "a"),
    r.MaintenanceSet("a", True, 0, "root", 1),
]
NUMBERS = [0, 1, 5, -1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1, 1.5, float("nan"), True, None]
STRINGS = ["", "x", "é" * 400, b"", b"k" * 1000, msgspec.msgpack.Ext(5, b"x")]
ODD: list[Any] = [*NUMBERS, *STRINGS, [], ["x"], [b"k"], [1], [-1], [2, 1], [[b"a"]], {}, {"a": 1}]
LIFE: list[Any] = [
    r.ClientJoined("c", "s"),
    r.CallsOpened("s", "o"),
    r.BlobPart(1, 1, 0, b"part"),
    r.GraphSubmitted(GRAPH, "c", "s", 1, b"graph", 0, 0),
    r.ValueSet("v", b"n", b"value", 0, 0, 1),
    r.Desired(GRAPH, "c", (b"k",)),
]
AFTERWARDS: list[Any] = [
    r.GraphsRetired((GRAPH,)),
    r.CallsEnded("s"),
    r.ClientLeft("c"),
    r.TermStarted(9, "b"),
    r.Restarted(),
]


def test_there_is_a_sample_of_each_kind() -> None:
    assert [type(sample) for sample in SAMPLES] == list(r.KINDS.values())


def lived_with(data: bytes) -> r.RecordRejected | None:
    """A ledger that holds much is told ``data``, and goes on living. Returns its rejection."""
    tables = MemoryTables()
    lives = [*map(encoding.encode, LIFE), data, *map(encoding.encode, AFTERWARDS)]
    rejected = []
    for index, record in enumerate(lives, 1):
        rejected.append(fold(tables, index, 1, record))
        list(rebuild(tables))
    assert all(each is None for each in rejected[: len(LIFE)] + rejected[len(LIFE) + 1 :])
    return rejected[len(LIFE)]


def refusal(data: bytes) -> Exception | None:
    """Why these bytes do not enter the log."""
    try:
        check(data)
    except (UnknownRecordError, RejectedRecord) as error:
        return error
    return None


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: type(sample).__name__)
def test_a_record_with_an_odd_field_is_refused_by_name_and_if_committed_passed_over(
    sample: Any,
) -> None:
    kind, *fields = msgspec.msgpack.decode(encoding.encode(sample))
    refused = 0
    for place in range(len(fields)):
        for odd in ODD:
            data = msgspec.msgpack.encode([kind, *fields[:place], odd, *fields[place + 1 :]])
            why = refusal(data)
            if isinstance(why, UnknownRecordError):
                assert (type(sample), place) == (r.TermStarted, 2), "a format of a newer release"
                continue
            rejected = lived_with(data)
            if why is not None:
                assert str(why).startswith(f"{type(sample).__name__}: ")
                assert rejected is not None
                refused += 1
    assert refused >= 10 * len(fields)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: type(sample).__name__)
def test_a_record_with_a_field_more_is_of_a_newer_release(sample: Any) -> None:
    data = msgspec.msgpack.encode([*msgspec.msgpack.decode(encoding.encode(sample)), None])
    with pytest.raises(UnknownRecordError) as caught:
        encoding.decode(data)
    assert type(sample).__name__ in str(caught.value)
    assert "was written by a newer release" in str(caught.value)
    assert str(caught.value).endswith("upgrade this peer")


def test_a_kind_that_is_not_known_is_of_a_newer_release() -> None:
    with pytest.raises(UnknownRecordError, match=r"^record kind 99 .*; upgrade this peer$"):
        encoding.decode(msgspec.msgpack.encode([99, "x"]))


def test_the_term_of_a_leader_of_a_newer_format_is_refused_at_its_first_record() -> None:
    started = msgspec.msgpack.encode([1, 7, "b", r.FORMAT + 1])
    with pytest.raises(UnknownRecordError, match=rf"^all of term 7, of format {r.FORMAT + 1}, "):
        fold(MemoryTables(), 1, 7, started)


def test_a_missing_field_is_damage_and_not_progress() -> None:
    with pytest.raises(MalformedRecordError, match=r"^BlobPart: "):
        encoding.decode(msgspec.msgpack.encode([2, 1, 1]))


LISTS = st.lists(st.integers(-3, 40) | st.text() | st.binary())


@given(st.binary() | LISTS.map(msgspec.msgpack.encode))
def test_garbage_raises_nothing_but_the_errors_that_are_promised(data: bytes) -> None:
    try:
        encoding.decode(data)
    except (UnknownRecordError, RejectedRecord):
        pass
