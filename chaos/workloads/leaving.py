"""Workloads whose clients go: what they have left to the cell is done, what they wrote down is had.

A process that kills itself in the midst of its work is the harshest client there is; another one
takes its journal and must find in it whatever was acknowledged.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from distributed import fire_and_forget

from chaos import history
from chaos.history import Writer
from chaos.workloads.base import Workload
from chaos.workloads.connecting import connect
from chaos.workloads.session import Session
from chaos.workloads.tasks import EXECUTIONS, counted

FORGET_RATE, RESUME_RATE = 1.0, 0.3
FORGOTTEN_EACH = 5
JOURNALED_MAX = 60
LIVES_S = (0.5, 2.5)  # of a process that kills itself
TASK_S = 0.05
UNDECIDED = "The client closes although no leader said"


def fire(session: Session) -> None:
    """Clients that come, leave work behind and go."""
    acknowledged: list[str] = []
    number = 0
    while session.pace(FORGET_RATE):
        number += 1
        keys = [f"{session.name}-left-{number}-{n}" for n in range(FORGOTTEN_EACH)]
        op = session.history.invoke("leave", keys[0])
        where, address = str(session.directory), session.settings.address
        with _warnings() as warnings, connect(address, set_as_default=False) as client:
            for key in keys:
                words = (counted, where, key, TASK_S, 0)
                fire_and_forget(client.submit(*words, key=key, pure=False))
        if warnings:  # it says that it does not know
            session.history.end(op, "info", "leave", keys[0], error=warnings[0])
        else:
            session.history.end(op, "ok", "leave", keys[0])
            acknowledged += keys
    for key in acknowledged:
        session.call("left", key, partial(_executed, session, key), None, 1)


def _executed(session: Session, key: str) -> int:
    """How often, once it had time to be."""
    deadline = time.monotonic() + session.settings.deadline_s
    while True:
        lines = (session.directory / EXECUTIONS).read_text().splitlines()
        count = sum(line.startswith(f"{key}\t") for line in lines)
        if count or time.monotonic() > deadline:
            return count
        time.sleep(0.2)


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """That the client does not know whether the cell has what it left."""
    found: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage().startswith(UNDECIDED):
                found.append(record.getMessage())

    handler, logger = Handler(), logging.getLogger("distributed.client.ha")
    logger.addHandler(handler)
    try:
        yield found
    finally:
        logger.removeHandler(handler)


def resume(session: Session) -> None:
    """Processes with a journal on disk kill themselves, and this one goes on with their work."""
    import client_replay

    number = 0
    while session.pace(RESUME_RATE):
        number += 1
        name = f"{session.name}-life-{number}"
        place = Path(session.settings.history).parent / name
        seconds = session.random.uniform(*LIVES_S)
        words = (name, session.settings.address, f"{seconds}", str(session.directory), str(place))
        subprocess.run([sys.executable, "-m", __name__, *words], check=False)
        written = history.operations(history.read([place.with_suffix(".events")]))
        acknowledged = {op.key: op.given for op in written if op.type == "ok"}
        with client_replay.resume(place.with_suffix(".journal"), set_as_default=False) as client:
            for key, value in acknowledged.items():
                session.call(
                    "resume",
                    key,
                    partial(_result, client, key, session.settings.deadline_s),
                    expected=value,
                )


def _result(client: Any, key: str, timeout_s: float) -> Any:
    return client.resumed[key].result(timeout_s)


def _live(name: str, address: str, seconds: float, where: str, place: Path) -> None:
    """Submit until the end of a life."""
    events = Writer(place.with_suffix(".events"), name)
    client: Any = connect(address, journal=place.with_suffix(".journal"), durable=True)
    until = time.monotonic() + seconds
    futures = []
    for number in range(JOURNALED_MAX):
        if time.monotonic() > until:
            break
        key = f"{name}-{number}"
        op = events.invoke("journal", key, number)
        futures.append(client.submit(counted, where, key, TASK_S, number, key=key, pure=False))
        events.end(op, "ok", "journal", key)
        time.sleep(TASK_S)
    os.kill(os.getpid(), signal.SIGKILL)


FORGET = Workload(
    "fire-and-forget",
    "clients that leave work to the cell and go; all of it is done",
    fire,
    undecided=(UNDECIDED,),
    floor=1,
)
RESUME = Workload(
    "journal-resume",
    "clients with a journal that kill themselves; another process has all that was acknowledged",
    resume,
    plain=False,
    floor=1,
)


if __name__ == "__main__":
    _live(sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4], Path(sys.argv[5]))
