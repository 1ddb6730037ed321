"""Whether engines of this peer end again and again: then their daemon is up, and of no use.

Guarantee: said once a minute at the most, after ``IN_A_ROW`` engines that lived for less than
``HEALTHY_AFTER_S``, and never of ends that the daemon has planned.
"""

from __future__ import annotations

import logging
import time

from ha_scheduler.peer.engine.supervisor import HEALTHY_AFTER_S

IN_A_ROW = 3
TELL_EVERY_S = 60.0

logger = logging.getLogger(__name__)


class Failing:
    """Counts ends in a row."""

    def __init__(self) -> None:
        self.why = ""  # of the last one, while they fail
        self._ends = 0
        self._told_at = -TELL_EVERY_S

    def ended(self, spawned_at: float, why: str) -> None:
        """An engine ended that the daemon had not ended; ``spawned_at``: CLOCK_MONOTONIC."""
        now = time.monotonic()
        self._ends = self._ends + 1 if now - spawned_at < HEALTHY_AFTER_S else 0
        self.why = why if self._ends >= IN_A_ROW else ""
        if self.why and now - self._told_at >= TELL_EVERY_S:
            self._told_at = now
            logger.error(
                "%d engines of this peer have ended in a row, each within %d s: %s. This peer "
                "cannot lead; the lines of the engine say why",
                self._ends,
                HEALTHY_AFTER_S,
                why,
                extra={"action": "engine_failing"},
            )
