"""The link to the dashboard of a cell's leader."""

from __future__ import annotations

import os

import dask

from ha_scheduler.comm import address as addresses


def dashboard_link(scheduler: str, port: int) -> str:
    """As upstream's (``distributed.dashboard.link``), for the leader at the address ``scheduler``.

    Upstream takes https for configured where *this* process has a certificate for a dashboard. A
    cell serves HTTP as it serves Dask. Raises ``KeyError`` as upstream, for a template that names
    what is not in the environment.
    """
    endpoint = addresses.parse_endpoint(scheduler)
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    scheme = "https" if scheduler.startswith("tls://") else "http"
    template: str = dask.config.get("distributed.dashboard.link")
    return template.format(**{**os.environ, "scheme": scheme, "host": host, "port": port})
