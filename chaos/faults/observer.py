"""A client that does not follow the leader: ``python -m chaos.faults.observer SETTINGS``.

It connects to one peer alone, as a plain client of Dask would to its scheduler, and reads variables
there for as long as it is answered. Clients of ours leave a leader as soon as there is another, and
so never see what a deposed one would have said; this one does. What it is told goes into the
history of the run, and is judged with the rest.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from chaos.history import Writer
from chaos.record import CLIENTS

if TYPE_CHECKING:
    from chaos.targets.base import Target

CONNECTED_S_MAX = 20.0
READ_S_MAX = 20.0  # a read that has no answer by then is forgotten
PAUSE_S = 0.05
ANSWERS_MAX = 200  # the search for an order costs a multiple of them
NAMES = ("crowd-0", "crowd-1")  # the variables of the workload ``coordination``
READY = "connected"
ABANDONED = 3  # exit status


class Settings(msgspec.Struct, frozen=True):
    address: str
    history: str
    process: str


def start(target: Target, peer: str, number: int) -> subprocess.Popen[bytes] | None:
    """Connected to ``peer`` when it returns; None if it cannot be."""
    control = target.control
    assert control is not None
    of_peer = control.cell.peer(peer)
    process = f"observer-{number:08x}"
    history = target.root.parent / CLIENTS / f"{process}.ndjson"
    if not history.parent.exists():
        return None
    settings = Settings(f"tls://{of_peer.host}:{of_peer.dask_port}", str(history), process)
    words = ["-m", "chaos.faults.observer", msgspec.json.encode(settings).decode()]
    child = target.spawn_client(words, history.with_suffix(".log"))
    deadline = time.monotonic() + CONNECTED_S_MAX
    while not (history.exists() and READY.encode() in history.read_bytes()):
        if child.poll() is not None or time.monotonic() > deadline:
            stop(child)
            return None
        time.sleep(PAUSE_S)
    return child


def stop(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.wait()
    if child.stdin is not None:
        child.stdin.close()


def end_with_the_harness() -> None:
    """The end of the standard input without a line is that of the harness."""

    def wait() -> None:
        if not sys.stdin.readline():
            os._exit(ABANDONED)

    threading.Thread(target=wait, daemon=True).start()


def main(arguments: list[str]) -> None:
    from distributed import Client, Variable

    end_with_the_harness()
    settings = msgspec.json.decode(arguments[0], type=Settings)
    writer = Writer(Path(settings.history), settings.process)
    with Client(settings.address, timeout=CONNECTED_S_MAX, heartbeat_interval="60s") as client:
        variables = {name: Variable(name, client=client) for name in NAMES}
        for number in range(ANSWERS_MAX):
            name = NAMES[number % len(NAMES)]
            _read(writer, f"variable:{name}", variables[name])
            if number == len(NAMES):
                writer.note(READY)  # its connections are open: a stopped daemon accepts none
            time.sleep(PAUSE_S)


def _read(writer: Writer, key: str, variable: Any) -> None:
    op = writer.invoke("get", key)
    try:
        value = variable.get(timeout=READ_S_MAX)
    except Exception as error:  # nothing was read, whatever it was
        writer.end(op, "fail", "get", key, error=f"{type(error).__name__}: {error}")
        time.sleep(PAUSE_S * 10)
    else:
        writer.end(op, "ok", "get", key, value)


if __name__ == "__main__":
    main(sys.argv[1:])
