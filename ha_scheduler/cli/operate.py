"""``status`` and ``transfer``, and what the commands for a running cell share.

``--peers`` may be an old list: once one peer has answered, today's peers are asked.

Exit statuses: 0 if the cell has a leader and did the request, 1 if not.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click
from msgspec import to_builtins

from ha_scheduler.cell.address import join_address
from ha_scheduler.cell.peers import Cell
from ha_scheduler.cli.certificates import choose_control_files
from ha_scheduler.cli.control import TIMEOUT_S, ControlClient
from ha_scheduler.cli.options import (
    from_configuration,
    path_option,
    peers_option,
    the_cell,
    the_tls,
    tls_options,
)
from ha_scheduler.errors import EXIT_FAILED, ControlError, OperatorError
from ha_scheduler.peer.consensus.maintenance import in_words
from ha_scheduler.protocol.control import Order, Status, Transferred, TransferRequest
from ha_scheduler.security.expiry import DAYS
from ha_scheduler.security.expiry import sentence as expires
from ha_scheduler.security.token_source import find_token

if TYPE_CHECKING:
    from rich.table import Table

_F = TypeVar("_F", bound=Callable[..., Any])
Answers = Mapping[str, Status | ControlError]

WATCH_S = 2.0  # between two looks
WATCH_S_MIN = 0.2  # each asks every peer
_UNKNOWN = "-"
_PIPE_COLUMNS = 200  # for files and grep, which have no window


def cell_options(command: _F) -> _F:
    """Which cell, and with which certificate: ``from_configuration`` without an option."""
    command = _configured(command)
    for option in (
        click.option(
            "--timeout",
            type=click.FloatRange(min=0, min_open=True),
            default=TIMEOUT_S,
            help="Seconds a peer has to answer.",
        ),
        path_option("--data-dir", "Data directory of a peer here, for its certificate."),
        tls_options,
        peers_option,
    ):
        command = option(command)
    return command


def _configured(command: _F) -> _F:
    @functools.wraps(command)
    def with_configuration(*args: Any, **values: Any) -> Any:
        source = click.get_current_context().get_parameter_source("protocol")
        protocol_given = source is not click.core.ParameterSource.DEFAULT
        return command(*args, **from_configuration(values, protocol_given=protocol_given))

    return cast("_F", with_configuration)


format_option = click.option(
    "--format",
    "output",
    type=click.Choice(["table", "json"]),
    default="table",
    help="For people, or for programs.",
)


@click.command()
@cell_options
@format_option
@click.option(
    "--watch",
    type=click.FloatRange(min=WATCH_S_MIN),
    is_flag=False,
    flag_value=WATCH_S,
    default=None,
    metavar="[SECONDS]",
    help="Show it again and again, until Ctrl-C; as JSON, a line each time.",
)
@click.option(
    "--linearizable",
    is_flag=True,
    help="Have a quorum say first that what each peer knows is not out of date.",
)
def status(output: str, watch: float | None, linearizable: bool, **values: Any) -> int:
    """Show what each peer says of itself."""
    client = client_of(values)
    while True:
        answers = statuses(client, linearizable=linearizable)
        if watch is not None and output == "table":
            click.clear()  # nothing if this is no terminal
            click.echo(f"{datetime.now(UTC):%F %T} UTC")
        if output == "json":
            tree = status_json(client, answers)
            click.echo(json.dumps(tree, indent=2 if watch is None else None))
        else:
            _print_status(client, answers)
        if watch is None:
            return 0 if leader_of(answers) is not None else EXIT_FAILED
        time.sleep(watch)


@click.command()
@cell_options
@click.option(
    "--to", default=None, metavar="NAME", help="The peer that shall lead.  [default: any]"
)
def transfer(to: str | None, **values: Any) -> int:
    """Let another peer lead, without a failure. Waits until it does."""
    client = client_of(values)
    answers = statuses(client)
    if to is not None and to not in client.cell.names:
        raise OperatorError(
            f"--to {to} is not one of the peers ({', '.join(client.cell.names)}); "
            f"use one of these names."
        )
    leader = leader_or_fail(answers, "Leadership was not transferred")
    if to == leader:
        click.echo(f"{to} leads already.")
        return 0
    started = time.monotonic()
    answer = client.request(leader, TransferRequest(to), Transferred)
    took_ms = (time.monotonic() - started) * 1000
    new, term = answer.leader, answer.term
    if new == leader or (to is not None and new != to):
        raise ControlError(f"Leadership went to {new} in term {term}, not to {to or 'another'}.")
    click.echo(f"{new} leads in term {term}, after {took_ms:.0f} ms; before it was {leader}.")
    return 0


def statuses(
    client: ControlClient, *, linearizable: bool = False
) -> dict[str, Status | ControlError]:
    """The status of each peer; ``client`` knows today's peers from then on."""
    ask = functools.partial(client.status, linearizable=linearizable)
    answers = client.of_all(ask)
    known = [answer for answer in answers.values() if isinstance(answer, Status)]
    newest = max(known, key=lambda answer: answer.commit, default=None)
    if newest is None or {peer.name for peer in newest.peers} == set(client.cell.names):
        return answers
    client.cell, client.identity = Cell(newest.peers), newest.cell
    return client.of_all(ask)


