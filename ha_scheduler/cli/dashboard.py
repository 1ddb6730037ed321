"""``dask ha dashboard``: the leader's dashboard at an address of this machine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ha_scheduler.cli.certificates import choose_control_files
from ha_scheduler.cli.control import ControlClient
from ha_scheduler.cli.operate import cell_options
from ha_scheduler.cli.options import path_option, the_cell, the_tls
from ha_scheduler.errors import ControlError, OperatorError
from ha_scheduler.protocol.control import Status
from ha_scheduler.security.contexts import client_context
from ha_scheduler.security.token_source import find_token

LOOPBACK = "127.0.0.1"


@click.command()
@click.option("--port", default=8797, help="Port of loopback to serve it at; 0: a free one.")
@path_option("--token-file", "The token to show.  [default: client.token of the certificates]")
@cell_options
def dashboard(port: int, token_file: Path | None, **values: Any) -> int:
    """Serve the dashboard of the leader on this machine, for JupyterLab and browsers.

    It follows the leader. Whoever knows the address that is printed sees what your token shows.
    """
    cell = the_cell(values.pop("peers"), None)
    data_dir: Path | None = values.pop("data_dir")
    files = choose_control_files(the_tls(values, data_dir), cell)
    if files is None:
        raise OperatorError("The dashboards of a cell in plaintext are on loopback already.")
    client = ControlClient(cell, files, values["timeout"])

    async def find() -> str:
        return await asyncio.to_thread(leader_dashboard, client)

    def token() -> bytes | None:
        return find_token("client", files.cert_file, token_file)

    if token() is None:
        raise OperatorError("There is no token to show; name one with --token-file.")
    asyncio.run(_serve(find, token, client_context(files), port))
    return 0


def leader_dashboard(client: ControlClient) -> str:
    """Its URL, or empty. Blocks."""
    answers = client.of_all(client.status).values()
    leaders: list[Status] = [
        status
        for status in answers
        if not isinstance(status, ControlError) and status.role == "leader" and status.serving
    ]
    newest = max(leaders, key=lambda status: status.term, default=None)
    return newest.engine.dashboard if newest is not None else ""


async def _serve(
    find: Callable[[], Any], token: Callable[[], bytes | None], trust: Any, port: int
) -> None:
    from ha_scheduler.web.forward import Leader, door  # tornado
    from ha_scheduler.web.server import bind

    application, secret = door(Leader(find, token, trust))
    sock = bind(LOOPBACK, port)
    sock.listen()
    from tornado.httpserver import HTTPServer

    server = HTTPServer(application)
    server.add_sockets([sock])
    click.echo(f"http://{LOOPBACK}:{sock.getsockname()[1]}/{secret}/status")
    await asyncio.Event().wait()
