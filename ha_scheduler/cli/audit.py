"""``audit``: what a peer did for whom, and whether its log was changed.

It reads the files of one peer, beside its running daemon or without one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ha_scheduler.audit import files
from ha_scheduler.audit.chain import Head, Problem
from ha_scheduler.cli.sentences import CONTEXT, OneSentenceGroup
from ha_scheduler.errors import EXIT_FAILED, OperatorError

_F = TypeVar("_F", bound=Callable[..., Any])

LAST = 20  # lines shown


@click.group(cls=OneSentenceGroup, context_settings=CONTEXT)
def audit() -> None:
    """What a peer did for whom, and whether its log was changed."""


def _data_option(command: _F) -> _F:
    return click.option(
        "--data-dir",
        type=click.Path(path_type=Path),
        required=True,
        help="Data directory of the peer.",
    )(command)


@audit.command()
@_data_option
@click.option(
    "--head",
    metavar="N:HASH",
    default=None,
    help="A line that was noted elsewhere, as `verify` or the peer's own log has named it.",
)
def verify(data_dir: Path, head: str | None) -> int:
    """Check that no line was changed, removed or put in. Exit status 1 if one was."""
    try:
        count, last, problems = files.verify(_existing(data_dir), _head(head))
    except OSError as error:
        raise OperatorError(f"The audit log cannot be read: {error}.") from error
    for problem in problems:
        click.echo(_sentence(problem))
    click.echo(f"{count} lines, {len(problems)} problems; the last one is {last}.")
    return EXIT_FAILED if problems else 0


@audit.command()
@_data_option
@click.option("--last", type=click.IntRange(1), default=LAST, help="Lines to show.")
@click.option("--event", default=None, help="Of this kind alone, such as refused.")
def show(data_dir: Path, last: int, event: str | None) -> None:
    """Show the last lines, as they are (JSON)."""
    wanted = f'"event":"{event}"'.encode() if event else b""
    found: list[bytes] = []
    try:
        for path in reversed(files.paths(_existing(data_dir))):
            lines = [line for line in files.lines_of(path) if wanted in line]
            found = [*lines, *found][-last:]
            if len(found) >= last:
                break
    except OSError as error:
        raise OperatorError(f"The audit log cannot be read: {error}.") from error
    for line in found:
        click.echo(line.decode(errors="replace"))


def _existing(data_dir: Path) -> Path:
    directory = files.directory_of(data_dir)
    if not directory.is_dir():
        raise OperatorError(
            f"{data_dir} has no audit log; name the data directory of a peer that has run, and "
            f"read it as the user that the peer runs as."
        )
    return directory


def _head(text: str | None) -> Head | None:
    if text is None:
        return None
    number, _, digest = text.partition(":")
    if not number.isdigit() or len(digest) != len(Head().hash):
        raise OperatorError("--head is the number of a line and its hash, as in 12:3fa9….")
    return Head(int(number), digest)


def _sentence(problem: Problem) -> str:
    return f"Line {problem.line} {problem.what}."
