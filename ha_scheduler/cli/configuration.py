# ruff: noqa: RUF009  # ``setting`` makes a field
# ruff: noqa: RUF009  # ``setting`` makes a field
"""Every setting of a peer: its unit, its consequence, its sane bounds, and what may change while
the peer runs.

Guarantee: an option of the command line wins over the environment (``DASK_HA__PEER__TICK_MS``),
that over the files of Dask's configuration (``ha: {peer: {tick-ms: 50}}``), and those over the
defaults here. A value that is no such value, is out of bounds, or is dangerous together with
another one is refused before anything is started, and so is a name that is no setting.

``main`` makes its options of ``Configuration``, so there is nothing to set that is not here.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import click

from ha_scheduler.cell.peers import DEFAULT_DASK_PORT, PORT_MAX
from ha_scheduler.cli.certificates import PROTOCOLS
from ha_scheduler.cli.daemon_options import SESSION_TTL
from ha_scheduler.cli.logging_setup import FORMATS, LEVELS
from ha_scheduler.errors import OperatorError
from ha_scheduler.peer.settings import (
    ELECTION_MS_MAX,
    ENGINE_WATCHDOG_S,
    ENGINE_WATCHDOG_S_MIN,
    PRIORITY_MAX,
    TICK_MS_MAX,
    TICK_MS_MIN,
    Timing,
)

_F = TypeVar("_F", bound=Callable[..., Any])

SECTION = "ha.peer"
VARIABLE = "DASK_HA__PEER__"  # before the name of a setting, in the environment
PATH = click.Path(path_type=Path)

_TIMING = Timing()


@dataclass(frozen=True, slots=True)
class About:
    """What is known of a setting besides its default.

    ``text``: what it does. ``shown``: the default in words. ``of_cell``: the same on all peers.
    ``reloaded``: SIGHUP takes a new value. ``once``: for one start, and so never in a file.
    """

    text: str
    unit: str = ""
    least: float | None = None
    most: float | None = None
    kind: Any = str
    metavar: str | None = None
    shown: str = ""
    multiple: bool = False
    of_cell: bool = False
    reloaded: bool = False
    once: bool = False


def setting(default: Any, text: str, **known: Any) -> Any:
    return field(default=default, metadata={"about": About(text, **known)})


def flag(text: str, **known: Any) -> Any:
    return setting(False, text, kind=bool, **known)


@dataclass(frozen=True, slots=True)
class Configuration:
    """The settings, as an operator gives them."""

    peers: str | None = setting(
        None,
        "All peers of the cell: [NAME=]HOST[:PEER_PORT][/DASK_PORT],…  A new cell has an odd "
        "number of them; one that was changed may be named by its first list or by today's.",
        metavar="LIST",
        of_cell=True,
    )
    name: str | None = setting(None, "Which of the peers this is.", shown="found")
    data_dir: Path | None = setting(None, "Where this peer keeps its log and ledger.", kind=PATH)
    replace: bool = flag(
        "This peer has lost its disk: join the running cell with an empty one, as a new voter."
    )
    witness: bool = flag(
        "This peer votes and keeps the log, but no ledger, and never runs a Dask scheduler."
    )
    learner: bool = flag("With --join: follow the cell without a vote, until `members promote`.")
    join: bool = flag("This is a new peer: add it to the running cell.")
    host: str | None = setting(None, "Address to listen at.", shown="all of this host")
    port: int | None = setting(
        None,
        "Dask port of peers for which --peers names none.",
        kind=click.IntRange(1, PORT_MAX),
        shown=str(DEFAULT_DASK_PORT),
    )
    interface: str | None = setting(None, "Network interface to listen at, like 'eth0'.")
    protocol: str = setting(
        PROTOCOLS[0],
        "tcp, without any security, only when all peers are on loopback.",
        kind=click.Choice(PROTOCOLS),
        of_cell=True,
    )
    tls_ca_file: Path | None = setting(None, "CA certificate file for TLS (PEM).", kind=PATH)
    tls_cert: Path | None = setting(None, "Certificate file for TLS (PEM).", kind=PATH)
    tls_key: Path | None = setting(None, "Private key file for TLS (PEM).", kind=PATH)
    tls_dir: Path | None = setting(None, "Directory made by `dask-ha-scheduler init`.", kind=PATH)
    dashboard_address: str = setting(":8787", "Address on which the dashboard listens.")
    dashboard: bool = setting(True, "Serve it.", kind=bool)
    dashboard_prefix: str = setting("", "Prefix for the dashboard's URLs.")
    preload: tuple[str, ...] = setting(
        (),
        'Module that the Dask scheduler loads, like "foo.bar" or "/path/to/foo.py".',
        multiple=True,
    )
    preload_argv: tuple[str, ...] = setting(
        (), "One argument for the preloaded modules.", multiple=True
    )
    session_ttl: str = setting(
        SESSION_TTL,
        "Keep what a client wants that fell silent; clients may ask for less. Shorter frees memory "
        "sooner, and a laptop that sleeps for longer loses its futures.",
        unit="span of time",
        of_cell=True,
    )
    idle_timeout: str | None = setting(
        None, "End after this much inactivity, like '1 hour'.", unit="span of time", of_cell=True
    )
    engine_user: str | None = setting(
        None,
        "Run the Dask scheduler, and the code of users in it, as this user; takes root.",
        metavar="NAME",
    )
    engine_env: tuple[str, ...] = setting(
        (),
        "An environment variable that the Dask scheduler is to have; most are kept from it.",
        metavar="NAME",
        multiple=True,
    )
    http_address: str | None = setting(
        None,
        "Serve /health, /ready, /leader, /metrics and more of this peer there, like ':8788'.",
    )
    vip: str | None = setting(
        None,
        "Virtual address for clients and workers: the leader's host has it, like 10.0.0.100/24.",
        metavar="ADDRESS/LENGTH",
        of_cell=True,
    )
    vip_interface: str | None = setting(
        None,
        "Network interface of the virtual address.",
        metavar="NAME",
        shown="the one in its network",
    )
    on_promote: str | None = setting(
        None, "Command to run when this peer leads.", metavar="COMMAND"
    )
    on_demote: str | None = setting(
        None, "Command to run when it leads no more.", metavar="COMMAND"
    )
    scale_command: str | None = setting(
        None,
        "Program that starts and ends workers: 'PROGRAM up N', 'PROGRAM down NAME...' "
        "(docs/deploy/adaptive.md).",
        metavar="PROGRAM",
    )
    certificate_alone: bool = flag(
        "Serve processes without this package, which show no token, as their certificate says.",
        of_cell=True,
    )
    token_command: str | None = setting(
        None,
        "A program that says who somebody is: `dask ha token login`.",
        kind=click.Path(dir_okay=False, exists=True),
        metavar="FILE",
        of_cell=True,
    )
    enrolment_port: int | None = setting(
        None,
        "Give certificates there to nodes with a token to join.",
        kind=click.IntRange(1, PORT_MAX),
        shown="nowhere",
    )
    check: bool = flag("Check all that a start needs, change nothing, and exit.", once=True)
    pid_file: Path | None = setting(
        None, "File that holds the process id while the daemon runs.", kind=PATH
    )
    scheduler_file: Path | None = setting(
        None,
        "File for the cell's addresses, for clients and workers; all peers may share one.",
        kind=PATH,
    )
    log_level: str = setting(
        "info",
        "The least important messages to write.",
        kind=click.Choice(LEVELS, case_sensitive=False),
        reloaded=True,
    )
    log_format: str = setting(
        FORMATS[0], "Lines for people, or a JSON object each.", kind=click.Choice(FORMATS)
    )
    log_file: Path | None = setting(
        None,
        "File to append the log to; SIGHUP opens it anew, for logrotate.",
        kind=PATH,
        shown="standard error",
    )
    tick_ms: int = setting(
        _TIMING.tick_ms,
        "One tick, of which the others are made. Shorter costs CPU while nothing happens.",
        unit="milliseconds",
        least=TICK_MS_MIN,
        most=TICK_MS_MAX,
        kind=int,
        of_cell=True,
    )
    heartbeat_ticks: int = setting(
        _TIMING.heartbeat_ticks,
        "Between two heartbeats of the leader.",
        unit="ticks",
        least=1,
        kind=int,
        of_cell=True,
    )
    election_ticks: int = setting(
        _TIMING.election_ticks,
        "Silence, and up to twice that, after which a leader is taken for dead. Shorter notices a "
        "death sooner, and takes a slow disk or network for one.",
        unit="ticks",
        least=3,
        most=ELECTION_MS_MAX // TICK_MS_MIN,
        kind=int,
        of_cell=True,
    )
    priority: int = setting(
        PRIORITY_MAX,
        "Peers of a lower priority, down to 0, stand later when a leader is gone, by an election "
        "timeout each.",
        least=0,
        most=PRIORITY_MAX,
        kind=int,
        reloaded=True,
    )
    engine_watchdog: float = setting(
        ENGINE_WATCHDOG_S,
        "Without progress for that long the Dask scheduler is replaced. Less than the largest "
        "graph needs ends it again and again.",
        unit="seconds",
        least=ENGINE_WATCHDOG_S_MIN,
        kind=float,
        reloaded=True,
    )

    def __post_init__(self) -> None:
        for each in fields(self):
            _check_bounds(each, getattr(self, each.name))
        _check_pairs(self)


def about(each: Field[Any]) -> About:
    known = each.metadata["about"]
    assert isinstance(known, About)
    return known


def key_of(each: Field[Any]) -> str:
    """The name of a setting in a file, and as an option."""
    return each.name.replace("_", "-")


def options(command: _F) -> _F:
    """An option of the command line for each setting."""
    for each in reversed(fields(Configuration)):
        command = _option(each)(command)
    return command


def _option(each: Field[Any]) -> Callable[[_F], _F]:
    known, name = about(each), key_of(each)
    text = known.text + " The same on all peers." * known.of_cell
    if known.shown:
        text += f"  [default: {known.shown}]"
    if known.kind is bool:
        names = f"--{name}/--no-{name}" if each.default else f"--{name}"
        return click.option(names, default=each.default, is_flag=True, help=text)
    return click.option(
        f"--{name}",
        type=known.kind,
        default=each.default if not known.multiple else None,
        multiple=known.multiple,
        metavar=known.metavar,
        show_default=each.default not in (None, "", ()),
        help=text,
    )


def _check_bounds(each: Field[Any], value: Any) -> None:
    known = about(each)
    if value is None or (known.least is None and known.most is None):
        return
    least = known.least if known.least is not None else float("-inf")
    most = known.most if known.most is not None else float("inf")
    if not least <= value <= most:
        to = (
            f"{known.least:g} to {known.most:g}" if known.most is not None else f"{least:g} or more"
        )
        raise OperatorError(
            f"--{key_of(each)} {value:g} is out of range; use {to} {known.unit}".rstrip() + "."
        )


def _check_pairs(given: Configuration) -> None:
    """Two values that are each in bounds, and dangerous together. ``PeerSettings`` has more."""
    if given.session_ttl != SESSION_TTL:
        from dask.utils import parse_timedelta  # a slow import, and a rare option

        try:
            kept_s = parse_timedelta(given.session_ttl, default="seconds")
        except (KeyError, ValueError):
            return  # it is refused with a better sentence
        if kept_s <= given.engine_watchdog:
            raise OperatorError(
                f"--session-ttl {given.session_ttl} is not longer than --engine-watchdog "
                f"{given.engine_watchdog:g}: a Dask scheduler that hangs would cost its clients "
                f"what they have; make the one longer or the other shorter."
            )


# -- Dask's configuration


def configured(wanted: Container[str] | None = None) -> dict[str, Any]:
    """The section of Dask's configuration, by names of fields. Raises ``OperatorError``.

    ``wanted``: what is looked at, and may be refused; None: everything.
    """
    import dask.config  # a slow import, for a daemon that runs for months

    section = dask.config.get(SECTION, None) or {}
    if not isinstance(section, Mapping):
        raise OperatorError(f"{SECTION} in Dask's configuration is no mapping; see `config show`.")
    known = {each.name: each for each in fields(Configuration) if not about(each).once}
    found = {}
    for key, value in section.items():
        name = str(key).replace("-", "_")
        if wanted is not None and name not in wanted:
            continue
        if name not in known:
            raise OperatorError(
                f"{SECTION}.{key} in Dask's configuration is {_unknown(name, known)}"
            )
        found[name] = _converted(known[name], value)
    return found


def _unknown(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    hint = f"did you mean {near[0].replace('_', '-')}?" if near else "`config generate` lists all."
    return f"no setting; {hint}"


def _converted(each: Field[Any], value: Any) -> Any:
    """A value of a file or of the environment, as an option would be. Raises ``OperatorError``."""
    known = about(each)
    if value is None:
        return each.default
    kind = click.types.convert_type(known.kind)
    try:
        if known.multiple:
            values = [value] if isinstance(value, str) else list(value)
            return tuple(kind.convert(str(each), None, None) for each in values)
        text = value if isinstance(value, bool | int | float) else str(value)
        return kind.convert(text, None, None)
    except (click.BadParameter, TypeError) as error:
        why = error.message if isinstance(error, click.BadParameter) else str(error)
        where = f"{SECTION}.{key_of(each)} in Dask's configuration"
        raise OperatorError(f"{where}: {why.rstrip('.')}.") from error


def source_of(each: Field[Any], found: Mapping[str, Any]) -> str:
    """Where the value of a setting comes from: environment, file or default."""
    if each.name not in found:
        return "default"
    variables = {name.upper() for name in os.environ}
    dashed = f"{VARIABLE}{each.name.upper()}"
    return "environment" if dashed in variables else "file"
