"""Runs one real daemon with the load engine: ``benchmarks.load_daemon <settings as JSON>``."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

from ha_scheduler.cell.peers import parse_peers
from ha_scheduler.errors import OperatorError
from ha_scheduler.peer import daemon
from ha_scheduler.peer.consensus import compaction
from ha_scheduler.peer.settings import PeerSettings
from ha_scheduler.security.authority import peer_files
from ha_scheduler.storage.errors import StorageError


def main() -> int:
    given = json.loads(sys.argv[1])
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    for limit, value in given["limits"].items():
        assert hasattr(compaction, limit), limit
        setattr(compaction, limit, value)
    name, directory = given["name"], Path(given["directory"])
    settings = PeerSettings(
        cell=parse_peers(given["peers"]),
        name=name,
        data_dir=directory / name,
        tls=peer_files(directory / "certificates", name),
        engine_options={"directory": str(directory)},
    )
    try:
        return daemon.run(settings, engine_module="benchmarks.load_engine")
    except (OperatorError, StorageError) as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
