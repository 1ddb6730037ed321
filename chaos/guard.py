"""What a run may do, and that it is undone: before it begins, while it runs, after it was killed.

Guarantee: nothing is broken that its operator has not named as staging; no more disks are destroyed
than a cell survives; and each fault that was made is healed, in reverse order, by this process or,
if it is killed, by the watchdog.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from chaos.faults.base import Active, Call, parse
from chaos.faults.registry import FAULTS
from chaos.scenario import Scenario
from ha_scheduler.errors import OperatorError

STAGING = "staging"
WATCHDOG_TIMEOUT_S = 60.0
TARGET = -1  # in place of a fault's number
#: Victims that leave no quorum.
OUTAGE = ("majority", "all")


class NotAllowed(OperatorError):
    """Operator: the run would do what it must not; the text says what, and what would allow it."""


def check(scenario: Scenario, *, owned: bool, cell: str = "", outage_allowed: bool = False) -> None:
    """Raises ``NotAllowed``, and ``BadFault`` for a fault that does not exist.

    ``owned``: the target is made for the run and ends with it. Else ``cell`` is its name.
    """
    calls = [parse(text) for text in scenario.faults]
    for call in calls:
        FAULTS.of(call)
    if not owned and STAGING not in cell.lower().replace("_", "-").split("-"):
        raise NotAllowed(
            f"The cell is called {cell!r}: only one with {STAGING!r} in its name, as in "
            f"'{STAGING}-east', is broken on purpose. Name it so where it is one."
        )
    for call in calls if not owned and not outage_allowed else ():
        if set(OUTAGE) & set(call.arguments):
            raise NotAllowed(f"{call} leaves the cell without a quorum: --allow-outage permits it.")
    _check_disks(calls, scenario.peers)


def _check_disks(calls: Sequence[Call], peers: int) -> None:
    """Of a majority of disks nothing can be promised."""
    for call in calls:
        if FAULTS.of(call).destroys and {*OUTAGE, "followers"} & set(call.arguments):
            raise NotAllowed(
                f"{call} destroys more than {(peers - 1) // 2} of {peers} disks, which no protocol "
                f"survives: it would prove nothing."
            )


class Guard:
    """The faults that are active, and who heals them."""

    def __init__(self, watchdog: subprocess.Popen[str], say: Callable[[str], None]) -> None:
        self._watchdog = watchdog
        self._say = say
        self._active: dict[int, Active] = {}

    def made(self, number: int, active: Active) -> None:
        """From now on it will be healed."""
        self._active[number] = active
        self._tell(number=number, will=[list(command) for command in active.will])

    def bequeath(self, will: Sequence[Sequence[str]]) -> None:
        """What the target leaves if the harness is killed; in order it removes that itself."""
        self._tell(number=TARGET, will=[list(command) for command in will])

    def close(self) -> None:
        """Nothing is left to do for the watchdog."""
        self._tell(number=TARGET, healed=True)

    def heal(self, number: int) -> str:
        """Heal one; its error in words, or nothing."""
        active = self._active.get(number)
        if active is None:
            return ""
        try:
            active.heal()
        except Exception as error:
            self._say(f"could not heal fault {number}: {error!r}")
            return f"{type(error).__name__}: {error}"
        del self._active[number]
        self._tell(number=number, healed=True)
        return ""

    def heal_all(self) -> dict[int, str]:
        """Heal all, the latest first; the errors by number."""
        errors = {number: self.heal(number) for number in reversed(list(self._active))}
        return {number: error for number, error in errors.items() if error}

    def _tell(self, **what: object) -> None:
        assert self._watchdog.stdin is not None
        self._watchdog.stdin.write(json.dumps(what) + "\n")
        self._watchdog.stdin.flush()


@contextmanager
def guarded(log: Path, say: Callable[[str], None]) -> Iterator[Guard]:
    """In here faults may be made; after it none is active."""
    with log.open("ab") as output:
        watchdog = subprocess.Popen(
            [sys.executable, "-m", "chaos.watchdog"],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # what ends the harness must not end it
        )
    guard = Guard(watchdog, say)
    try:
        yield guard
    finally:
        guard.heal_all()
        guard.close()
        assert watchdog.stdin is not None
        watchdog.stdin.close()
        watchdog.wait(WATCHDOG_TIMEOUT_S)
