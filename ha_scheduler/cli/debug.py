"""``debug bundle``: what somebody who helps needs to know of a cell, in one file, without secrets.

Guarantee: no key, token, password or value of a user is in it. What is collected has none by
itself: neither files of keys nor payloads are read, and of variables of the environment and of
Dask's configuration only what no name calls a secret. All text is then searched for what looks like
a private key, a token or a password in a URL, and that is left out.
"""

from __future__ import annotations

import io
import json
import os
import platform
import re
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from msgspec import to_builtins

from ha_scheduler.cli.control import ControlClient
from ha_scheduler.cli.doctor import as_json, examine
from ha_scheduler.cli.log import line
from ha_scheduler.cli.operate import (
    Answers,
    cell_options,
    client_of,
    leader_of,
    status_json,
    statuses,
)
from ha_scheduler.cli.sentences import CONTEXT, OneSentenceGroup
from ha_scheduler.errors import ControlError, OperatorError
from ha_scheduler.peer.operators.examination import versions
from ha_scheduler.protocol.control import LogLines, LogRequest

LOG_BYTES_MAX = 8 * 1024 * 1024  # of each file of --log, its end
_MODE = 0o600
_LEFT_OUT = "(left out)"

_SECRET_NAMES = re.compile(r"pass|secret|token|credential|key|auth|cookie|pin\b", re.IGNORECASE)
_BEGIN, _END = (f"-----{word} [A-Z ]*PRIVATE KEY-----" for word in ("BEGIN", "END"))
_NAMED = r"[\w.-]*(?:passw(?:or)?d|secret|token|api[_-]?key)[\w.-]*[\"']?\s*[=:]\s*[\"']?"
_SECRETS = (
    (re.compile(rf"{_BEGIN}.*?(?:{_END}|\Z)", re.DOTALL), _LEFT_OUT),
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]+\.[\w-]*"), _LEFT_OUT),
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}"), rf"\1 {_LEFT_OUT}"),
    (re.compile(r"(://[^\s:/@]*):[^\s/@]+@"), rf"\1:{_LEFT_OUT}@"),
    (
        re.compile(rf"(?i)\b({_NAMED})(?![(\[{{])[^\s,;&\"']{{6,}}"),
        rf"\1{_LEFT_OUT}",
    ),
)  # fmt: skip


@click.group(cls=OneSentenceGroup, context_settings=CONTEXT)
def debug() -> None:
    """For reports of faults."""


@debug.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--log",
    "logs",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A log file to put in, its end; of each peer, at best.",
)
@cell_options
def bundle(file: Path, logs: tuple[Path, ...], **values: Any) -> int:
    """Write what is known of the cell to FILE (.tar.gz), without secrets.

    Names of hosts, users, tasks and paths are in it: look through it before you send it.
    """
    if file.exists():
        raise OperatorError(f"{file} is there already and is not overwritten; name another one.")
    client = client_of(values)
    answers = statuses(client)
    parts = {**of_host(), **_of_cell(client, answers)}
    for path in logs:
        parts[f"logs/{path.name}"] = _end_of(path)
    try:
        _write(file, parts)
    except OSError as error:
        raise OperatorError(f"{file} cannot be written: {error.strerror or error}.") from error
    click.echo(f"Wrote {file}: {', '.join(sorted(parts))}. Look through it before you send it.")
    return 0


def _of_cell(client: ControlClient, answers: Answers) -> dict[str, str]:
    examined, found, expected = examine(client, answers)
    histories = {
        name: str(each) if isinstance(each, ControlError) else to_builtins(each)
        for name, each in client.of_all(client.history).items()
    }
    return {
        "status.json": _json(status_json(client, answers)),
        "doctor.json": _json(as_json(examined, found, expected)),
        "history.json": _json(histories),
        "log.txt": _log(client, leader_of(answers)),
    }


def _log(client: ControlClient, leader: str | None) -> str:
    """Kinds and sizes of the last entries: their fields name what users do."""
    if leader is None:
        return "nobody leads\n"
    try:
        answer = client.request(leader, LogRequest(), LogLines)
    except ControlError as error:
        return f"{error}\n"
    return "\n".join(line(entry, decode=False) for entry in answer.entries)


def of_host() -> dict[str, str]:
    """What there is to know of this machine."""
    import dask.config

    dask_variables = {n: v for n, v in os.environ.items() if n.startswith("DASK_")}
    facts = {
        "at": time.strftime("%F %T %z"),
        "python": platform.python_version(),
        "system": platform.platform(),
        "versions": versions(),
        "environment": without_secrets(dask_variables),
        "variables": sorted(os.environ),
    }
    return {
        "host.json": _json(facts),
        "dask-config.json": _json(without_secrets(dask.config.config)),
    }


def without_secrets(tree: Any, name: str = "") -> Any:
    """The same, without what a name calls a secret; names of files stay."""
    if isinstance(tree, Mapping):
        return {key: without_secrets(value, str(key)) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [without_secrets(value, name) for value in tree]
    text = tree if isinstance(tree, str) else None
    is_file = text is not None and text.startswith(("/", "~", "./"))
    if text and not is_file and _SECRET_NAMES.search(name):
        return _LEFT_OUT
    return tree


def scrub(text: str) -> str:
    """``text`` without what looks like a secret."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


def _end_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - LOG_BYTES_MAX))
            return file.read(LOG_BYTES_MAX).decode(errors="replace")
    except OSError as error:
        raise OperatorError(f"{path} cannot be read: {error.strerror or error}.") from error


def _json(tree: Any) -> str:
    return json.dumps(tree, indent=2, default=str)


def _write(file: Path, parts: Mapping[str, str]) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _MODE)
    with os.fdopen(descriptor, "wb") as out, tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, text in sorted(parts.items()):
            data = scrub(text).encode()
            entry = tarfile.TarInfo(f"bundle/{name}")
            entry.size, entry.mtime = len(data), int(time.time())
            archive.addfile(entry, io.BytesIO(data))
