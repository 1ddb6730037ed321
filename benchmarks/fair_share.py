"""How long ten tasks of one user wait behind those of another, with and without turns.

python -m benchmarks.fair_share [--tasks 4000] [--milliseconds 10]
"""

from __future__ import annotations

import argparse
import time

import dask

from client_replay import Client
from ha_scheduler import LocalHACluster

FEW = 10


def work(number: int, seconds: float) -> int:
    time.sleep(seconds)
    return number


def waits(tasks: int, seconds: float, *, fair: bool) -> tuple[float, float]:
    """Until the few are done, and until the many are, in seconds."""
    with (
        dask.config.set({"ha-scheduler.scheduler.fair-share": fair}),
        # On plaintext: with the token that a local cell makes, both would be one subject.
        LocalHACluster(n_workers=2, security=False) as cluster,
        Client(cluster, set_as_default=False) as crowd,
        Client(cluster, set_as_default=False) as single,
    ):
        many = crowd.map(work, range(tasks), seconds=seconds, pure=False)
        many[0].result()
        begun = time.monotonic()
        # Upstream lets graphs wait that come over a minute later: this one counts as such.
        few = single.map(work, range(FEW), seconds=seconds, pure=False, fifo_timeout="0s")
        single.gather(few)
        waited = time.monotonic() - begun
        crowd.gather(many)
        return waited, time.monotonic() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=4000)
    parser.add_argument("--milliseconds", type=float, default=10.0)
    arguments = parser.parse_args()
    for fair in (False, True):
        few, many = waits(arguments.tasks, arguments.milliseconds / 1000, fair=fair)
        print(
            f"turns {'on' if fair else 'off'}: {FEW} tasks behind {arguments.tasks} were done "
            f"after {few:.2f} s, all after {many:.1f} s"
        )


if __name__ == "__main__":
    main()
