"""What survives of a cell under load whose processes get ``kill -9``.

A ``kill -9`` leaves the kernel's page cache: it shows in what order a library writes, and not what
a power failure would leave.
"""

from __future__ import annotations

import random
import sys
import time
from dataclasses import dataclass, field

from benchmarks.load_cell import NAMES, LoadCell
from benchmarks.rafts.client import Client

BETWEEN = 200  # entries between two kills
STATE = {"size": 10_000, "outstanding": 16, "count": 4_000, "names": 4_000, "seconds": 1e9}
STATE_S = 180.0
KILL_WITHIN_S = 2.0
ALONE_S = 0.2  # shorter than anybody's election timeout


@dataclass(slots=True)
class Outcome:
    """Of all cells of a library; what a wedged one acknowledged is not looked for."""

    kills: int = 0
    gaps: list[float] = field(default_factory=list)
    silent: int = 0  # kills of a leader after which the other two committed nothing for 30 s
    late: int = 0  # restarted ones that had not caught up after 10 s
    wedged: int = 0
    acknowledged: int = 0
    lost: int = 0  # the leader does not have them
    lost_after: int = 0  # it does not after all three were killed and restarted
    twice: int = 0
    differ: int = 0  # peers whose state is not the leader's in the end

    @property
    def good(self) -> bool:
        return not (
            self.silent or self.wedged or self.lost or self.lost_after or self.twice or self.differ
        )


def restart_all(cell: LoadCell, *, with_children: bool = True) -> None:
    cell.kill_all(with_children=with_children)
    for name in NAMES:
        cell.start(name)


def goes_on(cell: LoadCell, client: Client) -> bool:
    """Whether anything commits, if need be after a restart of all."""
    if client.commits(BETWEEN):
        return True
    restart_all(cell)
    return client.commits(BETWEEN)


def judge(cell: LoadCell, client: Client, outcome: Outcome) -> None:
    """What became of all that was acknowledged: in the cell as it is, and when all began again."""
    before, twice, differ = compare(cell, client)
    restart_all(cell)
    if not goes_on(cell, client):
        outcome.wedged += 1
        return
    after, twice_after, differ_after = compare(cell, client)
    outcome.acknowledged += len(client.acknowledged)
    outcome.lost += before
    outcome.lost_after += after
    outcome.twice += max(twice, twice_after)
    outcome.differ += max(differ, differ_after)


def compare(cell: LoadCell, client: Client) -> tuple[int, int, int]:
    """What the leader lacks, what somebody has twice, and how many differ from the leader."""
    client.stop()
    for name in NAMES:
        client.caught_up(name)
    kept = client.kept()
    twice = max((sum(counts.values()) - len(counts) for counts in kept.values()), default=0)
    states = {name: set(keys) for name, keys in kept.items()}
    leads = states.get(cell.leader, set())
    differ = sum(states.get(name) != leads for name in NAMES)
    return len(set(client.acknowledged) - leads), twice, differ


def kill_alone(cell: LoadCell) -> float:
    """``kill -9`` of the leader when it has entries that nobody else has; when."""
    others = [cell.process(name) for name in NAMES if name != cell.leader]
    for other in others:
        other.suspend()
    time.sleep(ALONE_S)
    at = cell.kill(cell.leader)
    for other in others:
        other.resume()
    return at


def kill_leaders(kills: int, outcome: Outcome, cell: LoadCell) -> None:
    client = Client(cell)
    for number in range(kills):
        if not goes_on(cell, client):
            break
        killed = cell.leader
        gap = client.gap(kill_alone(cell))
        outcome.kills += 1
        outcome.silent += gap is None
        outcome.gaps += [gap] if gap is not None else []
        cell.start(killed)
        outcome.late += not client.caught_up(killed)
        print(f"kill {number + 1}: gap {gap} s, {outcome}", file=sys.stderr)
    judge(cell, client, outcome)


def kill_all(kills: int, outcome: Outcome, cell: LoadCell, *, with_children: bool) -> None:
    cell.finish_load(cell.begin_load(space="state-", **STATE), STATE_S)
    client, moment = Client(cell), random.Random(1)
    for number in range(kills):
        if not goes_on(cell, client):
            break
        client.wait(lambda: False, moment.uniform(0, KILL_WITHIN_S))
        restart_all(cell, with_children=with_children)
        outcome.kills += 1
        print(f"kill {number + 1} of all, {len(client.acknowledged)} acknowledged", file=sys.stderr)
    judge(cell, client, outcome)
