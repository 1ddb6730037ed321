"""``quarantine``: what the cell does not read or run any more, because schedulers ended of it.

Any peer lists it. To release something takes the leader, and a peer's certificate.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import click
from msgspec import to_builtins

from ha_scheduler.cli.control import ControlClient
from ha_scheduler.cli.operate import (
    cell_options,
    client_of,
    format_option,
    leader_or_fail,
    new_table,
    print_table,
    statuses,
)
from ha_scheduler.errors import ControlError, OperatorError
from ha_scheduler.protocol.control import (
    Quarantine,
    QuarantinedCase,
    QuarantineRequest,
    ReleaseRequest,
    Status,
    Taken,
)

ID_CHARS = 12  # of a content, in a table; enough to tell any two
RELEASE_TIMEOUT_S = 10.0  # for one entry of the log
RELEASE_POLL_S = 0.05


@click.group()
def quarantine() -> None:
    """What clients sent and schedulers ended of, which is not read any more."""


@quarantine.command("list")
@cell_options
@format_option
def list_cases(output: str, **values: Any) -> int:
    """List it, with what is merely suspected and tried alone."""
    cases = _cases(client_of(values))
    if output == "json":
        click.echo(json.dumps([_fields(case) for case in cases], indent=2))
    elif not cases:
        click.echo("No scheduler has ended of anything that a client sent.")
    else:
        _print_cases(cases)
    return 0


@quarantine.command()
@cell_options
@click.argument("content")
def show(content: str, **values: Any) -> int:
    """Show everything that is known of CONTENT, the begin of an id."""
    case = _find(_cases(client_of(values)), content)
    click.echo(json.dumps(_fields(case), indent=2))
    return 0


@quarantine.command()
@cell_options
@click.argument("content")
def release(content: str, **values: Any) -> int:
    """Let CONTENT, the begin of an id, be tried again.

    It costs two schedulers once more if it has not changed its ways. What was answered with an
    error stays so: its client sends it again.
    """
    client = client_of(values)
    leader = leader_or_fail(statuses(client), "Nothing was released")
    case = _find(_cases(client), content)
    client.request(leader, ReleaseRequest(case.content), Taken)
    deadline = time.monotonic() + RELEASE_TIMEOUT_S
    while time.monotonic() < deadline:
        if case.content not in {known.content for known in _cases(client)}:
            click.echo(f"{case.kind} {case.what} is read again.")
            return 0
        time.sleep(RELEASE_POLL_S)
    raise ControlError(
        f"The release of {case.content.hex()} is not in the log after {RELEASE_TIMEOUT_S:g} s; see "
        f"the status, and try again."
    )


def _cases(client: ControlClient) -> Sequence[QuarantinedCase]:
    """As whoever has applied most of the log knows it."""
    answers = statuses(client)
    known = {name: answer for name, answer in answers.items() if isinstance(answer, Status)}
    full = {name: answer for name, answer in known.items() if not answer.witness}
    if not full:
        raise ControlError("No peer with a ledger answers; see the status.")
    newest = max(full, key=lambda name: full[name].applied)
    return client.request(newest, QuarantineRequest(), Quarantine).cases


def _find(cases: Sequence[QuarantinedCase], begin: str) -> QuarantinedCase:
    found = [case for case in cases if case.content.hex().startswith(begin.lower())]
    if len(found) == 1:
        return found[0]
    raise OperatorError(
        f"{len(found)} contents in quarantine begin with {begin}; name one of those that "
        f"`dask-ha-scheduler quarantine list` shows."
    )


def _fields(case: QuarantinedCase) -> dict[str, Any]:
    return {**to_builtins(case), "content": case.content.hex()}


def _print_cases(cases: Sequence[QuarantinedCase]) -> None:
    table = new_table("id", "what", "of", "request", "state", "ended")
    for case in cases:
        deaths = "\n".join(
            f"{datetime.fromtimestamp(death.at, UTC):%F %T} {death.peer}: {death.cause}"
            for death in case.deaths
        )
        state = "set aside" if case.set_aside else "suspected"
        request = str(case.sequence) if case.sequence else "-"
        what = f"{case.kind} {case.what}"
        table.add_row(
            case.content.hex()[:ID_CHARS], what, case.client or "-", request, state, deaths
        )
    print_table(table)
