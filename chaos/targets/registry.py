"""The targets there are, by name."""

from __future__ import annotations

from pathlib import Path

from chaos.scenario import Scenario
from chaos.targets.base import Target
from chaos.targets.loopback import Loopback
from chaos.targets.namespaces import Namespaces
from chaos.targets.plain import Plain
from chaos.targets.ssh import PREFIX, Description, Ssh, read_description
from ha_scheduler.errors import OperatorError

TARGETS = {
    "loopback": "a cell on loopback that the run starts",
    "plain": "one plain dask scheduler with its workers, for comparison",
    "namespaces": "a cell that the run starts, each process on a host of its own",
    "ssh:FILE": "a staging cell that runs, as FILE describes it (chaos/targets/ssh.py)",
    "namespaces-vip": "the same, known to workers and clients by a virtual address alone",
}


class BadTarget(OperatorError):
    """Operator: there is no such target."""


def make(scenario: Scenario, root: Path) -> Target:
    """The target of a scenario, not started. Raises ``BadTarget``."""
    match scenario.target:
        case "loopback":
            return Loopback(root, scenario.peers, scenario.workers, scenario.options)
        case "plain":
            return Plain(root, scenario.workers)
        case "namespaces" | "namespaces-vip":
            vip = scenario.target.endswith("vip")
            return Namespaces(root, scenario.peers, scenario.workers, scenario.options, vip)
    if scenario.target.startswith(PREFIX):
        return Ssh(root, _description(scenario.target))
    raise BadTarget(f"There is no target {scenario.target!r}; there are: {', '.join(TARGETS)}.")


def is_owned(name: str) -> bool:
    """Whether the run makes the target and ends it."""
    return not name.startswith(PREFIX)


def cell_of(name: str) -> str:
    """What a cell that is not the run's own is called. Raises ``OperatorError``."""
    return "" if is_owned(name) else _description(name).name


def _description(name: str) -> Description:
    return read_description(Path(name.removeprefix(PREFIX)))
