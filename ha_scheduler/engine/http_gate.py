"""HTTP routes about the cluster, which the leader alone serves.

Guarantee: an engine that follows, has not recovered, or is not certain to lead answers 503 to all
but what is about its process. A follower knows no worker: its ``/api/v1/adaptive_target`` would
have a script end the cluster, and its dashboard would look like the loss of everything. A page says
that this is a follower and leads to the leader's; web sockets are not opened, so a page that was
open at a former leader says that it is disconnected.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from tornado.escape import xhtml_escape

from ha_scheduler.web.login import Page

OF_THE_PROCESS = re.compile(r"/(health|metrics|sitemap\.json|statics/.*|static/.*|favicon\.ico)")
RETRY_SECONDS = 1  # a leader is found in less


class NotLeading(Page):
    def initialize(self, name: str, leader: tuple[str, str], start: str) -> None:  # type: ignore[override]
        self.name = name
        self.leader = leader
        self.start = start

    def prepare(self) -> None:
        self.set_status(503)
        self.set_header("Retry-After", str(RETRY_SECONDS))
        if "text/html" in self.request.headers.get("Accept", ""):
            self.set_header("Refresh", "5")
            self.show(f"Dask: {self.name} is a follower", self._page())
            return
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(
            "This peer does not lead, or has not recovered yet. "
            f"{self._words()} Ask again, or ask the leader: `dask ha status` names it.\n"
        )

    def _words(self) -> str:
        name, dashboard = self.leader
        if not name:
            return "It knows no leader at this moment."
        return f"Peer {name} leads{f', at {dashboard}' if dashboard else ''}."

    def _page(self) -> str:
        name, dashboard = map(xhtml_escape, self.leader)
        if not name:
            leader = "<p>It knows no leader at this moment.</p>"
        elif dashboard:
            page = f"{dashboard}{self.start}/status"
            leader = f'<p>The leader is <a href="{page}">{name}, {dashboard}</a>.</p>'
        else:
            leader = f"<p>The leader is {name}.</p>"
        return (
            f"<p>Peer {xhtml_escape(self.name)} is a <b>follower</b>, or has not recovered yet: "
            f"it knows no workers. Nothing is lost.</p>{leader}"
        )


def install(
    application: Any,
    prefix: str,
    leads: Callable[[], bool],
    name: str,
    leader: Callable[[], tuple[str, str]],
) -> None:
    """Gate ``application``, of peer ``name``, by ``leads``.

    ``prefix``: that of all routes (``dashboard-prefix``), here and at the others. ``leader``: its
    name and the URL of its dashboard, as far as they are known; else empty.
    """
    find, start = application.find_handler, f"/{prefix.strip('/')}".rstrip("/")

    def find_handler(request: Any, **kwargs: Any) -> Any:
        path = request.path.removeprefix(start)
        if not OF_THE_PROCESS.fullmatch(path) and not leads():
            known = {"name": name, "leader": leader(), "start": start}
            return application.get_handler_delegate(request, NotLeading, known)
        return find(request, **kwargs)

    application.find_handler = find_handler
