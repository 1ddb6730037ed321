"""Shared options of commands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ha_scheduler.cell.peers import DEFAULT_DASK_PORT, PORT_MAX, Cell, parse_peers
from ha_scheduler.cli.certificates import PROTOCOLS, TlsOptions
from ha_scheduler.cli.configuration import configured
from ha_scheduler.errors import OperatorError

_F = TypeVar("_F", bound=Callable[..., Any])
TLS_FILES = ("tls_ca_file", "tls_cert", "tls_key", "tls_dir")


def path_option(name: str, help_text: str) -> Callable[[_F], _F]:
    """An option that is a path, unchecked: later checks have better errors."""
    return click.option(name, type=click.Path(path_type=Path), default=None, help=help_text)


def tls_options(command: _F) -> _F:
    """``--protocol`` and the options that name TLS files."""
    for option in (
        path_option("--tls-dir", "Directory made by `dask-ha-scheduler init`."),
        path_option("--tls-key", "Private key file for TLS (PEM)."),
        path_option("--tls-cert", "Certificate file for TLS (PEM)."),
        path_option("--tls-ca-file", "CA certificate file for TLS (PEM)."),
        click.option(
            "--protocol",
            type=click.Choice(PROTOCOLS),
            default=PROTOCOLS[0],
            help="tcp, without any security, only when all peers are on loopback.",
        ),
    ):
        command = option(command)
    return command


def peers_option(command: _F) -> _F:
    """``--peers``."""
    return click.option(
        "--peers",
        default=None,
        metavar="LIST",
        help="All peers of the cell: [NAME=]HOST[:PEER_PORT][/DASK_PORT],…  A new cell has an odd "
        "number of them; one that was changed may be named by its first list or by today's.",
    )(command)


def port_option(command: _F) -> _F:
    """``--port``."""
    return click.option(
        "--port",
        type=click.IntRange(1, PORT_MAX),
        default=None,
        help=f"Dask port of peers for which --peers names none.  [default: {DEFAULT_DASK_PORT}]",
    )(command)


def the_cell(peers: str | None, port: int | None = None, *, any_count: bool = True) -> Cell:
    """The cell of ``--peers`` and ``--port``. ``any_count``: as in ``parse_peers``.

    Raises ``OperatorError``.
    """
    if peers is None:
        raise OperatorError(
            "--peers is missing; list all peers of the cell, as in "
            "--peers a=10.0.0.1,b=10.0.0.2,c=10.0.0.3."
        )
    dask_port = port if port is not None else DEFAULT_DASK_PORT
    return parse_peers(peers, dask_port, any_count=any_count)


def the_tls(values: dict[str, Any], data_dir: Path | None) -> TlsOptions:
    """Takes the options of ``tls_options`` out of a command's ``values``."""
    return TlsOptions(
        protocol=values.pop("protocol"),
        ca_file=values.pop("tls_ca_file"),
        cert_file=values.pop("tls_cert"),
        key_file=values.pop("tls_key"),
        directory=values.pop("tls_dir"),
        data_dir=data_dir,
    )


def from_configuration(values: dict[str, Any], *, protocol_given: bool) -> dict[str, Any]:
    """``values`` with what a peer here takes from Dask's configuration, where no option is given.

    The files of TLS go together: where an option names one, or ``--data-dir``, none are taken. What
    is not needed is not looked at: a mistake there keeps no operator out. Raises ``OperatorError``.
    """
    named = any(values[name] is not None for name in TLS_FILES)
    plain = protocol_given and values["protocol"] != PROTOCOLS[0]
    wanted = {
        *(("peers", "port") if values["peers"] is None else ()),
        *(() if named or plain or values["data_dir"] is not None else TLS_FILES),
        *(() if named or protocol_given else ("protocol",)),
    }
    found = configured(wanted) if wanted else {}
    port = found.pop("port", None)
    if found.get("peers") is not None:
        found["peers"] = the_cell(found["peers"], port).text
    return {**values, **found}
