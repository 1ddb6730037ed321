"""Spans whose default ids are the leader's decision, so that they survive it.

Upstream draws the id of a default span at random on the scheduler (spans.py:569), and a worker's
heartbeat that names an id unknown to a new leader raises (spans.py:643), which upstream's worker
answers by closing. Here the leader records the id with the graph, a follower uses the recorded one,
and metrics of a span that is not known are dropped: they are statistics.
"""

from __future__ import annotations

import uuid
from collections.abc import Hashable
from typing import Any

from distributed.spans import SpansSchedulerExtension


class Spans(SpansSchedulerExtension):
    """The scheduler's spans extension."""

    _chosen: str | None = None

    def choose_default(self) -> str:
        """The id of the default span that the next graph will use; decided by the leader."""
        defaults = self.spans_search_by_name.get(("default",))  # to look must not make an entry
        if defaults and not defaults[-1].done:
            return str(defaults[-1].id)
        return str(uuid.uuid4())

    def use_default(self, span_id: str) -> None:
        """Use this default span from now on."""
        self._chosen = span_id

    def _ensure_default_span(self) -> Any:
        if self._chosen is None:
            return super()._ensure_default_span()
        return self._ensure_span(("default",), (self._chosen,))

    def heartbeat(self, ws: Any, data: dict[tuple[Hashable, ...], float]) -> None:
        """Take a worker's span metrics; leave out spans that ended before this leader began."""
        known = {key: value for key, value in data.items() if key[1] in self.spans}
        super().heartbeat(ws, known)
