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


# Which keys can go


KEY_A, KEY_B = b"a" * 32, b"b" * 32
BOTH = (r.SigningKeyAdded(KEY_A, "a", 10), r.SigningKeyAdded(KEY_B, "b", 11))


def peer(number: int, name: str, gone: str = "") -> r.PeerNamed:
    return r.PeerNamed(number, number, name, "h", 1, 2, False, gone)


def spent(*history: Any, now: float, own: bytes = KEY_A) -> list[bytes]:
    return tokens.spent(folded(*history), own, now, 1)


def test_the_key_of_a_removed_peer_goes_when_what_it_may_have_signed_is_over() -> None:
    members = (peer(1, "a"), peer(2, "b"))
    history = (*members, *BOTH, issued(A, 100), peer(2, "b", "was removed"))
    assert spent(*members, *BOTH, now=10**6) == []
    assert spent(*history, now=99) == []
    assert spent(*history, now=100) == [KEY_B]
    renewed = issued(A, 5000, 50)  # by the leader of then
    assert spent(*history, renewed, now=100) == [KEY_B]
    assert spent(*history, issued(B, 5000, 50), now=100) == [KEY_B]


def test_the_key_of_a_peer_with_another_disk_or_of_the_leader_itself_stays() -> None:
    replaced = (peer(1, "a"), peer(2, "b"), *BOTH, peer(2, "b", "was replaced"), peer(3, "b"))
    assert spent(*replaced, now=10**6) == []
    removed = (peer(1, "a"), peer(2, "b"), *BOTH, peer(2, "b", "was removed"))
    assert spent(*removed, now=10**6, own=KEY_B) == []


def test_a_key_that_was_replaced_goes_when_its_tokens_are_over() -> None:
    later = r.SigningKeyAdded(b"c" * 32, "b", 20)
    history = (*BOTH, issued(A, 100, 15), later, issued(B, 900, 50))
    assert spent(*history, now=99, own=later.key) == []
    assert spent(*history, now=100, own=later.key) == [KEY_B]
    assert spent(*BOTH, later, now=0, own=KEY_B) == []
