"""The commands for operators, by name. A module is loaded when its command is called.

``dask-ha-scheduler`` and ``dask ha`` have the same ones, but for those of clients' machines.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from typing import Any

import click

from ha_scheduler.cli.sentences import OneSentenceGroup

#: Name of a command → its object.
COMMANDS = {
    "audit": "ha_scheduler.cli.audit:audit",
    "cert": "ha_scheduler.cli.cert:cert",
    "config": "ha_scheduler.cli.config:config",
    "debug": "ha_scheduler.cli.debug:debug",
    "doctor": "ha_scheduler.cli.doctor:doctor",
    "drain": "ha_scheduler.cli.maintenance:drain",
    "failover": "ha_scheduler.cli.maintenance:failover",
    "history": "ha_scheduler.cli.history:history",
    "init": "ha_scheduler.cli.init:init",
    "log": "ha_scheduler.cli.log:log",
    "members": "ha_scheduler.cli.members:members",
    "quarantine": "ha_scheduler.cli.quarantine:quarantine",
    "repair": "ha_scheduler.cli.repair:repair",
    "script": "ha_scheduler.cli.script:write_scripts",
    "snapshot": "ha_scheduler.cli.snapshot:snapshot",
    "status": "ha_scheduler.cli.operate:status",
    "token": "ha_scheduler.cli.token:token",
    "transfer": "ha_scheduler.cli.operate:transfer",
    "undrain": "ha_scheduler.cli.maintenance:undrain",
}
#: Of ``dask ha`` alone.
OF_CLIENTS = {
    "dashboard": "ha_scheduler.cli.dashboard:dashboard",
    "journal": "client_replay.cli:journal",
    "ssh": "ha_scheduler.deploy.ssh_command:ssh",
}


class LazyGroup(OneSentenceGroup):
    """A group that loads a command when it is asked for."""

    def __init__(self, *args: Any, found: Mapping[str, str], **given: Any) -> None:
        super().__init__(*args, **given)
        self._found = found

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(self._found)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._found:
            return None
        command = pkgutil.resolve_name(self._found[cmd_name])
        assert isinstance(command, click.Command)
        return command
