"""HTTP routes that tell of the cluster are those of the leader.

Guarantee: an engine that follows, has not recovered yet, or cannot be certain that it still leads,
says nothing about workers and tasks over HTTP, and does nothing to them: it answers 503. A follower
knows what was asked for and no worker, so ``/api/v1/adaptive_target`` of one would have somebody's
script end the cluster. ``/health`` and ``/metrics`` are about the process, and answer always; pages
of the dashboard are drawn for whoever looks, and show a follower's state.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from tornado.web import RequestHandler

LEADERS_ALONE = re.compile(r"/(api|info|json)(/|$)")
RETRY_SECONDS = 1  # a leader is found in less


class NotLeading(RequestHandler):
    """The answer of an engine that does not lead."""

    def prepare(self) -> None:
        """Answer any method alike."""
        self.set_status(503)
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.set_header("Retry-After", str(RETRY_SECONDS))
        self.finish(
            "This peer does not lead, or has not recovered yet. Ask again, or ask the leader: "
            "`dask-ha-scheduler status` names it.\n"
        )


def install(application: Any, prefix: str, leads: Callable[[], bool]) -> None:
    """Have ``application`` answer for the leader only while ``leads`` says so.

    ``prefix`` is that of all routes (``dashboard-prefix``).
    """
    find, start = application.find_handler, f"/{prefix.strip('/')}".rstrip("/")

    def find_handler(request: Any, **kwargs: Any) -> Any:
        path = request.path.removeprefix(start)
        if LEADERS_ALONE.match(path) and not leads():
            return application.get_handler_delegate(request, NotLeading)
        return find(request, **kwargs)

    application.find_handler = find_handler
