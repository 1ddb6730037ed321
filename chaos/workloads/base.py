"""What a workload is: which processes it has, what each does, and what that leaves to be checked.

A right answer is told to the history with the question (``expected``) wherever it can be known
before; a checker compares, and no workload judges itself. A workload goes on until it is told to
stop: how much it does is what the cell let it do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from chaos.scenario import Scenario
from chaos.workloads.session import Session
from ha_scheduler.errors import OperatorError


class BadWorkload(OperatorError):
    """Operator: there is no such workload."""


def one_client(scenario: Scenario) -> Sequence[str]:
    """One process."""
    return ("0",)


def all_clients(scenario: Scenario) -> Sequence[str]:
    """As many processes as the scenario has clients."""
    return tuple(str(number) for number in range(scenario.clients))


@dataclass(frozen=True, slots=True)
class Workload:
    """``drive`` runs in a process for each of ``roles``, until ``session.stopping``."""

    name: str
    about: str
    drive: Callable[[Session], None]
    roles: Callable[[Scenario], Sequence[str]] = all_clients
    needs: tuple[str, ...] = ()  # modules that must be installed
    counted: bool = True  # each task leaves a line per execution
    undecided: tuple[str, ...] = ()  # beginnings of errors by which an end may stay unknown
    plain: bool = True  # it makes sense against a plain scheduler
    patient: bool = False  # does nothing on purpose: no number of operations is asked for
    floor: int = 5  # operations before the first fault, or nothing was disturbed
