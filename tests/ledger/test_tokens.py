"""Whose tokens hold, as the ledger has it."""

from __future__ import annotations

from typing import Any

from ha_scheduler.ledger import encoding, tokens
from ha_scheduler.ledger import records as r
from ha_scheduler.ledger.fold import fold
from ha_scheduler.ledger.tokens import FORGET_AFTER_S
from ha_scheduler.protocol.ring import KEYS_MAX, REVOKED_MAX
from tests.twins.tables import MemoryTables

A, B = b"a" * 16, b"b" * 16


def issued(token: bytes, expires: int = 100, at: int = 1) -> r.TokenIssued:
    return r.TokenIssued(token, "alice", "client", at, expires, "", "root")


def folded(*history: Any) -> MemoryTables:
    tables = MemoryTables()
    for index, record in enumerate(history, start=1):
        assert fold(tables, index, 1, encoding.encode(record)) is None
    return tables


def revoked(*history: Any) -> dict[bytes, int]:
    return {rec.token: rec.expires for rec in tokens.revocations(folded(*history))}


def test_a_revocation_is_remembered_as_long_as_what_was_renewed_before_it() -> None:
    known_to_the_ledger = [issued(A, 1000), r.TokenRevoked(A, 50, 60, "root")]
    assert revoked(*known_to_the_ledger) == {A: 1000}


def test_a_renewal_that_crosses_its_revocation_stays_revoked_for_its_whole_life() -> None:
    history = [issued(A), r.TokenRevoked(A, 100, 60, "root"), issued(A, 5000, 61)]
    late = r.TokenRevoked(B, 1, 200 + FORGET_AFTER_S, "root")
    assert revoked(*history, late) == {A: 5000}


def test_a_revocation_is_forgotten_when_nothing_of_it_can_hold_any_more() -> None:
    history = [issued(A), r.TokenRevoked(A, 100, 60, "root")]
    at_the_end = r.TokenRevoked(B, 10**9, 100 + FORGET_AFTER_S, "root")
    assert A in revoked(*history, at_the_end)
    after = r.TokenRevoked(B, 10**9, 101 + FORGET_AFTER_S, "root")
    assert A not in revoked(*history, after)


def test_keys_and_revocations_never_outgrow_what_a_ring_can_say() -> None:
    keys = [r.SigningKeyAdded(bytes([n]) * 32, "a", n) for n in range(KEYS_MAX + 3)]
    assert len(tokens.keys(folded(*keys))) == KEYS_MAX
    tables = MemoryTables()
    for n in range(REVOKED_MAX):
        row = tokens.pack((n, encoding.encode(r.TokenRevoked(n.to_bytes(16), 9, 1, ""))))
        tables.put(tokens.REVOKED, n.to_bytes(16), row)
    fold(tables, REVOKED_MAX, 1, encoding.encode(r.TokenRevoked(A, 9, 1, "")))
    ids = {rec.token for rec in tokens.revocations(tables)}
    assert len(ids) == REVOKED_MAX
    assert A in ids


def test_a_witness_keeps_whose_tokens_hold_and_no_engine_is_told() -> None:
    for record in (
        r.SigningKeyAdded(b"k" * 32, "a", 1),
        r.SigningKeyRetired(b"k" * 32),
        issued(A),
        r.TokenRevoked(A, 1, 1, ""),
    ):
        data = encoding.encode(record)
        assert encoding.is_of_members(data)
        assert encoding.is_for_daemons(data)
        assert encoding.is_of_tokens(data)
