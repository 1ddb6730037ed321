"""``/sitemap.json``: the paths that there are.

Upstream's takes bokeh's application for one of its own (http/routing.py:44), asks its files for a
directory that they have not, and answers 500 wherever there is a dashboard.
"""

from __future__ import annotations

from typing import Any

from distributed.http.routing import _descend_routes
from distributed.http.utils import RequestHandler


class Sitemap(RequestHandler):
    def get(self) -> None:
        ours: Any = self.application
        found: set[str] = set()
        for application in (*ours.applications, ours):
            if hasattr(application, "app_paths"):
                found.update(application.app_paths)
            else:
                _descend_routes(application.default_router, set(), found)
                _descend_routes(application.wildcard_router, set(), found)
        self.write({"paths": sorted(found)})


def install(application: Any) -> None:
    """In place of upstream's, which is the first rule of ``application``."""
    (rule,) = [
        rule
        for rules in application.default_router.rules
        for rule in getattr(rules.target, "rules", ())
        if getattr(getattr(rule.matcher, "regex", None), "pattern", "") == "/sitemap.json$"
    ]
    rule.target = Sitemap
