"""Silence leaders and measure: cut → lease over → new leader → workers back → first task finished.

    python -m benchmarks.silent_drop --cuts 20 --how drop

Peers, workers and the client are on different hosts (network namespaces), with TLS, default ports
and default times. Again and again the leader's host falls silent, as at a loss of power or network:
nobody gets a FIN or an RST, connections to it just stop. What ``--how`` can be:

    drop     the switch drops everything from and to the leader's host
    unplug   the switch's port goes down; the leader's host sees no carrier
    deaf     the leader's host sends and receives nothing
    mute     the leader's host receives and sends nothing
    freeze   SIGSTOP to daemon and engine, SIGCONT after 3 s

All processes share one clock. ``answered`` is a task submitted just after the cut, until the client
has its result. For each cut it checks that the lease of the silenced leader was over before another
was elected, that its engine was dead before it was heard again (``freeze``: dies as it wakes up),
and that it comes back as a follower with another engine. It ends with what was executed more than
once, which futures were lost, and which results are wrong: all must be 0, or the exit status is 1.
Needs root, iproute2 and nftables.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distributed import wait

from benchmarks.counting import counted_sleep, verdict
from benchmarks.figures import print_percentiles, print_phases, print_verdict, succeeded
from benchmarks.spread_cell import SpreadCell
from chaos.wire.network import NoNamespaces, check_permitted
from ha_scheduler.errors import ControlError

PHASES = (
    "lease_over",
    "detected",
    "elected",
    "serving",
    "workers_back",
    "clients_back",
    "first_task",
    "answered",
    "engine_ended",
)
FREEZE_S = 3.0
SAMPLE_S = 0.1  # between two questions to the silenced leader
POLL_S = 0.01
PATIENCE_S = 60.0
EXIT_CANNOT = 2


@dataclass(frozen=True)
class Blow:
    """A way to silence a peer. ``heal`` returns the frames dropped, if the blow drops frames."""

    strike: Callable[[SpreadCell, str], None]
    heal: Callable[[SpreadCell, str], int | None]
    lasts_s: float = 0.0  # at least; in any case until everything works with another leader
    answers: bool = True  # the silenced daemon runs and can be asked from its own host


def _plug_in(cell: SpreadCell, name: str) -> None:
    cell.network.plug_in(name)


def _resume(cell: SpreadCell, name: str) -> None:
    cell.peers[name].resume()


BLOWS = {
    "drop": Blow(
        lambda cell, name: cell.network.cut(name),
        lambda cell, name: cell.network.heal(),
    ),
    "unplug": Blow(lambda cell, name: cell.network.unplug(name), _plug_in),
    "deaf": Blow(
        lambda cell, name: cell.network.cut(name, sends=True),
        lambda cell, name: cell.network.heal(),
    ),
    "mute": Blow(
        lambda cell, name: cell.network.cut(name, receives=True),
        lambda cell, name: cell.network.heal(),
    ),
    "freeze": Blow(
        lambda cell, name: cell.peers[name].pause(), _resume, lasts_s=FREEZE_S, answers=False
    ),
}


@dataclass
class Failover:
    """What followed from one blow; ``phases`` are seconds after it."""

    leader: str
    successor: str = ""
    phases: dict[str, float] = field(default_factory=dict)
    dropped: int | None = None
    violations: list[str] = field(default_factory=list)


class _Silenced:
    """Looks at the silenced leader from its own host: until when may its engine serve?"""

    def __init__(self, cell: SpreadCell, name: str, engine: int, asks: bool) -> None:
        self.lease_over: float | None = None  # wall clock, at the latest
        self.engine_ended: float | None = None
        self._cell = cell
        self._name = name
        self._engine = engine
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._watch_engine)]
        if asks:
            self._threads.append(threading.Thread(target=self._watch_lease))
        for thread in self._threads:
            thread.start()

    def wait_for_engine_end(self) -> None:
        """Raises ``TimeoutError``."""
        deadline = time.monotonic() + PATIENCE_S
        while self.engine_ended is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the engine {self._engine} of {self._name} lives on")
            time.sleep(POLL_S)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _watch_engine(self) -> None:
        while not self._stop.is_set():
            try:
                os.kill(self._engine, 0)
            except ProcessLookupError:
                self.engine_ended = time.time()
                return
            time.sleep(POLL_S)

    def _watch_lease(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            with contextlib.suppress(ControlError):
                status = self._cell.status(self._name)
                over = time.time() + status["lease_s"]  # the answer is older than this moment
                if self.lease_over is None or status["lease_s"] > 0:
                    self.lease_over = min(over, self.lease_over or over)
                if status["role"] != "leader":
                    return


def silence_leader(cell: SpreadCell, blow: Blow, submit: Callable[[], Any]) -> Failover:
    """Silence the leader until all works with another, heal, and wait until all are ready.

    ``submit`` gives a future, whose result must come while the leader is silent.
    """
    leader = cell.leader()
    before = cell.status(leader.name)
    failover = Failover(leader.name)
    began = time.time()
    blow.strike(cell, leader.name)
    silenced = _Silenced(cell, leader.name, before["engine"]["pid"], blow.answers)
    try:
        submit().result(PATIENCE_S)
        answered = time.time()
        entry = _next_entry(cell, before["term"])
        if blow.answers:
            silenced.wait_for_engine_end()
        time.sleep(max(0.0, began + blow.lasts_s - time.time()))
        failover.dropped = blow.heal(cell, leader.name)
        silenced.wait_for_engine_end()
    finally:
        silenced.stop()
    moments = {phase: entry["started"] + after for phase, after in entry["phases"].items()}
    moments |= {"answered": answered, "engine_ended": silenced.engine_ended}
    if silenced.lease_over is not None:
        moments["lease_over"] = silenced.lease_over
    failover.successor = entry["leader"]
    failover.phases = {phase: moment - began for phase, moment in moments.items()}
    _check(failover, blow, before, cell.wait_until_ready()[leader.name])
    return failover


def _next_entry(cell: SpreadCell, before: int) -> dict[str, Any]:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        entries = [entry for entry in cell.history() if entry["term"] > before]
        done = [entry for entry in entries if "first_task" in entry["phases"]]
        if done:
            return done[-1]
        time.sleep(0.1)
    raise TimeoutError(
        f"no other leader's first task within {PATIENCE_S:.0f} s: {cell.history()[-2:]}"
    )


def _check(failover: Failover, blow: Blow, before: dict[str, Any], after: dict[str, Any]) -> None:
    """Note what must not be, by the status of the silenced leader before and after."""
    phases, violations = failover.phases, failover.violations
    if blow.answers and not phases.get("lease_over", float("inf")) < phases["elected"]:
        violations.append("another was elected within its lease")
    if failover.dropped == 0:
        violations.append("the cut dropped nothing")
    if after["role"] != "follower":
        violations.append(f"it came back as {after['role']}")
    if after["engine"]["pid"] == before["engine"]["pid"]:
        violations.append("its engine lived on")
    if failover.successor == failover.leader:
        violations.append("it leads again")


class Work:
    """Tasks that count their executions, never fewer than ``live`` of them unfinished at a cut."""

    def __init__(self, client: Any, directory: Path, live: int, seconds: float) -> None:
        self.futures: list[Any] = []  # of the task of number n, at n
        self._client = client
        self._directory = directory
        self._live = live
        self._seconds = seconds

    @property
    def done(self) -> int:
        return sum(future.done() for future in self.futures)

    def refill(self) -> None:
        """Submit as many as have been finished, and wait until another one is."""
        have = len(self.futures)
        numbers = range(have, self.done + self._live)
        self.futures += self._client.map(
            counted_sleep, numbers, directory=str(self._directory), seconds=self._seconds
        )
        wait([next(future for future in self.futures if not future.done())])

    def probe(self) -> Any:
        """One more, with nothing to do, before all that wait."""
        future = self._client.submit(
            counted_sleep,
            len(self.futures),
            directory=str(self._directory),
            seconds=0.0,
            priority=1,
        )
        self.futures.append(future)
        return future

    def verdict(self) -> dict[str, int]:
        wait(self.futures)
        return verdict(self._client, self.futures, self._directory)


def measure(options: argparse.Namespace, directory: Path) -> dict[str, Any]:
    counts = directory / "counts"
    counts.mkdir()
    failovers = []
    with SpreadCell(directory / "cell") as cell:
        work = Work(cell.client, counts, options.tasks, options.seconds)
        for number in range(options.cuts):
            work.refill()
            failover = silence_leader(cell, BLOWS[options.how], work.probe)
            failovers.append(failover)
            print_phases(number, PHASES, failover.phases, work.done)
            for violation in failover.violations:
                print(f"     {failover.leader}: {violation}")
        found = work.verdict()
    return {
        "failovers": [failover.phases for failover in failovers],
        "violations": [text for failover in failovers for text in failover.violations],
        "dropped": [failover.dropped for failover in failovers],
        **found,
    }


def report(options: argparse.Namespace, result: dict[str, Any]) -> None:
    print(f"\nleader silenced ({options.how}), {options.tasks} live tasks, {options.cuts} cuts; ms")
    print_percentiles("cut", PHASES, result["failovers"])
    failovers = [phases for phases in result["failovers"] if "lease_over" in phases]
    if failovers:
        margin = min(phases["elected"] - phases["lease_over"] for phases in failovers)
        print(f"shortest time from the end of the lease to the election: {margin * 1e3:.0f} ms")
    dropped = [count for count in result["dropped"] if count is not None]
    if dropped:
        print(f"frames dropped in a cut: {min(dropped)} to {max(dropped)}")
    print("broken rules:", len(result["violations"]))
    print_verdict(result)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cuts", type=int, default=20)
    parser.add_argument("--how", choices=sorted(BLOWS), default="drop")
    parser.add_argument("--tasks", type=int, default=1000, help="live tasks at each cut")
    parser.add_argument("--seconds", type=float, default=0.05, help="what one task takes")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # and clean up
    try:
        check_permitted()
    except NoNamespaces as error:
        print(f"Error: network namespaces cannot be made here: {error}.", file=sys.stderr)
        return EXIT_CANNOT
    with tempfile.TemporaryDirectory() as directory:
        result = measure(options, Path(directory))
    report(options, result)
    if options.json:
        options.json.write_text(json.dumps(result))
    return 0 if succeeded(result) and not result["violations"] else 1


if __name__ == "__main__":
    sys.exit(main())
