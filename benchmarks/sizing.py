"""What tasks, clients and their ledger take of memory and disk: ``python -m benchmarks.sizing``.

A cell of one peer without workers, so that all tasks stay; the figures of a follower are the same.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import psutil

from ha_scheduler import LocalHACluster


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, nargs="*", default=[10_000, 100_000])
    parser.add_argument("--clients", type=int, default=20)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        base = Path(directory)
        with LocalHACluster(data_dir=base, n_peers=1, n_workers=0) as cluster:
            control, name = cluster.cell.control, cluster.peers[0].name
            daemon = psutil.Process(cluster.peers[0].pid)
            show("nothing", daemon, control.status(name).engine.pid, base)
            others = [cluster.get_client() for _ in range(given.clients)]
            show(f"{given.clients} clients", daemon, control.status(name).engine.pid, base)
            for other in others:
                other.close()
            with cluster.get_client() as client:
                futures = []
                for count in given.tasks:
                    futures += client.map(_nothing, range(len(futures), count), pure=False)
                    while len(client.who_has(futures)) < count:
                        time.sleep(0.2)
                    pid = control.status(name).engine.pid
                    show(f"{count:,} tasks that wait", daemon, pid, base)


def show(title: str, daemon: psutil.Process, engine: int, base: Path) -> None:
    files = [path for path in base.rglob("*") if path.is_file() and path.name != "reserve"]
    disk = sum(path.stat().st_blocks * 512 for path in files)
    rss = [process.memory_info().rss / 1e6 for process in (daemon, psutil.Process(engine))]
    sizes = f"daemon {rss[0]:6.0f} MB  engine {rss[1]:6.0f} MB  disk {disk / 1e6:6.1f} MB"
    print(f"{title:28} {sizes}")


def _nothing(n: int) -> int:
    return n


if __name__ == "__main__":
    main()
