"""Spans whose default ids are decided by the leader, and recorded.

Upstream draws the id of a default span at random (spans.py:569). A worker's heartbeat that names an
id unknown to a new leader raises (spans.py:643), and upstream's worker closes then. Here the leader
records the id with the graph and followers use it; metrics of unknown spans are dropped: they are
statistics.
"""

from __future__ import annotations

import uuid
from collections.abc import Hashable
from typing import Any

from distributed.spans import SpansSchedulerExtension


class Spans(SpansSchedulerExtension):
    _chosen: str | None = None

    def choose_default(self) -> str:
        """The leader's choice of the default span for the next graph."""
        defaults = self.spans_search_by_name.get(("default",))  # to look must not make an entry
        if defaults and not defaults[-1].done:
            return str(defaults[-1].id)
        return str(uuid.uuid4())

    def use_default(self, span_id: str) -> None:
        self._chosen = span_id

    def _ensure_default_span(self) -> Any:
        if self._chosen is None:
            return super()._ensure_default_span()
        return self._ensure_span(("default",), (self._chosen,))

    def heartbeat(self, ws: Any, data: dict[tuple[Hashable, ...], float]) -> None:
        """As upstream's, without spans that ended before this leader began."""
        known = {key: value for key, value in data.items() if key[1] in self.spans}
        super().heartbeat(ws, known)
