"""``dask ha journal``: the journals of clients on this machine.

Guarantee: only ``compact`` and ``resume`` change a journal, and neither one that a living process
has. What a command prints names no session: that is a secret.
"""

from __future__ import annotations

import base64
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import click

from client_replay.errors import JournalInUse, JournalUnusable
from client_replay.journal.file import Contents, JournalFile, require_whole, rewrite
from client_replay.journal.keeper import HELD, JournalEntry
from client_replay.journal.place import SUFFIX
from ha_scheduler.cli.operate import new_table, print_table
from ha_scheduler.errors import EXIT_FAILED, ControlError, OperatorError

LIMIT = 1 << 40  # of address space: whatever limit its client had
KEYS_SHOWN = 5
POLL_S = 0.1

path_argument = click.argument("path", type=click.Path(path_type=Path))
output_option = click.option(
    "--output", type=click.Choice(("table", "json")), default="table", help="How to print it."
)


@click.group()
def journal() -> None:
    """What clients of this machine have submitted, and another process can go on with."""


@journal.command()
@click.argument("directory", type=click.Path(path_type=Path), required=False)
@output_option
def ls(directory: Path | None, output: str) -> int:
    """List the journals in DIRECTORY, by default that of ha.client.journal."""
    found = [_summary(path) for path in _journals(directory)]
    if output == "json":
        click.echo(json.dumps(found, indent=2))
        return 0
    table = new_table("journal", "client", "since", "process", "not submitted", "bytes", "wanted")
    for each in found:
        if "error" in each:
            table.add_row(each["path"], each["error"])
            continue
        numbers = (each["open"], each["nbytes"], each["wanted"])
        table.add_row(
            each["path"], each["client"], each["created"], each["process"], *map(str, numbers)
        )
    print_table(table)
    return 0


@journal.command()
@path_argument
@output_option
def show(path: Path, output: str) -> int:
    """Show the requests in the journal at PATH."""
    contents = _read(path)
    requests = list(_requests(contents))
    if output == "json":
        click.echo(json.dumps({**_described(path, contents), "requests": requests}, indent=2))
        return 0
    table = new_table("number", "request", "state", "wanted", "bytes", "keys")
    for each in requests:
        keys = ", ".join(each["keys"][:KEYS_SHOWN])
        more = ", …" if len(each["keys"]) > KEYS_SHOWN else ""
        cells = (each["number"] or "-", each["request"], each["state"], each["wanted"])
        table.add_row(*map(str, (*cells, each["nbytes"])), keys + more)
    print_table(table)
    return 0


@journal.command()
@path_argument
@output_option
def verify(path: Path, output: str) -> int:
    """Read all of the journal at PATH, and say what is damaged; exit status 1 if anything is."""
    contents = _read(path)
    whole = not (contents.damaged or contents.torn or contents.cut_short)
    if output == "json":
        click.echo(json.dumps({**_described(path, contents), "whole": whole}, indent=2))
        return 0 if whole else EXIT_FAILED
    saved = f"{len(contents.open)} requests that no cell has, and {contents.wanted} keys"
    if whole:
        click.echo(f"{path} is whole: {saved}.")
        return 0
    for what, lost in (("damaged", contents.damaged), ("torn off its end", contents.torn)):
        for number, why in lost.items():
            click.echo(f"Request {number} is {what}: {why}.")
    if contents.cut_short:
        click.echo(f"{path} is shorter than it was.")
    click.echo(f"What can be saved: {saved}. Go on with it by `dask ha journal resume --damaged`.")
    return EXIT_FAILED


@journal.command()
@path_argument
@click.option("--force", is_flag=True, help="Take it from a process that lives.")
@click.option("--damaged", is_flag=True, help="Go on with what can be saved.")
@click.option("--address", default=None, help="Of the cell, if it is another one now.")
@click.option("--timeout", default=60.0, help="Seconds to wait for the cell.")
def resume(path: Path, force: bool, damaged: bool, address: str | None, timeout: float) -> int:
    """Submit what never reached the cell, and leave the journal for a later process."""
    import client_replay

    try:
        client = client_replay.resume(
            path, force=force, damaged=damaged, address=address, timeout=timeout,
            set_as_default=False,
        )  # fmt: skip
    except OperatorError:
        raise
    except OSError as error:
        raise ControlError(f"No leader of the cell was found, and nothing was done: {error}") from (
            error
        )
    open_at_first = len(client._ha.journal)
    try:
        _watch(client, open_at_first, timeout)
        states = Counter(future.status for future in client.resumed.values())
        left = len(client._ha.journal)
    finally:
        client.sync(client._leave)
    told = ", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "none"
    click.echo(f"{open_at_first - left} of {open_at_first} requests submitted; futures: {told}.")
    return EXIT_FAILED if left else 0


