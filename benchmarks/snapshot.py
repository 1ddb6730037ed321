"""A peer that was away comes back to a log that was cut, and gets the whole ledger.

    python -m benchmarks.snapshot --megabytes 2000

The leader's engine fills the ledger with values that stay, one follower is stopped meanwhile, and
the log is compacted past it. Then it starts again and is sent a snapshot, while the leader keeps
committing 200-byte payloads, one at a time. Printed: how long it took, from the follower's start
until its new engine has read all of its new ledger; the longest silence of the leader that a
follower saw, and the longest time between two ticks of a daemon, meanwhile (a heartbeat is due
every 100 ms, an election starts after 600 ms); commit latency with and without the transfer; and
the memory of the daemons.

The exit status is 1 if leadership changed, or if the follower's ledger lacks a value.
"""

from __future__ import annotations

import argparse
import re
import sys
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.load_cell import NAMES, LoadCell

VALUE_BYTES = 10_000_000  # as graphs: in parts of 512 KiB
QUIET_S = 5.0
TRANSFER_TIMEOUT_S = 600.0
LOAD = {"size": 200, "outstanding": 1, "names": 1000}
LIMITS = {"BYTES_MAX": 64 * 1024 * 1024, "KEEP_BYTES": 16 * 1024 * 1024}  # cut after 256 MB


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, help="on the disk to use; default: TMPDIR")
    parser.add_argument("--megabytes", type=int, default=2000, help="of the ledger")
    return parser.parse_args()


class Peaks(threading.Thread):
    """The most anonymous memory of each daemon while this runs."""

    EVERY_S = 0.2

    def __init__(self, cell: LoadCell) -> None:
        super().__init__(daemon=True)
        self.most = dict.fromkeys(NAMES, 0)
        self._cell = cell
        self._end = threading.Event()
        self.start()

    def run(self) -> None:
        while not self._end.wait(self.EVERY_S):
            for name in NAMES:
                self.most[name] = max(self.most[name], self._cell.anonymous_bytes(name))

    def end(self) -> dict[str, int]:
        self._end.set()
        self.join()
        return self.most


def gaps(cell: LoadCell, name: str) -> tuple[float, float]:
    status = cell.status(name)
    return status["leader_gap_s_max"], status["tick_gap_s_max"]


def fill(cell: LoadCell, away: str, megabytes: int) -> int:
    """Write the ledger; how many values it holds."""
    values = megabytes * 1_000_000 // VALUE_BYTES
    cell.kill(away)
    peers = {name for name in NAMES if name != away}
    cell.mark(peers)
    cell.finish_load(
        cell.begin_load(
            size=VALUE_BYTES, outstanding=2, seconds=0, least=values, names=values, space="kept"
        )
    )
    cell.mark(peers)
    return values


def measure(cell: LoadCell, megabytes: int) -> dict[str, Any]:
    away = next(name for name in NAMES if name != cell.leader)
    stays = next(name for name in NAMES if name not in (away, cell.leader))
    quiet = cell.finish_load(cell.begin_load(seconds=QUIET_S, **LOAD))
    values = fill(cell, away, megabytes)
    leader, term = cell.leader, cell.status(cell.leader)["term"]
    before = {name: gaps(cell, name) for name in (leader, stays)}
    answer = cell.begin_load(seconds=TRANSFER_TIMEOUT_S, **LOAD)
    began = time.monotonic()
    cell.start(away)
    cell.event(lambda e: e["event"] == "caught_up" and e["name"] == away)  # with its old ledger
    peaks = Peaks(cell)
    caught_up = cell.event(
        lambda e: e["event"] == "caught_up" and e["name"] == away, TRANSFER_TIMEOUT_S
    )
    took = time.monotonic() - began
    most = peaks.end()
    cell.stop_load()
    busy = cell.finish_load(answer)
    cell.mark()
    return {
        "values": (caught_up["values"], values),
        "same_leader": (cell.status(leader)["leader"], cell.status(leader)["term"])
        == (leader, term),
        "took": took,
        "log": cell.log_path(away).read_text(),
        "quiet": quiet,
        "busy": busy,
        "gaps": {name: (before[name], gaps(cell, name)) for name in before},
        "own_gap": gaps(cell, away),
        "roles": {leader: "leader", stays: "other follower", away: "receiver"},
        "memory": most,
    }


def moment(log: str, sentence: str) -> float | None:
    """When the daemon last wrote a line with these words, in seconds since the epoch."""
    found = re.findall(rf"^(\S+ \S+) \S+ .*{sentence}", log, re.MULTILINE)
    return datetime.strptime(found[-1], "%Y-%m-%d %H:%M:%S,%f").timestamp() if found else None


def report(result: dict[str, Any], megabytes: int) -> None:
    received = moment(result["log"], "received a snapshot")
    installed = moment(result["log"], "installed a snapshot")
    install = f"{installed - received:.1f} s" if received and installed else "not logged"
    print(f"\n| a ledger of {megabytes} MB to a peer whose log was cut | |")
    print("|---|---|")
    print(f"| from its start until its engine has read all of it | {result['took']:.1f} s |")
    print(f"| rate of all of that | {megabytes / result['took']:.0f} MB/s |")
    print(f"| of it the installation | {install} |")
    for name, (before, after) in result["gaps"].items():
        role = result["roles"][name]
        if role != "leader":
            print(f"| longest silence of the leader, {role} | {gap(before[0], after[0])} |")
        print(f"| longest time between two ticks, {role} | {gap(before[1], after[1])} |")
    print(f"| longest time between two ticks, receiver | {result['own_gap'][1] * 1e3:.0f} ms |")
    for title, load in (("without transfer", result["quiet"]), ("meanwhile", result["busy"])):
        figures = "p50 {:.1f}, p99 {:.1f}, max {:.0f} ms".format(
            *(load[name] * 1e3 for name in ("p50", "p99", "max"))
        )
        print(f"| commit latency {title} | {figures} ({load['payloads']} commits) |")
    for name, role in result["roles"].items():
        print(f"| most anonymous memory, {role} | {result['memory'][name] / 1e6:.0f} MB |")


def gap(before: float, after: float) -> str:
    known = "" if after > before else " or less (seen before it)"
    return f"{after * 1e3:.0f} ms{known}"


def main() -> int:
    options = arguments()
    with LoadCell(options.directory, LIMITS) as cell:
        result = measure(cell, options.megabytes)
    report(result, options.megabytes)
    found, written = result["values"]
    print(f"\nValues written: {written}, missing at the receiver: {written - found}.")
    print("Leadership", "stayed." if result["same_leader"] else "CHANGED.")
    return 0 if found >= written and result["same_leader"] else 1


if __name__ == "__main__":
    sys.exit(main())
