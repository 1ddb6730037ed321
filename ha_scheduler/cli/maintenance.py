"""``drain``, ``undrain`` and ``failover``: who stands for election while somebody works on a cell.

The orders are in the replicated log. To lift one while nobody leads, each peer that answers is
asked to act as if it were lifted, and the log is told by the leader that follows.
"""

from __future__ import annotations

import time
from typing import Any

import click

from ha_scheduler.cli.control import ControlClient
from ha_scheduler.cli.operate import (
    Answers,
    cell_options,
    client_of,
    leader_of,
    leader_or_fail,
    orders_of,
    statuses,
)
from ha_scheduler.errors import ControlError, OperatorError
from ha_scheduler.ledger.maintenance import ALL
from ha_scheduler.peer.consensus.maintenance import FAILOVER_OFF_S_MAX, FAILOVER_OFF_S_MIN, in_words
from ha_scheduler.protocol.control import MaintainRequest, Taken

TIMEOUT_S = 30.0  # for a transfer, an election and an entry of the log
POLL_S = 0.05
FAILOVER_OFF = "1 hour"


@click.command()
@cell_options
@click.argument("name")
def drain(name: str, **values: Any) -> int:
    """Take leadership from the peer NAME, and let it not be elected until `undrain`.

    It votes and follows as before. Refused if no other peer could lead.
    """
    client = client_of(values)
    leader = leader_or_fail(statuses(client), f"Peer {name} was not drained")
    client.request(leader, MaintainRequest(name, active=True), Taken)

    def is_done(answers: Answers) -> bool:
        now = leader_of(answers)
        return now not in (None, name) and any(o.peer == name for o in orders_of(answers))

    answers = _until(client, is_done, f"Peer {name} is not drained")
    click.echo(f"{name} is drained; {leader_of(answers)} leads. `undrain {name}` ends it.")
    return 0


@click.command()
@cell_options
@click.argument("name")
def undrain(name: str, **values: Any) -> int:
    """Let the peer NAME be elected again."""
    client = client_of(values)
    if name not in {*statuses(client), *client.cell.names}:
        raise OperatorError(
            f"{name} is not one of the peers ({', '.join(client.cell.names)}); use one of these."
        )
    _lift(client, name, f"Peer {name} is not undrained")
    click.echo(f"{name} may be elected.")
    return 0


@click.group()
def failover() -> None:
    """Let nobody take over by itself for a while, or let it be again."""


@failover.command()
@cell_options
@click.option(
    "--for", "span", default=FAILOVER_OFF, help="How long, like '30 minutes'; at most 24 hours."
)
def off(span: str, **values: Any) -> int:
    """Let no peer take over from a leader that is gone: it is waited for.

    Only the peer that led last stands for election. An operator's `transfer` and `drain` go on, and
    so does the hand-over of a daemon that is told to stop.
    """
    client = client_of(values)
    seconds = _seconds(span)
    leader = leader_or_fail(statuses(client), "Failover is on as before")
    client.request(leader, MaintainRequest(ALL, active=True, for_s=seconds), Taken)
    until = time.time() + seconds - TIMEOUT_S
    answers = _until(
        client,
        lambda answers: any(o.peer == ALL and o.until > until for o in orders_of(answers)),
        "Failover is not off",
    )
    order = next(order for order in orders_of(answers) if order.peer == ALL)
    click.echo(f"{in_words(order).capitalize()}.")
    return 0


@failover.command()
@cell_options
def on(**values: Any) -> int:
    """Let the peers take over again."""
    client = client_of(values)
    _lift(client, ALL, "Failover is not on")
    click.echo("Failover is on.")
    return 0


def _lift(client: ControlClient, peer: str, failure: str) -> None:
    """Lift an order; while nobody leads, at each peer that answers, until one does."""
    request = MaintainRequest(peer, active=False)
    if leader_of(statuses(client)) is None:
        answers = client.of_all(lambda name: client.request(name, request, Taken))
        if all(isinstance(answer, ControlError) for answer in answers.values()):
            raise ControlError(f"{failure}: {' '.join(map(str, answers.values()))}")
        _until(client, lambda answers: leader_of(answers) is not None, f"{failure}: nobody leads")
    leader = leader_or_fail(statuses(client), failure)
    client.request(leader, request, Taken)
    _until(client, lambda answers: all(o.peer != peer for o in orders_of(answers)), failure)


def _until(client: ControlClient, done: Any, failure: str) -> Answers:
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        answers = client.of_all(client.status)
        if leader_of(answers) is not None and done(answers):
            return answers
        time.sleep(POLL_S)
    raise ControlError(f"{failure} after {TIMEOUT_S:g} s; see the status.")


def _seconds(span: str) -> int:
    from dask.utils import parse_timedelta  # a slow import, and a rare command

    try:
        seconds = int(parse_timedelta(span, default="seconds"))
    except (KeyError, ValueError):
        seconds = 0
    if not FAILOVER_OFF_S_MIN <= seconds <= FAILOVER_OFF_S_MAX:
        raise OperatorError(
            f"--for {span!r} is out of range; use {FAILOVER_OFF_S_MIN // 60} minute to "
            f"{FAILOVER_OFF_S_MAX // 3600} hours, like '30 minutes'."
        )
    return seconds
