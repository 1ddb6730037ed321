"""From the scheduler's dashboard to those of its workers.

Upstream's route lets a browser through to a worker by way of the scheduler, if jupyter-server-proxy
is installed: in plaintext, with the browser's cookies, and by a web socket to any host. Here the
browser is sent to the worker itself, which asks who it is.
"""

from __future__ import annotations

from typing import Any

from distributed.comm.addressing import unparse_host_port
from distributed.http.proxy import check_worker_dashboard_exists
from distributed.http.utils import RequestHandler


class WorkerPage(RequestHandler):
    def get(self, port: str, host: str, page: str) -> None:
        if not check_worker_dashboard_exists(self.server, f"{host}:{port}"):
            self.set_status(404)
            self.set_header("Content-Type", "text/plain; charset=utf-8")
            self.finish("There is no such worker.\n")
            return
        # As ours: a cell is over TLS as a whole, or not at all.
        place = f"{self.request.protocol}://{unparse_host_port(host, int(port))}"
        self.redirect(f"{place}/{page}")


def route(server: Any, prefix: str) -> tuple[str, type, dict[str, Any]]:
    """In place of ``distributed.http.proxy``."""
    start = f"/{prefix.strip('/')}".rstrip("/")
    return start + r"/proxy/(\d+)/(.*?)/(.*)", WorkerPage, {"dask_server": server}
