"""``dask ha``: the operator's commands, as a subcommand of Dask.

Every call of ``dask`` loads this module to list it, so the modules of the commands are lazy.
"""

from __future__ import annotations

import click

from ha_scheduler.cli.commands import COMMANDS, OF_CLIENTS, LazyGroup
from ha_scheduler.cli.sentences import CONTEXT


@click.group(
    name="ha",
    cls=LazyGroup,
    found=COMMANDS | OF_CLIENTS,
    invoke_without_command=True,
    context_settings=CONTEXT,
)
@click.pass_context
def ha(context: click.Context, /) -> None:
    """Operate a replicated scheduler."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
