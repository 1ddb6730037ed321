"""Only what is an engine's to write gets into the log from an engine."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from test_ledger_records import SAMPLES

from ha_scheduler.ledger.authorship import AUTHORS, Author, NotItsRecordError, check_engine
from ha_scheduler.ledger.calls import pack_payload
from ha_scheduler.ledger.encoding import encode
from ha_scheduler.ledger.records import (
    BlobPart,
    Called,
    GraphSubmitted,
    PeerNamed,
    Record,
    Restarted,
    SessionRestored,
    TermStarted,
    ValueDeleted,
    ValueSet,
)
from ha_scheduler.peer.engine.proposals import ProposalError, Proposals

TERM = 7
PEER_GONE = PeerNamed(1, 2, "b", "10.0.0.2", 8785, 8786, False, "was removed by a client")
FOREIGN: tuple[Record, ...] = (
    PEER_GONE,
    TermStarted(TERM, "a"),
    TermStarted(TERM + 1, "a"),
    SessionRestored("s", 2**40, ()),
)


def propose(*data: bytes) -> None:
    """As an engine of term ``TERM`` proposes them."""
    appended: list[bytes] = []

    def append(batch: Any) -> range:
        appended.extend(batch)
        return range(len(batch))

    proposals = Proposals(append, TERM, lambda call: call())
    try:
        for number, record in enumerate(data, start=1):
            proposals.offer(number, record)
    except ProposalError:
        assert appended == list(data[:-1]), "what is refused never reaches the log"
        raise


@pytest.mark.parametrize("record", FOREIGN, ids=lambda record: type(record).__name__)
def test_a_record_of_another_author_is_refused(record: Record) -> None:
    with pytest.raises(ProposalError, match="proposed what no engine may"):
        propose(encode(ValueDeleted("s", b"k")), encode(record))


@pytest.mark.parametrize(
    "change",
    [*FOREIGN, *(Called("", 0, 0, pack_payload((), b""), 0, 0, TERM), BlobPart(TERM, 1, 0, b""))],
    ids=lambda record: type(record).__name__,
)
def test_nor_does_one_pass_as_the_change_of_a_call(change: Record) -> None:
    payload = pack_payload((encode(ValueDeleted("s", b"k")), encode(change)), b"")
    with pytest.raises(ProposalError):
        propose(encode(Called("s", 0, 1, payload, 0, 0, TERM)))


@pytest.mark.parametrize(
    "record",
    [
        BlobPart(TERM - 1, 1, 0, b"x"),
        BlobPart(TERM + 1, 1, 0, b"x"),
        GraphSubmitted((TERM + 1) << 32, "c", "", 0, b"", 1, 1),
        GraphSubmitted(3, "c", "", 0, b"", 0, 0),
        ValueSet("s", b"k", b"", 1, 1, TERM - 1),
        Called("s", 0, 1, b"", 1, 1, TERM + 1),
        Called("s", 0, 1, pack_payload((encode(ValueSet("s", b"", b"", 1, 1, 3)),), b""), 0, 0, 7),
    ],
    ids=repr,
)
def test_nothing_is_written_in_the_name_of_another_term(record: Record) -> None:
    with pytest.raises(ProposalError, match="is not term 7's to write"):
        propose(encode(record))


def test_what_an_engine_writes_of_its_term_passes() -> None:
    changes = (encode(Restarted()), encode(ValueSet("s", b"k", b"", 1, 2, TERM)))
    propose(
        encode(BlobPart(TERM, 1, 0, b"x")),
        encode(GraphSubmitted(TERM << 32 | 1, "c", "s", 1, b"g", 0, 0)),
        encode(ValueSet("s", b"k", b"v", 0, 0, 0)),
        encode(Called("s", 0, 1, pack_payload(changes, b"a"), 0, 0, TERM)),
    )


def test_every_kind_of_record_has_one_author() -> None:
    assert set(AUTHORS) == set(get_args(Record))
    for sample in SAMPLES:
        if AUTHORS[type(sample)] is not Author.ENGINE:
            with pytest.raises(NotItsRecordError):
                check_engine(sample, (), TERM)
