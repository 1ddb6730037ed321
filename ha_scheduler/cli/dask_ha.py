"""``dask ha``: the operator's commands, as a subcommand of Dask.

Every call of ``dask`` loads this module to list it, so the modules of the commands are lazy.
"""

from __future__ import annotations

import pkgutil

import click

from ha_scheduler.cli.sentences import CONTEXT, OneSentenceGroup

#: Name of a command → its object. But for ``dashboard`` and ``journal``, of the machines of
#: clients, it is also a command of ``dask-ha-scheduler``.
COMMANDS = {
    "dashboard": "ha_scheduler.cli.dashboard:dashboard",
    "journal": "client_replay.cli:journal",
    "audit": "ha_scheduler.cli.audit:audit",
    "cert": "ha_scheduler.cli.cert:cert",
    "history": "ha_scheduler.cli.operate:history",
    "status": "ha_scheduler.cli.operate:status",
    "token": "ha_scheduler.cli.token:token",
}


class _LazyGroup(OneSentenceGroup):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = pkgutil.resolve_name(COMMANDS[cmd_name])
        assert isinstance(command, click.Command)
        return command


@click.group(name="ha", cls=_LazyGroup, invoke_without_command=True, context_settings=CONTEXT)
@click.pass_context
def ha(context: click.Context, /) -> None:
    """Operate a replicated scheduler."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