def _watch(client: Any, total: int, timeout_s: float) -> None:
    """A progress bar until the cell has everything."""
    from rich.progress import Progress

    deadline = time.monotonic() + timeout_s
    with Progress(transient=True) as progress:
        task = progress.add_task("Submitting", total=total)
        while (left := len(client._ha.journal)) and time.monotonic() < deadline:
            progress.update(task, completed=total - left)
            time.sleep(POLL_S)


@journal.command()
@path_argument
def compact(path: Path) -> int:
    """Write the journal at PATH anew, without what is done with."""
    before = path.stat().st_size if path.is_file() else 0
    contents = _read(path)
    require_whole(path, contents)
    if contents.owner is not None and contents.owner.is_alive():
        raise JournalInUse(path, f"process {contents.owner.pid} has it", "End that process first")
    rewrite(path, contents, LIMIT)
    click.echo(f"{path}: {before} bytes before, {path.stat().st_size} now.")
    return 0


@journal.command()
@path_argument
@click.argument("target", type=click.File("w"))
def export(path: Path, target: IO[str]) -> int:
    """Write all that can be read of the journal at PATH to TARGET (- for the terminal).

    One line of JSON for each request: its number, keys, and what was pickled, in base 64.
    """
    from rich.console import Console
    from rich.progress import track

    contents = _read(path)
    entries = sorted({*contents.open, *contents.keys})
    shown = track(entries, "Exporting", console=Console(stderr=True), transient=True)
    for number in shown:
        target.write(json.dumps(_exported(contents, number)) + "\n")
    return 0


# ---- reading


def _journals(directory: Path | None) -> Iterable[Path]:
    if directory is None:
        import dask

        from client_replay.lifecycle.journaling import DIRECTORY

        configured = dask.config.get(DIRECTORY, None)
        if configured is None:
            raise OperatorError(
                f"No directory is named, and {DIRECTORY} is not set; name the directory of the "
                f"journals."
            )
        directory = Path(configured).expanduser()
    if not directory.is_dir():
        raise OperatorError(f"{directory} is no directory; name that of the journals.")
    return sorted(directory.glob(f"*{SUFFIX}"))


def _read(path: Path) -> Contents:
    file = JournalFile(path, bytes_max=LIMIT, create=False, readonly=True)
    try:
        return file.read()
    finally:
        file.close()


def _summary(path: Path) -> dict[str, Any]:
    try:
        return _described(path, _read(path))
    except JournalUnusable as error:
        return {"path": str(path), "error": error.reason}


def _described(path: Path, contents: Contents) -> dict[str, Any]:
    owner = contents.owner
    living = owner is not None and owner.is_alive()
    return {
        "path": str(path),
        "client": contents.identity.client,
        "address": contents.identity.address,
        "created": time.strftime("%F %T", time.localtime(contents.identity.created)),
        "process": f"{owner.pid} on {owner.host}" if owner is not None and living else "none",
        "open": len(contents.open),
        "nbytes": contents.nbytes,
        "wanted": contents.wanted,
        "damaged": {str(number): why for number, why in contents.damaged.items()},
        "torn": {str(number): why for number, why in contents.torn.items()},
    }


def _requests(contents: Contents) -> Iterator[dict[str, Any]]:
    for number in sorted({*contents.open, *contents.keys}):
        entry = contents.open.get(number)
        keys = _keys_of(contents, number)
        yield {
            "number": number,
            "request": "held" if number == HELD else entry.message["op"] if entry else "graph",
            "state": "not submitted" if entry else "in the cell",
            "wanted": len(contents.keys.get(number, ())),
            "nbytes": entry.nbytes if entry else 0,
            "keys": [str(key) for key in keys],
        }


def _keys_of(contents: Contents, number: int) -> list[Any]:
    entry = contents.open.get(number)
    return list(entry.message.get("keys", ())) if entry else contents.keys[number]


def _exported(contents: Contents, number: int) -> dict[str, Any]:
    entry: JournalEntry | None = contents.open.get(number)
    keys = [repr(key) for key in _keys_of(contents, number)]
    if entry is None:
        return {"number": number, "state": "in the cell", "keys": keys}
    pickled = {
        name: [base64.b64encode(bytes(frame)).decode() for frame in value.frames]
        for name, value in entry.message.items()
        if hasattr(value, "frames")
    }
    request = entry.message["op"]
    return {
        "number": number, "state": "not submitted", "request": request, "keys": keys, **pickled,
    }  # fmt: skip
