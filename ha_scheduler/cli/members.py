"""``members``: who belongs to a cell, and every change of that.

Guarantee: the leader refuses a change that would leave the cell without a majority of voters that
are up, or without a ledger, and says why; nothing is changed then. A change that was taken is
carried out whatever becomes of this command: it only looks on.

A new disk comes in as a learner, and votes when it has caught up. Only its own daemon can ask for
that (its numbers and its certificate are there), with ``--join`` or ``--replace``: ``add`` and
``replace`` ask first whether it would be let in, say what to start, and wait.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import click
from msgspec import to_builtins

from ha_scheduler.cell.address import join_address
from ha_scheduler.cell.peers import Cell
from ha_scheduler.cli.control import ControlClient
from ha_scheduler.cli.operate import (
    Answers,
    cell_options,
    client_of,
    format_option,
    leader_of,
    leader_or_fail,
    new_table,
    print_table,
    statuses,
)
from ha_scheduler.cli.options import the_cell
from ha_scheduler.errors import ControlError, OperatorError
from ha_scheduler.protocol.control import (
    MayJoinRequest,
    Member,
    PromoteRequest,
    RemoveRequest,
    Status,
    Taken,
)
from ha_scheduler.protocol.peer import Disk, PeerAddress

CHANGE_TIMEOUT_S = 30.0  # of what takes a transfer and two entries of the log
ARRIVAL_TIMEOUT_S = 600.0  # of a disk that somebody has yet to start, and that has to catch up
POLL_S = 0.1

_NUMBER = 1  # of a disk that is not there yet: nobody looks at it

wait_option = click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(min=0),
    default=ARRIVAL_TIMEOUT_S,
    help="Seconds to wait until it takes part; 0: only look whether it may.",
)


@click.group()
def members() -> None:
    """Show and change who belongs to a cell."""


@members.command("list")
@cell_options
@format_option
def list_members(output: str, **values: Any) -> int:
    """List the disks of the cell: what each is, and how far behind."""
    client = client_of(values)
    answers = statuses(client)
    leader_or_fail(answers, "The members are not known")
    answer = _of_leader(answers)
    addresses = {peer.name: peer for peer in answer.peers}
    if output == "json":
        listed = [{**to_builtins(m), "drained": _is_drained(answer, m)} for m in answer.members]
        click.echo(json.dumps(listed, indent=2))
        return 0
    table = new_table("peer", "address", "role", "disk", "behind", "engine", "remarks")
    for member in sorted(answer.members, key=lambda member: member.name):
        table.add_row(*_row(answer, member, addresses.get(member.name)))
    print_table(table)
    if answer.change:
        click.echo(f"A change is under way: {answer.change}.")
    return 0


@members.command()
@cell_options
@click.argument("peer", metavar="NAME=HOST[:PEER_PORT][/DASK_PORT]")
@click.option("--witness", is_flag=True, help="It will be a witness.")
@click.option("--learner", is_flag=True, help="It will stay a learner until it is promoted.")
@wait_option
def add(peer: str, witness: bool, learner: bool, wait_s: float, **values: Any) -> int:
    """Add a peer: see that it would be let in, say what to start there, and wait until it votes."""
    client = client_of(values)
    answers = statuses(client)
    found = the_cell(peer)
    if len(found.peers) != 1 or "=" not in peer:
        raise OperatorError(f"{peer!r} is not one peer; name it as in d=10.0.0.4.")
    (address,) = found.peers
    _may_join(client, answers, address, witness=witness, replacing=False)
    listed = Cell((*client.cell.peers, address)).text
    options = "--join" + " --witness" * witness + " --learner" * learner
    return _await_disk(client, answers, address, f"--peers {listed} {options}", learner, wait_s)


@members.command()
@cell_options
@click.argument("name")
@wait_option
def replace(name: str, wait_s: float, **values: Any) -> int:
    """Replace the disk of the peer NAME, which is lost: say what to start, and wait."""
    client = client_of(values)
    answers = statuses(client)
    if name not in client.cell.names:
        raise OperatorError(_no_peer(client, name))
    address, status = client.cell.peer(name), _of_leader(answers)
    witness = any(m.role == "witness" for m in status.members if m.name == name)
    _may_join(client, answers, address, witness=witness, replacing=True)
    options = "--replace" + " --witness" * witness
    return _await_disk(
        client, answers, address, f"--peers {client.cell.text} {options}", False, wait_s
    )


@members.command()
@cell_options
@click.argument("name")
def promote(name: str, **values: Any) -> int:
    """Let the learner NAME vote. Waits until it does."""
    client = client_of(values)
    leader = leader_or_fail(statuses(client), f"Peer {name} was not promoted")
    client.request(leader, PromoteRequest(name), Taken)
    _until(client, lambda status: _votes(status, name), CHANGE_TIMEOUT_S, f"{name} does not vote")
    click.echo(f"{name} votes.")
    return 0


@members.command()
@cell_options
@click.argument("name")
def remove(name: str, **values: Any) -> int:
    """Remove the peer NAME from the cell. Waits until it is done.

    A leader hands over first. The disk of a removed peer never acts again; add the peer anew with
    an empty one.
    """
    client = client_of(values)
    leader = leader_or_fail(statuses(client), f"Peer {name} was not removed")
    client.request(leader, RemoveRequest(name), Taken)
    status = _until(
        client,
        lambda status: name not in _names(status),
        CHANGE_TIMEOUT_S,
        f"Peer {name} is not removed",
    )
    click.echo(f"{name} was removed; the cell is {', '.join(sorted(_names(status)))}.")
    return 0


def _may_join(
    client: ControlClient, answers: Answers, peer: PeerAddress, *, witness: bool, replacing: bool
) -> None:
    """Raises ``ControlError`` with the leader's reason."""
    leader = leader_or_fail(answers, f"Whether peer {peer.name} may join is not known")
    disk = Disk(_NUMBER, _NUMBER, peer.name, peer.host, peer.peer_port, peer.dask_port, witness)
    client.request(leader, MayJoinRequest(disk, replacing), Taken)


