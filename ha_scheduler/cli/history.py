"""``history``: the changes of leader, each with its phases and its cause."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from msgspec import to_builtins

from ha_scheduler.cli.history_plot import drawing
from ha_scheduler.cli.operate import (
    cell_options,
    client_of,
    format_option,
    new_table,
    nobody,
    print_table,
    statuses,
)
from ha_scheduler.errors import ControlError, OperatorError
from ha_scheduler.peer.operators.history import CAUSE, ENTRIES_MAX, LeaderHistory
from ha_scheduler.protocol.peer import Failover


@click.command()
@cell_options
@format_option
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    metavar="FILE.svg",
    help="Draw them into this file, too.",
)
def history(output: str, plot: Path | None, **values: Any) -> int:
    """Show the changes of leader with their phases (seconds after the loss was detected)."""
    client = client_of(values)
    statuses(client)
    answers = client.of_all(client.history)
    known = LeaderHistory()
    for answer in answers.values():
        known.merge(() if isinstance(answer, ControlError) else answer)
    if all(isinstance(answer, ControlError) for answer in answers.values()):
        raise ControlError(nobody(answers))
    entries = known.tail(ENTRIES_MAX)
    if plot is not None:
        try:
            plot.write_text(drawing(entries))
        except OSError as error:
            raise OperatorError(f"{plot} cannot be written: {error.strerror}.") from error
    if output == "json":
        click.echo(json.dumps(to_builtins(entries), indent=2))
    else:
        _print_history(entries)
    return 0


def _print_history(entries: Sequence[Failover]) -> None:
    if not entries:
        click.echo("No change of leader is known.")
        return
    table = new_table("term", "when (UTC)", "leader", "phases (s)")
    for entry in entries:
        when = datetime.fromtimestamp(entry.started, UTC)
        ordered = sorted(entry.phases.items(), key=lambda phase: phase[1])
        phases = "\n".join(f"{after:8.3f}  {phase}" for phase, after in ordered)
        if (cause := entry.details.get(CAUSE)) is not None:
            phases += f"\n{cause['peer']}: {cause['ended']}; {', '.join(cause['of'])}"
        table.add_row(str(entry.term), f"{when:%F %T}", entry.leader, phases)
    print_table(table)
