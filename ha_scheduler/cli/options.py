"""Options that several commands share, and how a mistake is told: one sentence, exit status 2."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from ha_scheduler.cell.peers import DEFAULT_DASK_PORT, PORT_MAX, Cell, parse_peers
from ha_scheduler.cli.certificates import PROTOCOLS, TlsOptions
from ha_scheduler.errors import EXIT_BAD_INPUT, EXIT_FAILED, ControlError, OperatorError

EXIT_INTERRUPTED = 130  # as a shell reports SIGINT

_F = TypeVar("_F", bound=Callable[..., Any])


class OneSentenceGroup(click.Group):
    """A group whose every error is one line on stderr, without usage or traceback."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run, and exit with the status that the command returned."""
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, False, **extra)
        try:
            status = super().main(args, prog_name, complete_var, False, **extra)
        except click.ClickException as error:
            sentence = error.format_message().replace("\n", " ").rstrip(".")
            fail(f"{sentence}; see --help for what can be given.", EXIT_BAD_INPUT)
        except OperatorError as error:
            fail(str(error), error.exit_status)
        except ControlError as error:
            fail(str(error), EXIT_FAILED)
        except click.Abort:
            sys.exit(EXIT_INTERRUPTED)
        sys.exit(status if isinstance(status, int) else 0)


def as_sentence(error: BaseException) -> str:
    """The text of ``error`` with one full stop at its end."""
    return f"{str(error).rstrip('.')}."


def fail(sentence: str, status: int) -> NoReturn:
    """Say it on stderr, and exit."""
    click.echo(f"Error: {sentence}", err=True)
    sys.exit(status)


def path_option(name: str, help_text: str) -> Callable[[_F], _F]:
    """An option that is a path; whether it is any good is checked later, with a better sentence."""
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
            show_default=True,
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
    """The cell of ``--peers`` and ``--port``. Raises ``OperatorError``.

    ``any_count``: one that was changed, which may have an even number of peers.
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
