"""``repair``: what can be done about the data of a peer that does not run.

Guarantee: a command that changes something says first what is lost, asks, and writes down that it
was done, where ``repair show`` reads it. Nothing is changed while a daemon runs on the data.

What reads the data is imported by the commands: the others need not wait for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ha_scheduler.cli.options import peers_option, the_cell
from ha_scheduler.cli.sentences import CONTEXT, OneSentenceGroup, as_sentence
from ha_scheduler.errors import OperatorError
from ha_scheduler.storage.errors import StorageError

if TYPE_CHECKING:
    from ha_scheduler.repair.offline import Offline, State

_F = TypeVar("_F", bound=Callable[..., Any])

LAST = 20  # entries shown


@click.group(cls=OneSentenceGroup, context_settings=CONTEXT)
def repair() -> None:
    """Look at, and repair, the data of a peer that does not run."""


def _data_option(command: _F) -> _F:
    return click.option(
        "--data-dir",
        type=click.Path(path_type=Path),
        required=True,
        help="Data directory of the peer; its daemon must not run.",
    )(command)


_yes_option = click.option("--yes", is_flag=True, help="Do not ask.")


@contextmanager
def _offline(data_dir: Path) -> Iterator[Offline]:
    from ha_scheduler.repair.offline import opened

    try:
        with opened(data_dir) as offline:
            yield offline
    except StorageError as error:
        raise OperatorError(as_sentence(error)) from error


def _note(offline: Offline, data_dir: Path, what: str) -> None:
    """Write down in the audit log that it was done. What was done stays done without it."""
    from ha_scheduler.audit.chain import Event
    from ha_scheduler.audit.files import directory_of
    from ha_scheduler.audit.log import AuditLog

    try:
        log = AuditLog(directory_of(data_dir), offline.identity.peer)
    except OSError as error:
        click.echo(f"The audit log does not say so, as it cannot be written: {error}.", err=True)
        return
    log.record(Event.REPAIRED, what=what)
    log.close()


def _ask(what_is_lost: str, yes: bool) -> None:
    click.echo(what_is_lost)
    if not yes:
        click.confirm("Do it?", abort=True)


@repair.command()
@_data_option
@click.option("--last", type=click.IntRange(1, 10_000), default=LAST, help="Entries to show.")
def show(data_dir: Path, last: int) -> None:
    """Show the last records in words, what was rejected, and earlier repairs."""
    from ha_scheduler.ledger import rejections
    from ha_scheduler.storage.words import kind_and_detail

    with _offline(data_dir) as offline, offline.dbs.env.begin() as txn:
        state = offline.state(txn)
        _show_state(offline, state)
        first = max(state.compacted.index + 1, state.last_index - last + 1)
        for index in range(first, state.last_index + 1):
            entry = offline.entry(txn, index)
            kind, detail = kind_and_detail(entry)
            fate = _fate(state, index, entry.term)
            click.echo(
                f"{index:>10}  term {entry.term}  {kind}  {len(entry.data)} B  {detail}{fate}"
            )
        for row in rejections.scan(offline.tables(txn)):
            click.echo(f"Rejected, {row.count} in all: {rejections.describe(row)}.")
        for when, what in state.repairs:
            click.echo(f"Repaired {datetime.fromtimestamp(when, UTC):%F %T} UTC: {what}.")


@repair.command()
@click.argument("index", type=click.IntRange(1))
@_data_option
@_yes_option
def drop(index: int, data_dir: Path, yes: bool) -> None:
    """Drop the record INDEX, which this peer has not applied.

    For one at which the peer stops at each start, and that no release can apply.
    """
    from ha_scheduler.repair import drop as dropping

    with _offline(data_dir) as offline:
        with offline.dbs.env.begin() as txn:
            found = dropping.look_at(offline, txn, index)
        _ask(found.loses, yes)
        dropping.drop(offline, found.entry)
        _note(offline, data_dir, f"entry {index} was dropped")
        click.echo(f"Entry {index} is dropped; start peer {offline.identity.peer}.")


def _show_state(offline: Offline, state: State) -> None:
    who, hard = offline.identity, state.hard_state
    click.echo(
        f"Peer {who.peer} of cell {who.cell}, disk {offline.dbs.peer_id}; term {hard.term}, log "
        f"{state.compacted.index + 1} to {state.last_index}, commit {hard.commit} or later, "
        f"applied {state.applied.index}."
    )


def _fate(state: State, index: int, term: int) -> str:
    if state.dropped.get(index) == term:
        return "  [dropped]"
    return "" if index <= state.applied.index else "  [not applied]"


@repair.command(name="found-anew")
@_data_option
@peers_option
@_yes_option
def found_anew(data_dir: Path, peers: str | None, yes: bool) -> None:
    """Found a new cell from this peer's ledger.

    For a cell that has lost most of its disks, or its terms. --peers names this peer alone; the
    others join with empty disks and --join.
    """
    from ha_scheduler.repair import found_anew as founding

    cell = the_cell(peers)
    with _offline(data_dir) as offline:
        with offline.dbs.env.begin() as txn:
            what = founding.look_at(offline, txn, cell)
        _ask(what.loses, yes)
        successor = founding.found(offline, what)
        _note(offline, data_dir, f"the cell {successor.cell} was founded from this ledger")
    click.echo(
        f"The cell {successor.cell} is founded. Start peer {what.name} with --peers {cell.text}, "
        f"then the others with empty directories, --join and --peers for all of them."
    )
