"""A client that comes once, does what nobody should, and says what became of it.

``python -m chaos.faults.visitor SETTINGS``. What it asks for, what the answer must be and what it
was go into the history of the run, and are judged with the rest: that a task which kills its
workers ends in ``KilledWorker`` and not in silence, that nobody gets an answer without a token.
"""

from __future__ import annotations

import os
import pickle  # nosec B403  # poison is made with it
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from chaos.faults.observer import end_with_the_harness
from chaos.history import Writer
from chaos.workloads.connecting import connect

ENDED_S_MAX = 60.0
TRESPASS_S_MAX = 8.0  # a client that is refused tries for as long as it is told
AN_ENGINE = "any('--channel-fd' in each for each in sys.argv)"
REFUSED, DONE = "refused", "done"
BEGUN = "begun"


class Settings(msgspec.Struct, frozen=True):
    """``count``: of tasks, or of seconds before a trespass. ``directory``: certificates and token;
    empty for those of a client."""

    kind: str
    address: str
    history: str
    process: str
    count: int = 0
    directory: str = ""
    ports: tuple[tuple[str, int], ...] = ()
    cell: str = ""


def dies() -> None:
    """A task that ends every worker that runs it."""
    os._exit(77)


class EndsEngines:
    """Ends each engine that reads it."""

    def __reduce__(self) -> Any:
        return exec, (f"import os, sys\nif {AN_ENGINE}: os._exit(77)", {})


class Unreadable:
    """Cannot be unpickled by anybody."""

    def __reduce__(self) -> Any:
        return _refuse, ()


def _refuse() -> None:
    raise pickle.UnpicklingError("nobody can read this")


def _poison_task(client: Any, settings: Settings) -> str:
    return _error_of(lambda: client.submit(dies, pure=False).result(ENDED_S_MAX))


def _poison_graph(client: Any, settings: Settings) -> str:
    made = client.submit(str, EndsEngines(), pure=False)
    return _error_of(lambda: made.result(ENDED_S_MAX))


def _unreadable(client: Any, settings: Settings) -> str:
    made = client.submit(str, Unreadable(), pure=False)
    return _error_of(lambda: made.result(ENDED_S_MAX))


def _giant(client: Any, settings: Settings) -> str:
    futures = client.map(abs, range(settings.count), pure=False)
    return str(client.submit(sum, futures, pure=False).result(ENDED_S_MAX))


def _error_of(call: Callable[[], Any]) -> str:
    try:
        return f"no error, but {call()!r}"
    except Exception as error:
        return type(error).__name__


Visit = Callable[[Any, Settings], str]

#: What is done, and what the answer must be (one of these).
VISITS: dict[str, tuple[Visit, tuple[str, ...]]] = {
    "poison-task": (_poison_task, ("KilledWorker",)),
    "poison-graph": (_poison_graph, ("SetAside",)),
    "unpicklable": (_unreadable, ("UnpicklingError", "RuntimeError", "SetAside")),
    "giant": (_giant, ()),
}


def visit(settings: Settings, writer: Writer) -> None:
    made, wanted = VISITS[settings.kind]
    with connect(settings.address) as client:
        expected = str(sum(range(settings.count))) if settings.kind == "giant" else ""
        op = writer.invoke("visit", settings.kind, settings.kind, expected or wanted[0])
        writer.note(BEGUN)
        answer = made(client, settings)
        writer.end(op, "ok", "visit", settings.kind, wanted[0] if answer in wanted else answer)


def trespass(settings: Settings, writer: Writer) -> None:
    """Ask for a task with what is in the directory, and see that it is not done."""
    from distributed import Security

    from client_replay import Client

    directory = Path(settings.directory)
    files = {name: str(directory / name) for name in ("ca.pem", "client.pem", "client-key.pem")}
    security = Security(
        require_encryption=True,
        tls_ca_file=files["ca.pem"],
        tls_client_cert=files["client.pem"],
        tls_client_key=files["client-key.pem"],
    )
    time.sleep(settings.count)
    op = writer.invoke("trespass", settings.kind, settings.kind, REFUSED)
    try:
        with Client(settings.address, security=security, timeout=TRESPASS_S_MAX) as client:
            client.submit(abs, -1, pure=False).result(TRESPASS_S_MAX)
        answer, error = DONE, ""
    except Exception as refusal:
        answer, error = REFUSED, f"{type(refusal).__name__}: {refusal}"
    writer.end(op, "ok", "trespass", settings.kind, answer, error)


def lie(settings: Settings, writer: Writer) -> None:
    """Call every port with each certificate of the directory, until the harness says to end."""
    from chaos.faults.liar import Liar
    from ha_scheduler.cell.tls_files import TlsFiles

    directory, over = Path(settings.directory), threading.Event()
    ports = list(settings.ports)
    holders: dict[str, TlsFiles | None] = {"none": None}
    for certificate in directory.glob("*-key.pem"):
        stem = certificate.name.removesuffix("-key.pem")
        files = TlsFiles(directory / "ca.pem", directory / f"{stem}.pem", certificate)
        holders[stem] = files
    liars = [Liar(name, files, ports, settings.cell, over) for name, files in holders.items()]
    for liar in liars:
        liar.start()
    writer.note(BEGUN)
    sys.stdin.readline()
    over.set()
    for liar in liars:
        liar.join()
    writer.note("lied", sum(liar.calls for liar in liars))


def main(arguments: list[str]) -> None:
    settings = msgspec.json.decode(arguments[0], type=Settings)
    writer = Writer(Path(settings.history), settings.process)
    if settings.kind == "malformed":
        lie(settings, writer)  # which waits for the harness itself
        return
    end_with_the_harness()
    if settings.directory:
        trespass(settings, writer)
    else:
        visit(settings, writer)


if __name__ == "__main__":
    main(sys.argv[1:])
