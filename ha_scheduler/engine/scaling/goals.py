"""Adaptivity in the leader: goals and signals in the ledger, so that they outlive owner and leader.

Guarantee: a goal that its owner was answered for is every later leader's, until it is withdrawn; so
is the latest signal, with the time since when it holds. The goal of a subject is changed by that
subject, or an admin, alone.

Order: a worker that is to go for good is retired before its backend is told to end it.

An owner that polls (``ha-scale``) decides for itself when to act on what it is told, and is present
as long as it polls. For one with ``command`` the leading daemon runs the site's command
(``peer/operators/scale_command.py``): this engine says what it is to do, and never runs it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic, time
from typing import Any

import dask
from dask.utils import parse_timedelta
from distributed.scheduler import WorkerState
from tornado.ioloop import PeriodicCallback

from ha_scheduler.comm.calling import CALLER
from ha_scheduler.engine.base import SchedulerBase
from ha_scheduler.engine.scaling.policy import (
    Goal,
    Owned,
    Policy,
    Signal,
    ends_soon,
    shares,
    signal,
)
from ha_scheduler.engine.stream.tables import Table
from ha_scheduler.protocol.client import Scale, ScalingOf, Unscale
from ha_scheduler.protocol.codec import from_op, tag_of
from ha_scheduler.protocol.engine import LEAVING_MAX, WANTED_MAX, ScaleWanted
from ha_scheduler.protocol.worker import LIFETIME, LIFETIME_LEFT
from ha_scheduler.security.permissions import describe, is_admin

logger = logging.getLogger(__name__)

GOALS = "scaling-goal"  # owner → policy, minimum, maximum, target duration, command, subject
SIGNALS = "scaling-signal"  # owner → signal, wanted workers, seconds of the epoch since when

OWNERS_MAX = 1_000
LOOK_EVERY_S = 1.0
ABSENT_AFTER_S = 30.0  # an owner that polls does so every second; a new leader counts anew
PATIENCE = 3  # looks in a row at which a command's worker may go, as upstream's ``wait_count``
REPEAT_S = 30.0  # a command that brought nothing is run again
REPLACE_BEFORE = "ha-scheduler.scaling.replace-before"
REPLACE_BEFORE_DEFAULT = "60s"


@dataclass(frozen=True, slots=True)
class Owner:
    """A row of ``GOALS``."""

    goal: Goal
    command: bool
    subject: str

    def row(self) -> tuple[Any, ...]:
        goal = self.goal
        numbers = goal.minimum, goal.maximum, goal.target_duration_s
        return str(goal.policy), *numbers, self.command, self.subject

    @classmethod
    def of(cls, row: tuple[Any, ...]) -> Owner:
        policy, minimum, maximum, duration, command, subject = row
        return cls(Goal(Policy(policy), minimum, maximum, duration), command, subject)


class Scaling(SchedulerBase):
    #: Has the leading daemon run the site's command.
    tell_scale: Callable[[ScaleWanted], None] = staticmethod(lambda message: None)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scaling_goals: dict[str, tuple[Any, ...]] = {}
        self.scaling_signals: dict[str, tuple[str, int, float]] = {}
        self._goals = self.tables.add(Table(GOALS, self.scaling_goals))
        self._signals = self.tables.add(Table(SIGNALS, self.scaling_signals))
        self._polled: dict[str, float] = {}
        self._since = monotonic()
        self._may_go: dict[str, Counter[str]] = {}
        self._told: dict[str, tuple[int, float]] = {}  # total that a command was told, and when
        self._retiring_for: set[asyncio.Task[None]] = set()
        look = PeriodicCallback(self.look_at_scaling, LOOK_EVERY_S * 1000)
        self.periodic_callbacks["ha-scaling"] = look

    # -- requests

    def scaling_handlers(self) -> dict[str, Callable[..., Any]]:
        return {
            tag_of(Scale): self.scale_asked,
            tag_of(Unscale): self.unscale_asked,
            tag_of(ScalingOf): self.scaling_asked,
        }

    async def scale_asked(self, **fields: Any) -> dict[str, Any]:
        """Set an owner's goal, if it is another, and say what it should have.

        Raises ``ValueError`` for a goal that makes no sense, ``PermissionError`` for another
        subject's owner.
        """
        asked = from_op(Scale, fields)
        maximum = WANTED_MAX if asked.maximum is None else asked.maximum
        goal = Goal(Policy(asked.policy), asked.minimum, maximum, asked.target_s)
        former = self._owner_of_caller(asked.owner)
        if former is None and len(self.scaling_goals) >= OWNERS_MAX:
            raise ValueError(f"{OWNERS_MAX} owners have goals; withdraw those that are over")
        subject = former.subject if former is not None else CALLER.get().subject
        owner = Owner(goal, asked.command, subject)
        if owner != former:
            self.transactions.note(self._goals.set(asked.owner, owner.row()))
        await self.transactions.settled()
        self._polled[asked.owner] = monotonic()
        self.look_at_scaling()
        return self.scaling_report()[asked.owner]

    async def unscale_asked(self, **fields: Any) -> bool:
        """Withdraw an owner's goal; whether there was one."""
        owner = from_op(Unscale, fields).owner
        known = self._owner_of_caller(owner) is not None
        if known:
            changes = [self._goals.delete(owner)]
            if owner in self.scaling_signals:
                changes.append(self._signals.delete(owner))
            self.transactions.note(*changes)
            for kept in (self._polled, self._may_go, self._told):
                kept.pop(owner, None)
        await self.transactions.settled()
        return known

    def scaling_asked(self) -> dict[str, dict[str, Any]]:
        """The report of every owner."""
        return self.scaling_report()

    def _owner_of_caller(self, name: str) -> Owner | None:
        row, caller = self.scaling_goals.get(name), CALLER.get()
        owner = Owner.of(row) if row is not None else None
        if owner is None or owner.subject in ("", caller.subject) or is_admin(caller):
            return owner
        raise PermissionError(f"the goal of {name} is not of {describe(caller)}")

    # -- what there is, and what should be

    def scaling_report(self) -> dict[str, dict[str, Any]]:
        """For each owner: its goal, its signal, how many workers it should have and has.

        ``total``: with those that end soon. ``leaving``: names of workers that may go.
        """
        owners = {name: Owner.of(row) for name, row in self.scaling_goals.items()}
        groups, unowned = self._grouped(owners)
        owned = {name: self._owned(name, groups[name], owners[name].command) for name in owners}
        goals = {name: owner.goal for name, owner in owners.items()}
        needs = {d: self.adaptive_target(d) for d in {g.target_duration_s for g in goals.values()}}
        needed = {name: needs[goal.target_duration_s] for name, goal in goals.items()}
        wanted = shares(goals, owned, needed, unowned)
        surplus = any(owned[name].staying > wanted[name] for name in owners)
        cheapest = self.workers_to_close(target=0, attribute="name") if surplus else []
        report = {}
        for name, owner in owners.items():
            have, want = owned[name], wanted[name]
            own = {str(ws.name) for ws in groups[name] if not self._ends_soon(ws)}
            leaving = [str(worker) for worker in cheapest if str(worker) in own]
            report[name] = {
                "policy": str(owner.goal.policy),
                "minimum": owner.goal.minimum,
                "maximum": owner.goal.maximum,
                "command": owner.command,
                "present": have.present,
                "signal": str(signal(want, have)),
                "since": self.scaling_signals.get(name, ("", 0, 0.0))[2],
                "wanted": want,
                "workers": have.staying + have.ending,
                "ending": have.ending,
                "total": want + min(have.ending, owner.goal.maximum),
                "leaving": leaving[: max(0, have.staying - want)],
            }
        return report

    def _grouped(self, owners: dict[str, Owner]) -> tuple[dict[str, list[WorkerState]], int]:
        """The workers of each owner, and how many are of none."""
        groups: dict[str, list[WorkerState]] = {name: [] for name in owners}
        unowned = 0
        for ws in self.workers.values():
            name = str(ws.name)
            prefixes = (name[:i] for i in range(len(name) - 1, 0, -1) if name[i] == "-")
            owner = next((prefix for prefix in prefixes if prefix in groups), None)
            if owner is None:
                unowned += 1
            else:
                groups[owner].append(ws)
        return groups, unowned

    def _owned(self, name: str, workers: list[WorkerState], command: bool) -> Owned:
        ending = sum(map(self._ends_soon, workers))
        heard = max(self._polled.get(name, 0.0), self._since)
        present = command or monotonic() - heard < ABSENT_AFTER_S
        return Owned(len(workers) - ending, ending, present)

    def _ends_soon(self, ws: WorkerState) -> bool:
        left, lifetime = ws.metrics.get(LIFETIME_LEFT), ws.metrics.get(LIFETIME)
        if not isinstance(left, int | float) or not isinstance(lifetime, int | float):
            return False
        before = dask.config.get(REPLACE_BEFORE, REPLACE_BEFORE_DEFAULT)
        return ends_soon(left, lifetime, float(parse_timedelta(before)))

    # -- what the leader does by itself

    def look_at_scaling(self) -> None:
        """Record the signals that have changed, and have commands run."""
        if self.recorder is None or not self.recovery.is_open or not self.scaling_goals:
            self._since = monotonic()
            return
        for name, owner in self.scaling_report().items():
            said = self.scaling_signals.get(name)
            if said is None or said[:2] != (owner["signal"], owner["wanted"]):
                row = (owner["signal"], owner["wanted"], time())
                self.transactions.note(self._signals.set(name, row))
                logger.info(
                    "%s is %s: it has %d workers and should have %d.",
                    name,
                    owner["signal"],
                    owner["workers"],
                    owner["wanted"],
                    extra={"action": "scaling_signal"},
                )
            if owner["command"]:
                self._command(name, owner)

    def _command(self, name: str, owner: dict[str, Any]) -> None:
        """Up at once, and again when it brought nothing; down when it was right for a while."""
        if owner["signal"] != Signal.IDLING:
            self._may_go.pop(name, None)
        if owner["signal"] == Signal.DURESS:
            total, at = self._told.get(name, (0, 0.0))
            if total != owner["total"] or monotonic() - at > REPEAT_S:
                self._told[name] = owner["total"], monotonic()
                self.tell_scale(ScaleWanted(self.term, name, owner["total"]))
            return
        self._told.pop(name, None)
        if owner["signal"] == Signal.IDLING:
            before = self._may_go.get(name, Counter())
            counts = Counter({worker: before[worker] + 1 for worker in owner["leaving"]})
            going = [w for w, count in counts.items() if count >= PATIENCE][:LEAVING_MAX]
            self._may_go[name] = Counter({w: n for w, n in counts.items() if w not in going})
            if going:
                task = asyncio.create_task(self._let_go(name, owner["wanted"], going))
                self._retiring_for.add(task)
                task.add_done_callback(self._retiring_for.discard)

    async def _let_go(self, name: str, total: int, going: list[str]) -> None:
        try:
            await self.retire_workers(names=going, close_workers=True, remove=True)
        except Exception:  # nobody waits for it; the workers stay, and may go later
            logger.exception(
                "The workers %s were not retired.", going, extra={"action": "workers_not_retired"}
            )
            return
        self.tell_scale(ScaleWanted(self.term, name, total, tuple(going)))
