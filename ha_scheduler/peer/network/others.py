"""What the other peers last said of themselves. Pure: the clock is handed in.

Gossip is beside the consensus: it may be late or missing. Who was not heard of for ``FRESH_S``
counts as silent for what is kept for it (``lowest_applied``), and who is not connected is no
candidate, however fresh its last word looks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ha_scheduler.peer.consensus.leadership import FRESH_S, Other
from ha_scheduler.protocol.peer import Gossip


class Others:
    def __init__(self) -> None:
        self._last: dict[int, Other] = {}
        self._dashboards: dict[int, str] = {}
        self.releases: dict[int, str] = {}  # of this package
        self.formats: dict[int, int] = {}  # of records, that it reads
        self._waited: dict[int, tuple[float, float]] = {}  # seconds without service, told when

    def heard(self, peer: int, news: Gossip, now: float) -> None:
        self._last[peer] = Other(news.ready, news.applied, now, news.replayed)
        self._dashboards[peer] = news.dashboard
        self._waited[peer] = news.waited_s, now
        self.releases[peer] = news.release
        if news.format:
            self.formats[peer] = news.format

    def last(self, peer: int) -> Other | None:
        return self._last.get(peer)

    def dashboard(self, peer: int) -> str:
        """Scheme and port of its engine's, or empty."""
        return self._dashboards.get(peer, "")

    def waited_s(self, now: float) -> list[float]:
        """For how long each peer that lives has known of nobody who serves; 0.0: it does."""
        live = [known for known in self._waited.values() if now - known[1] < FRESH_S]
        return [waited + now - told if waited else 0.0 for waited, told in live]

    def heard_at(self, peer: int) -> float:
        """When, or 0.0 for never."""
        other = self._last.get(peer)
        return other.heard_at if other is not None else 0.0

    def candidates(
        self, voters: Iterable[int], connected: Callable[[int], bool]
    ) -> dict[int, Other]:
        """Connected voters: one that just died may still look fresh."""
        return {peer: self._last[peer] for peer in voters if peer in self._last and connected(peer)}

    def behind(self, members: Iterable[int], index: int, now: float) -> list[int]:
        """The members that live and have not applied the log up to ``index``."""
        known = ((peer, self._last[peer]) for peer in members if peer in self._last)
        return [p for p, o in known if now - o.heard_at < FRESH_S and o.applied < index]

    def applied(self, members: Iterable[int], now: float) -> list[int]:
        """How far each member that lives has applied the log."""
        known = (self._last[peer] for peer in members if peer in self._last)
        return [other.applied for other in known if now - other.heard_at < FRESH_S]
