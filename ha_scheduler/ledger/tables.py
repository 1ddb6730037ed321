"""The port behind which the ledger keeps its rows.

Guarantee: a table maps bytes to bytes in the order of the keys. Rows may change during a scan:
those that are there throughout are seen once, others perhaps. Nothing here is durable; the storage
behind the port commits rows and applied index together.

A dump walks ``DUMPED_TABLES``: a table missing there would be missing on every peer restored from
a snapshot.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

META = "meta"  # term → latest TermStarted; runs → last of each term; rejected → latest rejection
EVENTS = "events"  # (index, part) → a record whose place among others matters, while it does
GRAPHS = "graphs"  # graph → index of its event
BLOB_PARTS = "blob_parts"  # (term, blob, number) → bytes
LOOSE_BLOBS = "loose_blobs"  # (term, blob) → number of parts: no record has named it yet
DELTAS = "deltas"  # (graph, client, index) → empty: who changed desires of the graph, and where
WANTS = "wants"  # (client, graph) → what the pair's events weigh
FORGOTTEN = "forgotten"  # (graph, index) → empty
ERRORS = "errors"  # (graph, key) → index of its event
RETRIED = "retried"  # (graph, key) → (index, part) of its event
SCATTERED = "scattered"  # (key, client) → (index, part) of its event
FREE_DELTAS = "free_deltas"  # (key, client, index, part) → sign: desires of keys of no graph
FREE_WANTS = "free_wants"  # (client, key) → empty: the client has events on that key of no graph
DEPARTED = "departed"  # (client, index) → empty: it left, and events before that still matter
CLIENTS = "clients"  # client → (index, client, session, subject, scopes)
SESSIONS = "sessions"  # session → floor and answered ranges
VALUES = "values"  # (space, name) → ValueSet as it was logged
PEERS = "peers"  # Raft id → (index, PeerNamed as it was logged)
CALL_SESSIONS = "call_sessions"  # session → (session, owner, subject): its answers are kept
CALLS = "calls"  # (session, slot) → (index, Called of its latest call without its changes)
CELL = "cell"  # b"cell" → (index, CellFounded as it was logged)
REJECTED = "rejected"  # a ring → RecordRejected: what of the log could not be applied
SESSION_CLIENTS = "session_clients"  # (session, client) → empty: derived of CLIENTS
OWNED_CALLS = "owned_calls"  # (owner, session) → empty: derived of CALL_SESSIONS
SIGNING_KEYS = "signing_keys"  # public key → (index, SigningKeyAdded as it was logged)
TOKENS = "tokens"  # id → (index, TokenIssued as it was logged last)
REVOKED = "revoked"  # id → (index, TokenRevoked)
MAINTENANCE = "maintenance"  # peer → (index, MaintenanceSet as it was logged), while it is active
QUARANTINE = "quarantine"  # content → (index, place in its record, CaseRestored)

TABLES = (
    META, EVENTS, GRAPHS, BLOB_PARTS, LOOSE_BLOBS, DELTAS, WANTS, FORGOTTEN, ERRORS, RETRIED,
    SCATTERED, FREE_DELTAS, FREE_WANTS, DEPARTED, CLIENTS, SESSIONS, VALUES, PEERS, CALL_SESSIONS,
    CALLS, REJECTED, SESSION_CLIENTS, OWNED_CALLS, QUARANTINE, CELL, SIGNING_KEYS, TOKENS, REVOKED,
    MAINTENANCE,
)  # fmt: skip
DERIVED_TABLES = (SESSION_CLIENTS, OWNED_CALLS)  # see ``indexes``: their rows are in no dump
DUMPED_TABLES = tuple(table for table in TABLES if table not in DERIVED_TABLES)

KEY_BYTES_MAX = 500  # bytes; LMDB takes 511
VALUE_BYTES_MAX = 1_000_000  # bytes; above, LMDB's p99 suffers; the longest record is 768 KiB


class Tables(Protocol):
    """Ordered rows. ``table`` is one of ``TABLES``; any other is a programmer's error."""

    def get(self, table: str, key: bytes) -> bytes | None: ...

    def put(self, table: str, key: bytes, value: bytes) -> None: ...

    def delete(self, table: str, key: bytes) -> bool:
        """Whether the row was there."""

    def scan(self, table: str, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Rows whose key starts with ``prefix``, by key. Rows may change meanwhile."""

    def keys(self, table: str, prefix: bytes = b"") -> Iterator[bytes]:
        """As ``scan``, without the values."""

    def has_any(self, table: str, prefix: bytes) -> bool:
        """Whether there is a row whose key starts with ``prefix``. Reads one row at the most."""
        ...

    def delete_prefix(self, table: str, prefix: bytes) -> int:
        """Delete the rows whose key starts with ``prefix``; returns how many."""
