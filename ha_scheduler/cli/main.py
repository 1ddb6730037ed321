"""``dask-ha-scheduler``: run one peer of a cell, or operate a cell with a subcommand.

Guarantee: an operator's mistake is one sentence on stderr and exit status 2, before anything is
changed on disk. Certificates of a loopback cell, the only thing made here, are made after every
check. The daemon, and with it everything heavy, is imported after that.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ha_scheduler.cell.peers import PORT_MAX, Cell, check_count, own_name
from ha_scheduler.cli.certificates import Choice, choose_peer_files, state_directory
from ha_scheduler.cli.commands import COMMANDS, LazyGroup
from ha_scheduler.cli.daemon_options import (
    SESSION_TTL,
    engine_options,
    http_address,
    listen_host,
    virtual_address,
)
from ha_scheduler.cli.host import local_addresses, local_names
from ha_scheduler.cli.logging_setup import LEVELS, set_up_logging
from ha_scheduler.cli.options import (
    path_option,
    peers_option,
    port_option,
    the_cell,
    the_tls,
    tls_options,
)
from ha_scheduler.cli.preflight import check_start
from ha_scheduler.cli.sentences import CONTEXT, as_sentence, fail
from ha_scheduler.errors import EXIT_FAILED, OperatorError
from ha_scheduler.peer import founding
from ha_scheduler.peer.settings import (
    ENGINE_WATCHDOG_S,
    PRIORITY_MAX,
    Admission,
    PeerSettings,
    Timing,
)
from ha_scheduler.security.authority import ISSUING, load
from ha_scheduler.vip.hooks import Commands

logger = logging.getLogger(__name__)

T = TypeVar("T")

_TIMING = Timing()


@click.group(
    name="dask-ha-scheduler",
    cls=LazyGroup,
    found=COMMANDS,
    invoke_without_command=True,
    context_settings=CONTEXT,
)
@peers_option
@click.option("--name", default=None, help="Which of the peers this is.  [default: found]")
@path_option("--data-dir", "Where this peer keeps its log and ledger.")
@click.option(
    "--replace",
    is_flag=True,
    help="This peer has lost its disk: join the running cell with an empty one, as a new voter.",
)
@click.option(
    "--witness",
    is_flag=True,
    help="This peer votes and keeps the log, but no ledger, and never runs a Dask scheduler.",
)
@click.option(
    "--learner",
    is_flag=True,
    help="With --join: follow the cell without a vote, until `members promote`.",
)
@click.option("--join", is_flag=True, help="This is a new peer: add it to the running cell.")
@click.option("--host", default=None, help="Address to listen at.  [default: all of this host]")
@port_option
@click.option("--interface", default=None, help="Network interface to listen at, like 'eth0'.")
@tls_options
@click.option(
    "--dashboard-address", default=":8787", help="Address on which the dashboard listens."
)
@click.option("--dashboard/--no-dashboard", default=True, help="Serve it.")
@click.option(
    "--dashboard-prefix", default="", show_default=False, help="Prefix for the dashboard's URLs."
)
@click.option(
    "--preload",
    multiple=True,
    help='Module that the Dask scheduler loads, like "foo.bar" or "/path/to/foo.py".',
)
@click.option("--preload-argv", multiple=True, help="One argument for the preloaded modules.")
@click.option(
    "--session-ttl",
    default=SESSION_TTL,
    help="Keep what a client wants that fell silent; clients may ask for less.",
)
@click.option("--idle-timeout", default=None, help="End after this much inactivity, like '1 hour'.")
@click.option(
    "--engine-user",
    default=None,
    metavar="NAME",
    help="Run the Dask scheduler, and the code of users in it, as this user; takes root.",
)
@click.option(
    "--engine-env",
    multiple=True,
    metavar="NAME",
    help="An environment variable that the Dask scheduler is to have; most are kept from it.",
)
@click.option(
    "--http-address",
    default=None,
    help="Serve /health, /ready, /leader, /metrics and more of this peer there, like ':8788'.",
)
@click.option(
    "--vip",
    default=None,
    metavar="ADDRESS/LENGTH",
    help="Virtual address for clients and workers: the leader's host has it, like 10.0.0.100/24.",
)
@click.option(
    "--vip-interface",
    default=None,
    metavar="NAME",
    help="Network interface of the virtual address.  [default: the one in its network]",
)
@click.option(
    "--on-promote", default=None, metavar="COMMAND", help="Command to run when this peer leads."
)
@click.option(
    "--on-demote",
    default=None,
    metavar="COMMAND",
    help="Command to run when it leads no more.",
)
@click.option(
    "--scale-command",
    default=None,
    metavar="PROGRAM",
    help="Program that starts and ends workers: 'PROGRAM up N', 'PROGRAM down NAME...' "
    "(docs/deploy/adaptive.md).",
)
@click.option(
    "--certificate-alone",
    is_flag=True,
    help="Serve processes without this package, which show no token, as their certificate says. "
    "The same on all peers.",
)
@click.option(
    "--token-command",
    type=click.Path(dir_okay=False, exists=True),
    default=None,
    metavar="FILE",
    help="A program that says who somebody is: `dask ha token login`. The same on all peers.",
)
@click.option(
    "--enrolment-port",
    type=click.IntRange(1, PORT_MAX),
    default=None,
    help="Give certificates there to nodes with a token to join.  [default: nowhere]",
)
@click.option(
    "--check",
    is_flag=True,
    help="Check all that a start needs, change nothing, and exit.",
)
@path_option("--pid-file", "File that holds the process id while the daemon runs.")
@path_option(
    "--scheduler-file",
    "File for the cell's addresses, for clients and workers; all peers may share one.",
)
@click.option(
    "--log-level",
    type=click.Choice(LEVELS, case_sensitive=False),
    default="info",
    help="The least important messages to write.",
)
@click.option(
    "--tick-ms",
    type=int,
    default=_TIMING.tick_ms,
    help="Milliseconds of one tick. The same on all peers.",
)
@click.option(
    "--heartbeat-ticks",
    type=int,
    default=_TIMING.heartbeat_ticks,
    help="Ticks between two heartbeats of the leader.",
)
@click.option(
    "--election-ticks",
    type=int,
    default=_TIMING.election_ticks,
    help="Ticks of silence, and up to twice that, after which a leader is taken for dead.",
)
@click.option(
    "--priority",
    type=int,
    default=PRIORITY_MAX,
    help="Peers of a lower priority, down to 0, stand later when a leader is gone.",
)
@click.option(
    "--engine-watchdog",
    type=float,
    default=ENGINE_WATCHDOG_S,
    help="Seconds without progress after which the Dask scheduler is replaced.",
)
@click.version_option(package_name="dask-ha-scheduler")
@click.pass_context
def main(context: click.Context, /, **values: Any) -> int:
    """Run one peer of a replicated Dask scheduler, or operate a cell with a COMMAND.

    On each node:  dask-ha-scheduler --peers a=10.0.0.1,b=10.0.0.2,c=10.0.0.3 --name a
    """
    if context.invoked_subcommand is not None:
        _refuse_options_before(context)
        return 0
    log_level = values.pop("log_level").lower()
    only_check: bool = values.pop("check")
    settings, certificates = _settings(values, log_level)
    _with_storage_errors(lambda: check_start(settings))
    if only_check:
        click.echo(f"Peer {settings.name} of {settings.cell.identity} can be started.")
        return 0
    set_up_logging(log_level)
    written = certificates.create(settings.cell, settings.name)
    if written:
        logger.info(
            "created certificates for this cell on loopback; "
            "clients and workers use DASK_CONFIG=%s",
            written[0].parent / "dask.yaml",
            extra={"action": "certificates_created"},
        )
    from ha_scheduler.peer import daemon

    return _with_storage_errors(lambda: daemon.run(settings))


def _refuse_options_before(context: click.Context) -> None:
    given = [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name is not None
        and context.get_parameter_source(parameter.name) is click.core.ParameterSource.COMMANDLINE
    ]
    if given:
        raise OperatorError(
            f"{given[0]} stands before the command {context.invoked_subcommand}, where it would be "
            f"ignored; write it after the command."
        )


def _settings(values: dict[str, Any], log_level: str) -> tuple[PeerSettings, Choice]:
    timing = Timing(
        values.pop("tick_ms"), values.pop("heartbeat_ticks"), values.pop("election_ticks")
    )
    admission = _admission(join=values.pop("join"), replace=values.pop("replace"))
    port: int | None = values.pop("port")
    cell = the_cell(values.pop("peers"), port)
    name = _name(cell, values.pop("name"))
    data_dir: Path = values.pop("data_dir") or state_directory() / name
    known = founding.load(data_dir)
    if known is None and admission is None:
        check_count(len(cell.peers))
    own = cell.peer(name)
    if port is not None and port != own.dask_port:
        raise OperatorError(
            f"--port {port} differs from the Dask port {own.dask_port} that --peers gives to peer "
            f"{name}; leave one of them out."
        )
    tls = the_tls(values, data_dir)
    host = listen_host(values.pop("host"), values.pop("interface"), tls.protocol, own.dask_port)
    witness: bool = values.pop("witness")
    founders = known.cell if known is not None else cell
    certificates = choose_peer_files(tls, founders, name, witness=witness)
    if admission is Admission.JOIN and certificates.needs_authority:
        raise OperatorError(
            "--join needs a certificate of the cell that this peer joins; name the directory that "
            "`dask-ha-scheduler init` made for it with --tls-dir."
        )
    pid_file: Path | None = values.pop("pid_file")
    scheduler_file: Path | None = values.pop("scheduler_file")
    settings = PeerSettings(
        cell=cell,
        name=name,
        data_dir=data_dir.absolute(),
        tls=certificates.files,
        engine_tls=certificates.engine,
        host=host,
        timing=timing,
        engine_watchdog_s=values.pop("engine_watchdog"),
        priority=values.pop("priority"),
        engine_user=values.pop("engine_user"),
        engine_env=values.pop("engine_env"),
        vip=virtual_address(values.pop("vip"), values.pop("vip_interface")),
        http=http_address(values.pop("http_address"), host or own.host),
        hooks=Commands(values.pop("on_promote"), values.pop("on_demote")),
        scale_command=_absolute(values.pop("scale_command")),
        pid_file=pid_file.absolute() if pid_file is not None else None,
        scheduler_file=scheduler_file.absolute() if scheduler_file is not None else None,
        enrolment_port=_enrolment_port(values.pop("enrolment_port"), certificates),
        admission=admission,
        witness=witness,
        learner=values.pop("learner"),
        certificate_alone=values.pop("certificate_alone"),
        token_command=_absolute(values.pop("token_command")),
    )
    settings.engine_options.update(engine_options(settings, tls.protocol, log_level, values))
    return settings, certificates


def _absolute(path: str | None) -> str | None:
    return str(Path(path).absolute()) if path is not None else None


def _enrolment_port(port: int | None, certificates: Choice) -> int | None:
    """Raises ``OperatorError`` for a peer that could give no certificates."""
    if port is None:
        return None
    files = certificates.files
    if files is None:
        raise OperatorError("--enrolment-port is for TLS; leave out --protocol tcp.")
    if certificates.create_in is None:
        load(files.cert_file.parent, ISSUING)
    return port


def _admission(*, join: bool, replace: bool) -> Admission | None:
    if join and replace:
        raise OperatorError(
            "--join is for a peer that the cell does not know, --replace for the new disk of one "
            "that it knows; leave one of them out."
        )
    if join:
        return Admission.JOIN
    return Admission.REPLACE if replace else None


def _name(cell: Cell, name: str | None) -> str:
    if name is not None or len(cell.peers) == 1:
        return own_name(cell, name or cell.names[0], (), ())
    return own_name(cell, None, local_names(cell), local_addresses())


def _with_storage_errors(act: Callable[[], T]) -> T:
    """``act()``; an error of storage becomes the operator's, or exit status 1."""
    from ha_scheduler.storage import errors

    operator_errors = (
        errors.DataDirectoryMissing,
        errors.DataDirectoryLocked,
        errors.ForeignDataDirectory,
        errors.NewerFormat,
    )
    try:
        return act()
    except operator_errors as error:
        raise OperatorError(as_sentence(error)) from error
    except errors.StorageError as error:  # the disk's fault: other input would not help
        fail(as_sentence(error), EXIT_FAILED)


if __name__ == "__main__":
    main()
