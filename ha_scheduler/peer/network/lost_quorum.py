"""The sentence for who has no leader: since when, and why each other peer is not reached. Pure.

A peer that stands alone is quiet otherwise: it votes for itself in silence, and an operator sees a
daemon that is up. So it warns after ``PATIENCE_S``, several elections after the loss, and again
every ``REPEAT_S`` while it lasts.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping

from ha_scheduler.raft.quorum import majority

PATIENCE_S = 10.0
REPEAT_S = 60.0
REASON_CHARS_MAX = 200  # of each peer

_IT_REFUSES_US = ("UNKNOWN_CA", "BAD_CERTIFICATE", "CERTIFICATE_UNKNOWN", "CERTIFICATE_REQUIRED")


class LostQuorum:
    """Since when nobody leads, as far as this peer knows."""

    def __init__(self, now: float) -> None:
        self._since = now
        self._lost = True
        self._told_at: float | None = None

    def tick(
        self, now: float, leader: str | None, peers: int, failures: Mapping[str, str]
    ) -> str | None:
        """What to warn of now, if anything.

        ``peers``: how many belong to the cell. ``failures``: why some are not connected, by name.
        """
        if leader is not None:
            self._lost, self._told_at = False, None
            return None
        if not self._lost:
            self._lost, self._since = True, now
        lost_s = now - self._since
        last = self._told_at
        if lost_s < PATIENCE_S or (last is not None and now - last < REPEAT_S):
            return None
        self._told_at = now
        reasons = "; ".join(f"{n}: {why[:REASON_CHARS_MAX]}" for n, why in failures.items())
        return (
            f"nobody leads since {lost_s:.0f} s: {majority(peers)} of {peers} peers must reach one "
            f"another, and not reached are: {reasons or 'none'}"
        )


def in_words(error: BaseException) -> str:
    """Why a connection to a peer failed, for its operator."""
    match error:
        case ConnectionRefusedError():
            return "connection refused; see that its daemon runs"
        case TimeoutError():
            return "no answer in time; see that its host and the way to it are up"
        case ssl.SSLCertVerificationError():
            return f"its certificate is refused here: {error.verify_message}"
        case ssl.SSLError() if any(word in (error.reason or "") for word in _IT_REFUSES_US):
            return "it refuses our certificate; see that both are of one authority"
        case OSError():
            return error.strerror or str(error) or type(error).__name__
        case EOFError():
            return "it hung up; its log says why"
        case _:
            return str(error) or type(error).__name__
