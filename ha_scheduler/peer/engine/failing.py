"""Whether engines of this peer end again and again: then their daemon is up, and of no use.

Guarantee: said once a minute at the most, after ``IN_A_ROW`` engines that lived for less than
``HEALTHY_AFTER_S``, and never of ends that the daemon has planned.
"""

from __future__ import annotations

import logging
import time

from ha_scheduler.peer.engine.supervisor import BACKOFF_MAX_S, HEALTHY_AFTER_S

IN_A_ROW = 3
TELL_EVERY_S = 60.0
OVER_AFTER_S = BACKOFF_MAX_S + HEALTHY_AFTER_S  # since the last end: the next engine lives

logger = logging.getLogger(__name__)


class Failing:
    """Counts ends in a row."""

    def __init__(self) -> None:
        self._why = ""
        self._ends = 0
        self._ended_at = 0.0
        self._told_at = -TELL_EVERY_S

    @property
    def why(self) -> str:
        """How the last one ended, while they fail; empty once an engine has lived."""
        return self._why if time.monotonic() - self._ended_at < OVER_AFTER_S else ""

    def ended(self, spawned_at: float, why: str) -> None:
        """An engine ended that the daemon had not ended; ``spawned_at``: CLOCK_MONOTONIC."""
        now = time.monotonic()
        self._ends = self._ends + 1 if now - spawned_at < HEALTHY_AFTER_S else 0
        self._why = why if self._ends >= IN_A_ROW else ""
        self._ended_at = now
        if self._why and now - self._told_at >= TELL_EVERY_S:
            self._told_at = now
            logger.error(
                "%d engines of this peer have ended in a row, each within %d s: %s. This peer "
                "cannot lead; the lines of the engine say why",
                self._ends,
                HEALTHY_AFTER_S,
                why,
                extra={"action": "engine_failing"},
            )
