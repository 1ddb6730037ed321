"""HTTP routes about the cluster, which the leader alone serves.

Guarantee: an engine that follows, has not recovered, or is not certain to lead answers 503 to what
asks about workers and tasks or acts on them. A follower knows no worker: its
``/api/v1/adaptive_target`` would have a script end the cluster. ``/health`` and ``/metrics`` are
about the process and always answer; dashboard pages show a follower's state.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from tornado.web import RequestHandler

LEADERS_ALONE = re.compile(r"/(api|info|json)(/|$)")
RETRY_SECONDS = 1  # a leader is found in less


class NotLeading(RequestHandler):
    def prepare(self) -> None:
        self.set_status(503)
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.set_header("Retry-After", str(RETRY_SECONDS))
        self.finish(
            "This peer does not lead, or has not recovered yet. Ask again, or ask the leader: "
            "`dask-ha-scheduler status` names it.\n"
        )


def install(application: Any, prefix: str, leads: Callable[[], bool]) -> None:
    """Gate ``application`` by ``leads``. ``prefix``: that of all routes (``dashboard-prefix``)."""
    find, start = application.find_handler, f"/{prefix.strip('/')}".rstrip("/")

    def find_handler(request: Any, **kwargs: Any) -> Any:
        path = request.path.removeprefix(start)
        if LEADERS_ALONE.match(path) and not leads():
            return application.get_handler_delegate(request, NotLeading)
        return find(request, **kwargs)

    application.find_handler = find_handler
