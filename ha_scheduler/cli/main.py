"""``dask-ha-scheduler``: run one peer of a cell, or operate a cell with a subcommand.

Guarantee: an operator's mistake is one sentence on stderr and exit status 2, before anything is
changed on disk. Certificates of a loopback cell, the only thing made here, are made after every
check. The daemon, and with it everything heavy, is imported after that.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import click

from ha_scheduler.cell.peers import Cell, check_count, own_name
from ha_scheduler.cli.certificates import Choice, choose_peer_files, state_directory
from ha_scheduler.cli.commands import COMMANDS, LazyGroup
from ha_scheduler.cli.configuration import Configuration, configured, options
from ha_scheduler.cli.daemon_options import (
    engine_options,
    http_address,
    listen_host,
    virtual_address,
)
from ha_scheduler.cli.host import local_addresses, local_names
from ha_scheduler.cli.logging_setup import LogFile, set_level, set_up_logging
from ha_scheduler.cli.options import (
    the_cell,
    the_tls,
)
from ha_scheduler.cli.preflight import check_start
from ha_scheduler.cli.sentences import CONTEXT, as_sentence, fail, one_sentence
from ha_scheduler.errors import EXIT_FAILED, OperatorError
from ha_scheduler.peer.members import founding
from ha_scheduler.peer.settings import (
    Admission,
    PeerSettings,
    Timing,
)
from ha_scheduler.security.authority import ISSUING, load
from ha_scheduler.vip.hooks import Commands

logger = logging.getLogger(__name__)

T = TypeVar("T")

_ASKS = frozenset({"-h", "--help", "--version"})


class _Main(LazyGroup):
    """Settings that are no options come from Dask's configuration."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        if is_a_start(args, self):
            with one_sentence():
                extra["default_map"] = configured()
        return super().make_context(info_name, args, parent, **extra)


def is_a_start(args: Sequence[str], group: click.Group) -> bool:
    """Whether these arguments start a daemon."""
    if not args:
        return True
    return args[0] not in group.list_commands(click.Context(group)) and args[0] not in _ASKS


@click.group(
    name="dask-ha-scheduler",
    cls=_Main,
    found=COMMANDS,
    invoke_without_command=True,
    context_settings=CONTEXT,
)
@options
@click.version_option(package_name="dask-ha-scheduler")
@click.pass_context
def main(context: click.Context, /, **values: Any) -> int:
    """Run one peer of a replicated Dask scheduler, or operate a cell with a COMMAND.

    On each node:  dask-ha-scheduler --peers a=10.0.0.1,b=10.0.0.2,c=10.0.0.3 --name a
    """
    if context.invoked_subcommand is not None:
        _refuse_options_before(context)
        return 0
    only_check: bool = values["check"]
    settings, certificates = _settings(Configuration(**values))
    _with_storage_errors(lambda: check_start(settings))
    if only_check:
        click.echo(f"Peer {settings.name} of {settings.cell.identity} can be started.")
        return 0
    log_file = LogFile(values["log_file"]) if values["log_file"] is not None else None
    set_up_logging(values["log_level"], values["log_format"])
    written = certificates.create(settings.cell, settings.name)
    if written:
        logger.info(
            "created certificates for this cell on loopback; "
            "clients and workers use DASK_CONFIG=%s",
            written[0].parent / "dask.yaml",
            extra={"action": "certificates_created"},
        )
    from ha_scheduler.peer import daemon

    engines = log_file.for_engines if log_file is not None else None

    def reread() -> PeerSettings:
        """What these arguments and Dask's configuration say now. Raises ``OperatorError``."""
        if log_file is not None:
            log_file.reopen()
        given = _given_now(context)
        set_level(given.log_level)
        return _settings(given)[0]

    return _with_storage_errors(lambda: daemon.run(settings, reread=reread, engine_stderr=engines))


def _given_now(context: click.Context) -> Configuration:
    """The options of this start over what the files say now; the environment is that of then."""
    import dask.config

    dask.config.refresh()
    on_command_line = {
        name: value
        for name, value in context.params.items()
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    }
    return Configuration(**{**configured(), **on_command_line})


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


def _settings(given: Configuration) -> tuple[PeerSettings, Choice]:
    values: dict[str, Any] = {each.name: getattr(given, each.name) for each in fields(given)}
    log_level = values["log_level"].lower()
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
        log_format=given.log_format,
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
