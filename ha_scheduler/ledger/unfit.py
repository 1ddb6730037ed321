"""Why bytes in the log are not applied: a newer release wrote them, or nobody could have.

Guarantee: the first stops a peer, which would have a hole in its ledger; the second stops nobody,
and every peer gives the same ``Reason``.
"""

from __future__ import annotations

from enum import StrEnum


class UnknownRecordError(Exception):
    """Storage or peer: a newer release has written this; upgrade this peer."""


class Reason(StrEnum):
    """Why a record cannot be applied. Part of the ledger: no text of a library is in it."""

    MALFORMED = "malformed"  # it is no record of any release
    TOO_LARGE = "too-large"
    GRAPH_KNOWN = "graph-known"  # the ledger has its graph already
    PART_MISPLACED = "part-misplaced"  # it is not the next part of a loose blob
    BLOB_INCOMPLETE = "blob-incomplete"  # the blob it names has not these parts, or is owned
    DROPPED = "dropped"  # by an operator, on this peer
    PAYLOAD_UNUSABLE = "payload-unusable"  # it has no changes and answer that a call may have


class RejectedRecord(Exception):
    """Engine: it wrote a record that no peer can apply; every peer skips it alike."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class MalformedRecordError(RejectedRecord):
    """Engine: bytes that no release wrote."""

    def __init__(self, detail: str) -> None:
        super().__init__(Reason.MALFORMED, detail)