def leader_or_fail(answers: Answers, failure: str) -> str:
    leader = leader_of(answers)
    if leader is not None:
        return leader
    reason = "no peer leads at the moment"
    if all(isinstance(answer, ControlError) for answer in answers.values()):
        reason = nobody(answers)
    raise ControlError(f"{failure}: {reason}.")


def client_of(values: dict[str, Any]) -> ControlClient:
    cell = the_cell(values["peers"])
    data_dir: Path | None = values["data_dir"]
    files = choose_control_files(the_tls(values, data_dir), cell)
    # A peer's certificate is an admin's, and needs none.
    token = find_token("admin", files.cert_file) if files is not None else None
    return ControlClient(cell, files, values["timeout"], token)


def leader_of(answers: Answers) -> str | None:
    """The leader; of several, that of the newest term."""
    leaders = [
        (answer.term, name)
        for name, answer in answers.items()
        if isinstance(answer, Status) and answer.role == "leader"
    ]
    return max(leaders)[1] if leaders else None


def nobody(answers: Mapping[str, object]) -> str:
    reasons = " ".join(str(answer) for answer in answers.values())
    return f"none of the peers answered. {reasons}".rstrip(".")


def status_json(client: ControlClient, answers: Answers) -> dict[str, Any]:
    peers = [
        {"name": name, "error": str(answer)}
        if isinstance(answer, ControlError)
        else {**_fields(answer), "name": name}
        for name, answer in answers.items()
    ]
    return {"cell": client.cell.identity, "leader": leader_of(answers), "peers": peers}


def _fields(answer: Status) -> dict[str, Any]:
    return {name: value for name, value in to_builtins(answer).items() if name != "op"}


def new_table(*columns: str) -> Table:
    from rich.table import Table

    table = Table()
    for column in columns:
        table.add_column(column, overflow="fold")  # half an address is worse than two lines
    return table


def print_table(table: Table) -> None:
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console.width = _PIPE_COLUMNS
    console.print(table)


def _print_status(client: ControlClient, answers: Answers) -> None:
    columns = ("peer", "address", "role", "term", "leader", "commit/applied", "engine", "member")
    table = new_table(*columns)
    members = _member_column(answers)
    for name, answer in answers.items():
        peer = client.cell.peer(name)
        address = join_address(peer.host, peer.peer_port)
        if isinstance(answer, ControlError):
            member = members.get(name, _UNKNOWN)
            table.add_row(name, address, "unreachable", *[_UNKNOWN] * 4, member, style="red")
            continue
        row = [answer.role, str(answer.term), answer.leader or _UNKNOWN]
        style = "bold green" if answer.role == "leader" else None
        row += [f"{answer.commit}/{answer.applied}", answer.engine.state]
        row.append(members.get(name, _UNKNOWN))
        table.add_row(name, address, *row, style=style)
    print_table(table)
    for name, answer in answers.items():
        isolation = answer.engine.isolation if isinstance(answer, Status) else ""
        if isolation not in ("", "full"):
            click.echo(f"The engine of {name} is isolated {isolation}; see the log of its peer.")
    for name, answer in answers.items():
        if isinstance(answer, Status) and answer.engine.failing:
            click.echo(
                f"Engines of {name} end again and again ({answer.engine.failing}); see its log."
            )
    for answer in answers.values():
        if isinstance(answer, Status) and answer.change:
            click.echo(f"A change is under way: {answer.change}.")
    _print_orders(answers)
    _print_heir(answers)
    _print_address(answers)
    _print_rejections(answers)
    _print_set_aside(answers)
    _print_certificates(answers)
    for answer in answers.values():
        if isinstance(answer, ControlError):
            click.echo(str(answer), err=True)