def _await_disk(
    client: ControlClient,
    answers: Answers,
    peer: PeerAddress,
    options: str,
    learner: bool,
    wait_s: float,
) -> int:
    """Wait for a disk of ``peer`` that is none of those of now."""
    before = {member.id for member in _of_leader(answers).members}
    click.echo(
        f"Peer {peer.name} will be let in. On {peer.host}, with its certificate and an empty data "
        f"directory:\n  dask-ha-scheduler {options} --name {peer.name}"
    )
    if not wait_s:
        return 0

    def is_there(status: Status) -> bool:
        new = [m for m in status.members if m.name == peer.name and m.id not in before]
        return any(learner or m.role != "learner" for m in new)

    _until(client, is_there, wait_s, f"Peer {peer.name} does not take part yet")
    click.echo(f"{peer.name} {'is a learner' if learner else 'votes'}.")
    return 0


def _until(
    client: ControlClient, done: Callable[[Status], bool], wait_s: float, failure: str
) -> Status:
    """The leader's status when it is ``done``; what is waited for is printed as it changes."""
    deadline, said = time.monotonic() + wait_s, ""
    while time.monotonic() < deadline:
        answers = client.of_all(client.status)
        answer = answers.get(leader_of(answers) or "")
        if isinstance(answer, Status):
            if done(answer):
                return answer
            obstacle = answer.change.split(";")[0]
            if obstacle != said:
                click.echo(f"  {answer.change or 'nothing is waited for'}")
            said = obstacle
        time.sleep(POLL_S)
    raise ControlError(
        f"{failure} after {wait_s:g} s{f': {said}' if said else ''}; what was begun goes on, see "
        f"`members list`."
    )


def _of_leader(answers: Answers) -> Status:
    answer = answers.get(leader_of(answers) or "")
    if not isinstance(answer, Status):
        raise ControlError("No peer leads at the moment, so no member can be added or removed.")
    return answer


def _names(status: Status) -> set[str]:
    return {member.name for member in status.members}


def _votes(status: Status, name: str) -> bool:
    return any(m.name == name and m.role != "learner" for m in status.members)


def _is_drained(status: Status, member: Member) -> bool:
    return any(order.peer == member.name for order in status.maintenance)


def _row(status: Status, member: Member, peer: PeerAddress | None) -> tuple[str, ...]:
    remarks = [
        text
        for text, applies in (
            ("leads", member.name == status.leader),
            ("drained", _is_drained(status, member)),
            ("leaving", member.leaving),
            ("not connected", not member.connected),
        )
        if applies
    ]
    return (
        member.name,
        join_address(peer.host, peer.peer_port) if peer is not None else "-",
        member.role,
        str(member.id),
        "-" if member.lag is None else str(member.lag),
        "ready" if member.engine_ready else "-",
        ", ".join(remarks),
    )


def _no_peer(client: ControlClient, name: str) -> str:
    return (
        f"{name} is not one of the peers ({', '.join(client.cell.names)}); use one of these names."
    )
