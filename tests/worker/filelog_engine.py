"""A real engine in a process of its own, whose log is a file: the next engine replays it.

What a cell does over the network, on one machine and without consensus, so that what is tested is
the other side: workers and clients whose leader is killed with ``kill -9``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_LENGTH = struct.Struct(">I")


class FileLog:
    """Commits what it has written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def records(self) -> Iterator[bytes]:
        data = self._path.read_bytes()
        while len(data) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(data)[0]
            yield data[_LENGTH.size : end]
            data = data[end:]

    def confirm(self, on_confirmed: Any) -> None:
        asyncio.get_running_loop().call_soon(on_confirmed)

    def propose(self, data: bytes, on_commit: Any) -> None:
        os.write(self._fd, _LENGTH.pack(len(data)) + data)
        if on_commit is not None:
            asyncio.get_running_loop().call_soon(on_commit)


async def run(arguments: argparse.Namespace) -> None:
    from ha_scheduler.engine.options import scheduler_arguments
    from ha_scheduler.engine.scheduler import Scheduler
    from ha_scheduler.ledger.encoding import decode
    from ha_scheduler.protocol.client import Welcome

    watch, addresses = json.loads(arguments.watch), json.loads(arguments.addresses)
    cell = Welcome(0, "test", arguments.name, watch, addresses)
    scheduler = Scheduler(cell=cell, **scheduler_arguments(vars(arguments)))
    log = FileLog(arguments.log)
    for record in log.records():
        scheduler.replay.apply(decode(record))
    await scheduler.activate(arguments.term, log, lambda phase, detail: None)
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int)
    parser.add_argument("--term", type=int)
    parser.add_argument("--name")
    parser.add_argument("--log", type=Path)
    parser.add_argument("--watch", default="[]")
    parser.add_argument("--addresses", default="[]")
    parser.add_argument("--protocol", default="tcp")
    parser.add_argument("--tls-ca-file")
    parser.add_argument("--tls-cert")
    parser.add_argument("--tls-key")
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(name)s - %(message)s")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
