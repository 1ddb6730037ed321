"""How often a network may show a token that is refused.

Guarantee: ``BURST`` at once and then one each ``EVERY_S``. A token cannot be guessed; what is
limited is the work and the log lines that a guesser makes. A site behind one address waits
together, a minute at most. Pure: the clock is injected.
"""

from __future__ import annotations

from collections import OrderedDict

BURST = 10
EVERY_S = 6.0
NETWORKS_MAX = 4096  # remembered; the one that failed the longest ago is forgotten first


class Attempts:
    """A bucket of ``BURST`` for each network, as the time at which it is full again."""

    def __init__(self) -> None:
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def wait_s(self, network: str, now: float) -> float:
        """Seconds until another attempt of this network is looked at; 0.0: now."""
        owed = self._full_at.get(network, now) - now
        return max(0.0, owed - (BURST - 1) * EVERY_S)

    def failed(self, network: str, now: float) -> None:
        self._full_at[network] = max(self._full_at.get(network, now), now) + EVERY_S
        self._full_at.move_to_end(network)
        while len(self._full_at) > NETWORKS_MAX:
            self._full_at.popitem(last=False)
