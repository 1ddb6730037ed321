"""``snapshot``: a backup of a cell that runs, and a new cell from it.

Guarantee: a file has its name only when it is whole and on disk. A restore is another cell, which
names its predecessor: it overwrites nothing and disturbs nobody.

What reads a ledger is imported by the commands: the others need not wait for it.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from msgspec import to_builtins
from msgspec.structs import asdict

from ha_scheduler.cell.address import join_address
from ha_scheduler.cli.control import ControlClient
from ha_scheduler.cli.operate import (
    Answers,
    cell_options,
    client_of,
    format_option,
    leader_of,
    new_table,
    print_table,
    statuses,
)
from ha_scheduler.cli.options import peers_option, the_cell
from ha_scheduler.cli.sentences import CONTEXT, OneSentenceGroup, as_sentence
from ha_scheduler.errors import ControlError, OperatorError
from ha_scheduler.protocol.control import Status

_MODE = 0o600  # it holds users' graphs

file_argument = click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
peer_option = click.option("--peer", default=None, metavar="NAME", help="The peer to ask.")


@click.group(cls=OneSentenceGroup, context_settings=CONTEXT)
def snapshot() -> None:
    """Save the ledger of a cell that runs, look into such a file, and restore it."""


@snapshot.command()
@file_argument
@peer_option
@cell_options
def save(file: Path, peer: str | None, **values: Any) -> int:
    """Save the ledger to FILE: one state of it, whatever the cell does meanwhile.

    By default a peer that does not lead is asked, the one that has applied most.
    """
    client = client_of(values)
    source = peer or _source(statuses(client))
    if source not in client.cell.names:
        raise OperatorError(f"{source} is none of the peers ({', '.join(client.cell.names)}).")
    if file.exists():
        raise OperatorError(f"{file} is there already and is not overwritten; name another one.")
    head = _save(client, source, file)
    click.echo(
        f"Saved the ledger of peer {source} as of entry {head.index}, "
        f"{file.stat().st_size:,} bytes. It holds what users sent: keep it as you keep their data."
    )
    return 0


@snapshot.command()
@file_argument
@format_option
def inspect(file: Path, output: str) -> int:
    """Verify FILE, and say what it holds."""
    from ha_scheduler.repair.saved import verify

    saved = verify(file)
    if output == "json":
        found = {**to_builtins(saved.head), "nbytes": saved.nbytes, "rows": saved.rows}
        found["peers"] = [asdict(peer) for peer in saved.peers]
        click.echo(json.dumps(found, indent=2))
        return 0
    head = saved.head
    at = datetime.fromtimestamp(head.at, UTC)
    click.echo(
        f"The ledger of cell {head.cell_id or head.cell} as of entry {head.index} of term "
        f"{head.term}, by peer {head.peer} (release {head.release}, format {head.format}) at "
        f"{at:%F %T} UTC. It is whole: {saved.nbytes:,} bytes."
    )
    for each in saved.peers:
        kind = "witness" if each.witness else "peer"
        click.echo(f"  {kind} {each.name} at {join_address(each.host, each.peer_port)}")
    table = new_table("table", "rows")
    for name, rows in sorted(saved.rows.items()):
        table.add_row(name, f"{rows:,}")
    print_table(table)
    return 0


@snapshot.command()
@file_argument
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    required=True,
    help="The data directory to make; only tls/ may be in it.",
)
@peers_option
def restore(file: Path, data_dir: Path, peers: str | None) -> int:
    """Found a new cell from FILE. --peers names its first peer alone; the others join it.

    Stop the former cell for good before: its clients and workers are let into the new one.
    """
    from ha_scheduler.repair.restore import restore as restoring
    from ha_scheduler.storage.errors import StorageError

    cell = the_cell(peers)
    try:
        successor = restoring(file, data_dir.absolute(), cell)
    except StorageError as error:
        raise OperatorError(as_sentence(error)) from error
    click.echo(
        f"The cell {successor.cell} is founded, the successor of {successor.predecessor}. Start "
        f"peer {cell.names[0]} with --peers {cell.text} and --data-dir {data_dir}, then the others "
        f"with empty directories, --join and --peers for all of them."
    )
    return 0


def _source(answers: Answers) -> str:
    """A full peer, rather not the leader, that has applied most."""
    leader = leader_of(answers)
    full = [
        (name != leader, answer.applied, name)
        for name, answer in answers.items()
        if isinstance(answer, Status) and not answer.witness
    ]
    if not full:
        reasons = " ".join(str(each) for each in answers.values() if isinstance(each, ControlError))
        raise ControlError(f"No peer that keeps the ledger answered. {reasons}".rstrip())
    return max(full)[2]


def _save(client: ControlClient, source: str, file: Path) -> Any:
    part = file.with_name(f"{file.name}.part")
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _MODE), "wb") as out:

            def write(frame: bytes) -> None:
                try:
                    out.write(frame)
                except OSError as error:  # not the peer's
                    raise _unwritable(part, error) from error

            head = client.copy(source, write)
            out.flush()
            os.fsync(out.fileno())
        part.rename(file)
    except OSError as error:
        if isinstance(error, ControlError):
            raise
        raise _unwritable(part, error) from error
    finally:
        part.unlink(missing_ok=True)
    return head


def _unwritable(file: Path, error: OSError) -> OperatorError:
    return OperatorError(f"{file} cannot be written: {error.strerror or error}.")
