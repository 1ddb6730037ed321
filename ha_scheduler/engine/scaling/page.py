"""``/ha/scaling``: what each owner of workers wants, should have and has, as JSON."""

from __future__ import annotations

from typing import Any

from distributed.http.utils import RequestHandler


class ScalingHandler(RequestHandler):
    def get(self) -> None:
        self.write(self.server.scaling_report())  # the Scheduler


routes: list[tuple[str, type, dict[str, Any]]] = [(r"ha/scaling", ScalingHandler, {})]
