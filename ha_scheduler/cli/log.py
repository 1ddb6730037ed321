"""``log``: what is in the replicated log, from a peer that runs or from the data of one that does
not.

Guarantee: no value of a user is shown beyond its size; names of tasks and of objects are.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from ha_scheduler.cli.operate import cell_options, client_of, leader_or_fail, statuses
from ha_scheduler.cli.sentences import CONTEXT, OneSentenceGroup, as_sentence
from ha_scheduler.cli.snapshot import peer_option
from ha_scheduler.errors import OperatorError
from ha_scheduler.protocol.control import LoggedEntry, LogLines, LogRequest

LAST = 20  # entries shown
FOLLOW_EVERY_S = 0.5


@click.group(cls=OneSentenceGroup, context_settings=CONTEXT)
def log() -> None:
    """The replicated log, in words."""


@log.command()
@cell_options
@peer_option
@click.option("--last", type=click.IntRange(0, 10_000), default=LAST, help="Entries to begin with.")
@click.option("--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.option("--decode", is_flag=True, help="Show the fields of each record, too.")
@click.option(
    "--offline",
    type=click.Path(path_type=Path),
    default=None,
    metavar="DIR",
    help="Read this data directory, of a peer that does not run; --peers is not needed.",
)
def show(
    peer: str | None, last: int, follow: bool, decode: bool, offline: Path | None, **values: Any
) -> int:
    """Show the last entries of the log. By default the leader is asked."""
    if offline is not None:
        if follow or peer:
            raise OperatorError("--offline reads a directory; leave out --follow and --peer.")
        _print(_of_directory(offline, last), decode)
        return 0
    client = client_of(values)
    answers = statuses(client)
    source = peer or leader_or_fail(answers, "The log was not read")
    if source not in client.cell.names:
        raise OperatorError(f"{source} is none of the peers ({', '.join(client.cell.names)}).")
    answer = client.request(source, LogRequest(None, 0), LogLines)
    after = max(answer.first - 1, answer.last - last)
    while True:
        answer = client.request(source, LogRequest(after), LogLines)
        _print(answer.entries, decode)
        if answer.entries:
            after = answer.entries[-1].index
        elif not follow:
            return 0
        else:
            if after < answer.first - 1:
                click.echo(f"  (entries up to {answer.first - 1} are compacted)", err=True)
            after = max(after, answer.first - 1)
            time.sleep(FOLLOW_EVERY_S)


def _of_directory(path: Path, last: int) -> Iterator[LoggedEntry]:
    from ha_scheduler.repair.offline import opened
    from ha_scheduler.storage.errors import StorageError
    from ha_scheduler.storage.words import kind_and_detail

    try:
        with opened(path) as offline, offline.dbs.env.begin() as txn:
            state = offline.state(txn)
            first = max(state.compacted.index + 1, state.last_index - last + 1)
            for index in range(first, state.last_index + 1):
                entry = offline.entry(txn, index)
                kind, detail = kind_and_detail(entry)
                yield LoggedEntry(index, entry.term, kind, len(entry.data), detail)
    except StorageError as error:
        raise OperatorError(as_sentence(error)) from error


def _print(entries: Iterable[LoggedEntry], decode: bool) -> None:
    for entry in entries:
        click.echo(line(entry, decode))


def line(entry: LoggedEntry, decode: bool = True) -> str:
    """One line."""
    text = f"{entry.index:>10}  term {entry.term}  {entry.kind}  {entry.nbytes} B"
    return f"{text}  {entry.detail}" if decode else text
