"""The daemon's port of HTTP: what it answers, and by which code.

Guarantee: everything here is read from what the daemon knows now; nothing waits for an engine, nor
runs or reads what users sent. ``/health``, ``/ready``, ``/leader`` and ``/follower`` take no token
and say yes (200) or no (503) and nothing else. They never redirect: HAProxy takes 3xx for up. All
else takes a token of the cell (``access.py``). The description is ``openapi.json``.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib import resources
from typing import Any

import msgspec
from tornado.web import Application, RequestHandler

from ha_scheduler.protocol.control import Status
from ha_scheduler.protocol.peer import Failover
from ha_scheduler.web.conditions import follows, leads, unready

DESCRIPTION = "openapi.json"
RETRY_S = 1
LINEARIZABLE = "linearizable"


@dataclass(frozen=True, slots=True)
class Source:
    """What the daemon knows. ``metrics``: Prometheus' text, and its content type.

    ``dashboard``: the URL of the leader's, or empty. ``current``: waits until a quorum says that
    what this peer knows is not out of date; raises ``NotCurrent``.
    """

    status: Callable[[], Status]
    history: Callable[[], tuple[Failover, ...]]
    metrics: Callable[[], tuple[bytes, str]]
    dashboard: Callable[[], str]
    current: Callable[[], Awaitable[None]]


class NotCurrent(Exception):
    """Peer: no quorum has said so in time."""


class _Page(RequestHandler):
    def initialize(self, source: Source) -> None:
        self.source = source

    def set_default_headers(self) -> None:
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Content-Type-Options", "nosniff")

    def say(self, answer: Any, *, yes: bool = True) -> None:
        if not yes:
            self.set_status(503)
            self.set_header("Retry-After", str(RETRY_S))
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(answer) + "\n")

    def head(self, *args: str) -> Any:
        return self.get(*args)

    async def is_current(self) -> bool:
        """Whether to answer: what is asked for with ``consistency=linearizable`` waits for it."""
        if self.get_query_argument("consistency", "") != LINEARIZABLE:
            return True
        try:
            await self.source.current()
        except NotCurrent as error:
            self.say({"error": str(error)}, yes=False)
            return False
        return True

    def get(self, *args: str) -> None:
        raise NotImplementedError

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        self.set_header("Content-Type", "application/json")
        if status_code == 405:
            self.set_header("Allow", "GET, HEAD")
        self.finish(json.dumps({"error": self._reason}) + "\n")


class Health(_Page):
    def get(self) -> None:  # type: ignore[override]
        self.say({"up": True, "leader": leads(self.source.status())})


class Ready(_Page):
    def get(self) -> None:  # type: ignore[override]
        ready = not unready(self.source.status())
        self.say({"ready": ready}, yes=ready)


class Leader(_Page):
    def get(self) -> None:  # type: ignore[override]
        leader = leads(self.source.status())
        self.say({"leader": leader}, yes=leader)


class Follower(_Page):
    def get(self) -> None:  # type: ignore[override]
        follower = follows(self.source.status())
        self.say({"follower": follower}, yes=follower)


class Cell(_Page):
    """The status of this peer, and of the others as far as it knows."""

    async def get(self) -> None:  # type: ignore[override]
        if not await self.is_current():
            return
        status = self.source.status()
        told = msgspec.to_builtins(status)
        told.pop("op", None)
        self.say(
            {
                **told,
                "is_leader": leads(status),
                "is_ready": not unready(status),
                "unready": unready(status),
                "leader_dashboard": self.source.dashboard(),
            }
        )


class History(_Page):
    """The changes of leader that this peer remembers, oldest first."""

    async def get(self) -> None:  # type: ignore[override]
        if not await self.is_current():
            return
        self.say({"failovers": [msgspec.to_builtins(entry) for entry in self.source.history()]})


class Metrics(_Page):
    def get(self) -> None:  # type: ignore[override]
        text, content_type = self.source.metrics()
        self.set_header("Content-Type", content_type)
        self.finish(text)


class Dashboard(_Page):
    """To the leader's, wherever that is."""

    def get(self) -> None:  # type: ignore[override]
        link = self.source.dashboard()
        if not link:
            self.say({"error": "no dashboard of a leader is known"}, yes=False)
            return
        self.set_status(307)
        self.set_header("Location", f"{link}/status")
        self.finish()


class Description(_Page):
    def get(self) -> None:  # type: ignore[override]
        self.set_header("Content-Type", "application/json")
        self.finish(description())


class Nothing(_Page):
    def prepare(self) -> None:
        self.send_error(404)


def description() -> bytes:
    """OpenAPI 3.1, as JSON."""
    return resources.files("ha_scheduler.web").joinpath(DESCRIPTION).read_bytes()


PAGES: dict[str, type[_Page]] = {
    "/health": Health,
    "/ready": Ready,
    "/leader": Leader,
    "/follower": Follower,
    "/cell": Cell,
    "/history": History,
    "/metrics": Metrics,
    "/dashboard": Dashboard,
    "/openapi.json": Description,
}


def application(source: Source) -> Application:
    """All routes, without a guard."""
    given = {"source": source}
    return Application(
        [(path, page, given) for path, page in PAGES.items()],
        default_handler_class=Nothing,
        default_handler_args=given,
        log_function=_log_nothing,
    )


def _log_nothing(handler: RequestHandler) -> None:
    """Load balancers ask each second; what fails with a defect, tornado logs by itself."""
