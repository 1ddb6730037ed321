"""Workloads of single tasks: short ones, long ones, of many clients, and left to themselves."""

from __future__ import annotations

from chaos.workloads.base import Workload
from chaos.workloads.session import Session
from chaos.workloads.tasks import busy, counted

BACKLOG_MAX = 200  # tasks under way: the cell sets the pace when it is slow
TASK_S = 0.02
LONG_S = (2.0, 6.0)
LONG_RATE = 0.5
LONG_BACKLOG_MAX = 6


def independent(session: Session) -> None:
    """Each task returns what its key says."""
    number = 0
    while session.pace():
        number += 1
        key = f"{session.name}-{number}"
        value = session.random.getrandbits(32)
        seconds = session.random.uniform(0, 2 * TASK_S)
        session.submit(
            key, counted, str(session.directory), key, seconds, value, expected=value, pure=False
        )
        session.wait_below(BACKLOG_MAX, session.settings.deadline_s)


def long(session: Session) -> None:
    """Tasks that outlast a failover; some sleep, some compute."""
    number = 0
    while session.pace(LONG_RATE):
        number += 1
        key = f"{session.name}-long-{number}"
        function = session.random.choice((counted, busy))
        seconds = session.random.uniform(*LONG_S)
        session.submit(
            key, function, str(session.directory), key, seconds, number, expected=number, pure=False
        )
        session.wait_below(LONG_BACKLOG_MAX, session.settings.deadline_s)


INDEPENDENT = Workload(
    "independent",
    "short tasks with unique keys, each with its own value; every execution is counted",
    independent,
)
LONG = Workload(
    "long-tasks", "tasks of 2 to 6 s that outlast a failover; none may start twice", long, floor=1
)
