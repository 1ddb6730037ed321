"""A client hands in work and leaves, the leader is killed, and the work is done once all the same.

Run it: ``python examples/fire_and_forget.py``
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from distributed import fire_and_forget

from ha_scheduler import LocalHACluster

DEADLINE_S = 60.0


def write_report(path: Path) -> None:
    time.sleep(2.0)
    with path.open("a") as report:
        report.write("the report\n")


def wait_for(path: Path) -> str:
    deadline = time.monotonic() + DEADLINE_S
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"nobody has written {path}")
        time.sleep(0.1)
    return path.read_text()


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as directory,
        LocalHACluster(n_peers=3, n_workers=1) as cluster,
    ):
        report = Path(directory) / "report.txt"
        with cluster.get_client() as client:
            fire_and_forget(client.submit(write_report, report))
        print(f"the client has left; written so far: {report.exists()}")
        cluster.leader.kill()
        print(f"written at last: {wait_for(report).splitlines()}")


if __name__ == "__main__":
    main()
