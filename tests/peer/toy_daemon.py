"""Runs one real daemon with the toy engine: ``toy_daemon.py <settings as JSON>``."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from ha_scheduler.cell.peers import parse_peers
from ha_scheduler.errors import OperatorError
from ha_scheduler.peer import daemon
from ha_scheduler.peer.consensus import compaction
from ha_scheduler.peer.settings import Admission, PeerSettings, Timing
from ha_scheduler.security.authority import peer_files
from ha_scheduler.storage.errors import DiskFailed, StorageError
from ha_scheduler.storage.lmdb_store import LmdbStore
from ha_scheduler.storage.port import WriteBatch


def fail_disk_when_told(order: Path) -> None:
    """Make every commit fail from the moment at which the file ``order`` is there."""
    commit = LmdbStore._commit

    def failing(store: LmdbStore, group: Sequence[WriteBatch]) -> None:
        if order.exists():
            raise DiskFailed(Path("/"), "the test says so")
        commit(store, group)

    LmdbStore._commit = failing  # type: ignore[method-assign]


def main() -> int:
    given = json.loads(sys.argv[1])
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s.%(msecs)03d %(levelname)s %(message)s"
    )
    for limit, value in given.get("limits", {}).items():
        setattr(compaction, limit, value)
    name, base = given["name"], Path(given["dir"])
    fail_disk_when_told(base / f"{name}.disk-fails")
    settings = PeerSettings(
        cell=parse_peers(given["peers"], any_count=True),
        name=name,
        data_dir=base / "data" / name,
        tls=peer_files(base / "certs", name) if given["tls"] else None,
        timing=Timing(**given.get("timing", {})),
        engine_watchdog_s=given.get("watchdog_s", 30.0),
        engine_options={"toy_dir": str(base / "toys"), "tls": given["tls"]},
        pid_file=base / f"{name}.pid",
        admission=Admission(given["entry"]) if "entry" in given else None,
        witness=given.get("witness", False),
        http=("127.0.0.1", given["http"][name]) if "http" in given else None,
        token_command=given.get("token_command"),
    )
    try:
        return daemon.run(settings, engine_module=given.get("engine", "toy_engine"))
    except (OperatorError, StorageError) as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2


if __name__ == "__main__":
    sys.exit(main())
