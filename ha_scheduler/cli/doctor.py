"""``doctor``: each peer looks at its host and its ways to the others, and this says what to fix.

Exit statuses: 0 nothing to fix, 1 something is.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import click
from msgspec import to_builtins

from ha_scheduler.cli.control import ControlClient
from ha_scheduler.cli.diagnosis import Finding, NoElection, Prediction, findings, predict
from ha_scheduler.cli.operate import (
    Answers,
    cell_options,
    client_of,
    format_option,
    new_table,
    print_table,
    statuses,
)
from ha_scheduler.errors import EXIT_FAILED, ControlError
from ha_scheduler.protocol.control import Examined, ExamineRequest, Status
from ha_scheduler.protocol.peer import Failover


@click.command()
@cell_options
@format_option
def doctor(output: str, **values: Any) -> int:
    """Examine the hosts, clocks, disks and ways of all peers; say what to fix, and how long a
    failover would take.
    """
    client = client_of(values)
    answers = statuses(client)
    examined, found, expected = examine(client, answers)
    if output == "json":
        click.echo(json.dumps(as_json(examined, found, expected), indent=2))
    else:
        _print(examined, found, expected)
    return EXIT_FAILED if found else 0


def examine(
    client: ControlClient, answers: Answers
) -> tuple[dict[str, Examined], list[Finding], Prediction | NoElection | None]:
    """What the peers find out, what is wrong, and what a failover would take."""

    def ask(name: str) -> Examined:
        return client.request(name, ExamineRequest(), Examined)

    known = {n: answer for n, answer in answers.items() if isinstance(answer, Status)}
    unreachable = {
        n: str(answer) for n, answer in answers.items() if isinstance(answer, ControlError)
    }
    examined: dict[str, Examined] = {}
    if known:
        for name, answer in client.of_all(ask, list(known)).items():
            if isinstance(answer, Examined):
                examined[name] = answer
            else:
                unreachable[name] = str(answer)
    history: list[Failover] = []
    for status in known.values():
        history += [entry for entry in status.history_tail if entry not in history]
    found = findings(unreachable, known, examined, datetime.now(UTC))
    return examined, found, predict(known, examined, history)


def as_json(
    examined: dict[str, Examined], found: list[Finding], expected: Prediction | NoElection | None
) -> dict[str, Any]:
    return {
        "findings": [asdict(finding) for finding in found],
        "prediction_s": asdict(expected) if isinstance(expected, Prediction) else None,
        "no_election": expected.why if isinstance(expected, NoElection) else "",
        "peers": {
            name: {k: v for k, v in to_builtins(each).items() if k != "op"}
            for name, each in examined.items()
        },
    }


def _print(
    examined: dict[str, Examined], found: list[Finding], expected: Prediction | NoElection | None
) -> None:
    table = new_table("from", "to", "round trip (ms)", "clock ahead (ms)", "fsync there (ms)")
    for name, each in examined.items():
        for way in each.ways:
            there = examined.get(way.peer)
            fsync = f"{there.fsync_s * 1000:.1f}" if there is not None else "-"
            if way.error:
                table.add_row(name, way.peer, "-", "-", fsync)
            else:
                trip, offset = f"{way.trip_s * 1000:.2f}", f"{way.offset_s * 1000:+.1f}"
                table.add_row(name, way.peer, trip, offset, fsync)
    print_table(table)
    if isinstance(expected, NoElection):
        click.echo(expected.why)
    elif expected is not None:
        _print_prediction(expected)
    if not found:
        click.echo("Nothing to fix.")
    for finding in found:
        mark = "WRONG" if finding.fatal else "MIND"
        click.echo(f"{mark}: {finding.what}.\n    To fix: {finding.fix}.")


def _print_prediction(expected: Prediction) -> None:
    click.echo(
        f"If the leader's host died now, another peer would be elected after "
        f"{expected.election_least:.2f} to {expected.election_most:.2f} s, "
        f"{expected.election_mean:.2f} s on average."
    )
    if expected.serving is not None:
        click.echo(
            f"It would serve {expected.serving:.2f} s after that, as at the last changes of "
            f"leader: {expected.failover:.2f} s in all."
        )
    else:
        click.echo("How long it then takes to serve is known after the first change of leader.")
