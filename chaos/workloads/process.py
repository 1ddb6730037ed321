"""A process of a workload: ``python -m chaos.workloads.process SETTINGS`` with JSON.

It works until a line comes on its stdin, then waits for what is under way, and ends. The end of the
stdin without a line is the end of the harness: it ends at once, so that none is left behind.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import msgspec

from chaos.history import Writer
from chaos.workloads.connecting import connect
from chaos.workloads.registry import workload
from chaos.workloads.session import Session, Settings

EXIT_ABANDONED = 3


def main(arguments: list[str]) -> int:
    settings = msgspec.json.decode(arguments[0], type=Settings)
    history = Writer(Path(settings.history), settings.process)
    with connect(settings.address) as client:
        session = Session(settings, client, history)
        threading.Thread(target=_await_stop, args=(session,), daemon=True).start()
        history.note("connected")
        workload(settings.workload).drive(session)
        session.finish()
    history.note("closed")
    return 0


def _await_stop(session: Session) -> None:
    if not sys.stdin.readline():
        os._exit(EXIT_ABANDONED)
    session.stopping.set()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
