"""Tokens: the keys that sign them, what was issued, and what is revoked.

Guarantee: the private part of a key and the token itself are never here. What is revoked stays so
for as long as any renewal of it might hold: a revocation is forgotten ``FORGET_AFTER_S`` after its
token is over, by the times in the records, never by a clock of who applies them.

All three tables are bounded. Of keys and revocations the daemon refuses more before the bound is
met (``peer/identity/issuing.py``); of the list of what was issued, which decides nothing, the
oldest goes.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import nsmallest

from msgspec.structs import replace

from ha_scheduler.ledger import peer_table
from ha_scheduler.ledger.encoding import decode, encode
from ha_scheduler.ledger.layout import pack, unpack
from ha_scheduler.ledger.records import (
    PeerNamed,
    SigningKeyAdded,
    SigningKeyRetired,
    TokenIssued,
    TokenRevoked,
)
from ha_scheduler.ledger.tables import REVOKED, SIGNING_KEYS, TOKENS, Tables
from ha_scheduler.protocol.ring import KEYS_MAX, REVOKED_MAX

TOKENS_MAX = 4096  # that are listed
FORGET_AFTER_S = 30 * 24 * 3600  # more than any grace, and than clocks differ


def key_added(tables: Tables, index: int, record: SigningKeyAdded) -> None:
    """A key that is known keeps its place."""
    if tables.get(SIGNING_KEYS, record.key) is None:
        _put(tables, SIGNING_KEYS, record.key, index, record)
        _trim(tables, SIGNING_KEYS, KEYS_MAX)


def key_retired(tables: Tables, record: SigningKeyRetired) -> None:
    tables.delete(SIGNING_KEYS, record.key)


def issued(tables: Tables, index: int, record: TokenIssued) -> None:
    """A renewal costs what its row does; a new token counts them."""
    is_new = tables.get(TOKENS, record.token) is None
    _put(tables, TOKENS, record.token, index, record)
    former = _revocation(tables, record.token)
    if former is not None and former.expires < record.expires:
        # It was renewed while its revocation was on its way.
        _put(tables, REVOKED, record.token, index, replace(former, expires=record.expires))
    if is_new:
        _trim(tables, TOKENS, TOKENS_MAX)


def revoked(tables: Tables, index: int, record: TokenRevoked) -> None:
    known = tables.get(TOKENS, record.token)
    expires = record.expires
    if known is not None:
        token = _record(known)
        assert isinstance(token, TokenIssued)
        expires = max(expires, token.expires)
    _put(tables, REVOKED, record.token, index, replace(record, expires=expires))
    _forget_over(tables, record.at)
    _trim(tables, REVOKED, REVOKED_MAX)


# -- questions


def scan(tables: Tables) -> Iterator[bytes]:
    """The records that make these rows, in the order of the log, tokens before revocations."""
    for table in (SIGNING_KEYS, TOKENS, REVOKED):
        for _, data in sorted(unpack(row) for _, row in tables.scan(table)):
            yield data


def keys(tables: Tables) -> list[SigningKeyAdded]:
    """The keys whose tokens hold, oldest first."""
    found = [decode(data) for _, data in sorted(map(unpack, _rows(tables, SIGNING_KEYS)))]
    return [record for record in found if isinstance(record, SigningKeyAdded)]


def spent(tables: Tables, own: bytes, over: float, leeway_s: float) -> list[bytes]:
    """Keys that sign no more, and of whose tokens none can hold: of each peer all but the newest,
    and those of a peer that was removed. Never ``own``.

    ``over``: what has expired by then (seconds since the epoch) is not renewed any more.
    ``leeway_s``: by how much clocks of peers differ.
    """
    signing, removed = keys(tables), _removed(tables)
    newest = {key.peer: key.at for key in signing}
    held = [(index, token) for index, token in _issued(tables) if token.expires > over]

    def is_spent(key: SigningKeyAdded) -> bool:
        replaced, gone = newest[key.peer], removed.get(key.peer)
        if key.at < replaced and not any(t.issued <= replaced + leeway_s for _, t in held):
            return True
        # What was issued or renewed since its peer went is signed by another.
        return gone is not None and not any(index <= gone for index, _ in held)

    return [key.key for key in signing if key.key != own and is_spent(key)]


def _removed(tables: Tables) -> dict[str, int]:
    """Where in the log each peer went that has no disk in the cell any more."""
    rows = [(index, decode(data)) for index, data in peer_table.scan(tables)]
    named = [(index, row) for index, row in rows if isinstance(row, PeerNamed)]
    here = {row.name for _, row in named if not row.gone}
    return {row.name: index for index, row in named if row.name not in here}


def _issued(tables: Tables) -> Iterator[tuple[int, TokenIssued]]:
    for row in _rows(tables, TOKENS):
        record = _record(row)
        if isinstance(record, TokenIssued):
            yield int(unpack(row)[0]), record


def index_of(tables: Tables, key: bytes) -> int | None:
    """Where in the log the key was added; None for one that signs nothing."""
    row = tables.get(SIGNING_KEYS, key)
    return int(unpack(row)[0]) if row is not None else None


def tokens(tables: Tables) -> list[TokenIssued]:
    """What was issued, as far as it is listed."""
    found = map(_record, _rows(tables, TOKENS))
    return [record for record in found if isinstance(record, TokenIssued)]


def revocations(tables: Tables) -> list[TokenRevoked]:
    """What holds no longer."""
    found = map(_record, _rows(tables, REVOKED))
    return [record for record in found if isinstance(record, TokenRevoked)]


def _revocation(tables: Tables, token: bytes) -> TokenRevoked | None:
    row = tables.get(REVOKED, token)
    record = _record(row) if row is not None else None
    return record if isinstance(record, TokenRevoked) else None


# -- rows


def _rows(tables: Tables, table: str) -> Iterator[bytes]:
    return (row for _, row in tables.scan(table))


def _record(row: bytes) -> SigningKeyAdded | SigningKeyRetired | TokenIssued | TokenRevoked:
    record = decode(unpack(row)[1])
    assert isinstance(record, SigningKeyAdded | TokenIssued | TokenRevoked)
    return record


def _put(
    tables: Tables,
    table: str,
    key: bytes,
    index: int,
    record: SigningKeyAdded | TokenIssued | TokenRevoked,
) -> None:
    tables.put(table, key, pack((index, encode(record))))


def _forget_over(tables: Tables, now: int) -> None:
    for record in revocations(tables):
        if record.expires + FORGET_AFTER_S < now:
            tables.delete(REVOKED, record.token)


def _trim(tables: Tables, table: str, most: int) -> None:
    excess = sum(1 for _ in tables.keys(table)) - most
    if excess > 0:
        rows = ((unpack(row)[0], key) for key, row in tables.scan(table))
        for _, key in nsmallest(excess, rows):
            tables.delete(table, key)