def _print_orders(answers: Answers) -> None:
    for order in orders_of(answers):
        click.echo(f"{in_words(order).capitalize()}.")


def orders_of(answers: Answers) -> tuple[Order, ...]:
    """What operators have ordered, as who has applied most of the log knows it."""
    known = [answer for answer in answers.values() if isinstance(answer, Status)]
    newest = max(known, key=lambda answer: answer.applied, default=None)
    return newest.maintenance if newest is not None else ()


def _print_heir(answers: Answers) -> None:
    """While no engine could lead at once: whose would be the first."""
    leading = answers.get(leader_of(answers) or "")
    if not isinstance(leading, Status):
        return
    for member in leading.members:
        if member.name == leading.heir and not member.engine_ready:
            behind = max(0, leading.commit - (member.replayed or 0))
            click.echo(
                f"No engine is ready to lead next. The nearest is that of {member.name}, which has "
                f"{behind} entries of the log to read."
            )


def _print_address(answers: Answers) -> None:
    known = {n: answer for n, answer in answers.items() if isinstance(answer, Status)}
    holders = [f"{name} has {answer.vip}" for name, answer in known.items() if answer.vip_held]
    without = [name for name, answer in known.items() if not answer.vip and not answer.witness]
    if not any(answer.vip for answer in known.values()):
        return
    click.echo(f"{'; '.join(holders) or 'No host has the virtual address'}.")
    if without:
        click.echo(
            f"{', '.join(without)} would lead without it: start each peer with the same --vip."
        )


def _print_rejections(answers: Answers) -> None:
    """The log is the same for all peers: whoever has applied most of it knows."""
    known = [answer for answer in answers.values() if isinstance(answer, Status)]
    newest = max(known, key=lambda answer: answer.applied, default=None)
    if newest is None or not newest.rejected:
        return
    click.echo(
        f"{newest.rejected} records of the log could not be applied, and every peer passed over "
        f"them. No engine of this release writes such: report it, with the logs of all peers. "
        f"The latest:"
    )
    for rejection in newest.rejections:
        click.echo(f"  {rejection}")


def _print_certificates(answers: Answers) -> None:
    """Those that expire soon."""
    now = datetime.now(UTC)
    for name, answer in answers.items():
        for each in answer.certificates if isinstance(answer, Status) else ():
            end = datetime.fromtimestamp(each.at, UTC)
            if end - now <= timedelta(days=max(DAYS)):
                click.echo(f"On {name}, {expires(each.file, end, now)}.")


def _print_set_aside(answers: Answers) -> None:
    known = [answer for answer in answers.values() if isinstance(answer, Status)]
    newest = max(known, key=lambda answer: answer.applied, default=None)
    if newest is None or not newest.set_aside:
        return
    click.echo(
        "Schedulers ended of what clients sent, which is not read any more; see "
        "`dask-ha-scheduler quarantine list`. The latest:"
    )
    for sentence in newest.set_aside:
        click.echo(f"  {sentence}")


def _member_column(answers: Answers) -> dict[str, str]:
    """Each peer's role and lag according to the leader."""
    leading = answers.get(leader_of(answers) or "")
    column: dict[str, str] = {}
    for member in leading.members if isinstance(leading, Status) else ():
        text = member.role + (", leaving" if member.leaving else "")
        if member.lag:
            text += f", {member.lag} behind"
        former = column.get(member.name)
        column[member.name] = f"{former}; {text}" if former else text
    return column
