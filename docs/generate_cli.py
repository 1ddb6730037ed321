"""Writes docs/cli.md from the help of the command line itself; a test keeps the two in step."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from ha_scheduler.cli.commands import OF_CLIENTS
from ha_scheduler.cli.dask_ha import ha
from ha_scheduler.cli.main import main

TARGET = Path(__file__).with_name("cli.md")
HEADER = """\
# Command line

<!-- Made by `make docs` from the help of the commands. -->

Each command of `dask-ha-scheduler` is one of `dask ha`, too; `dashboard`, `journal` and
`ssh` are of `dask ha` alone.
"""


def page() -> str:
    """The whole page."""
    dask = click.Context(click.Group("dask"), info_name="dask")
    of_ours = [*_sections(main, "dask-ha-scheduler", None)]
    for name in sorted(OF_CLIENTS):
        command = ha.get_command(dask, name)
        assert command is not None
        of_ours += _sections(command, name, click.Context(ha, info_name="ha", parent=dask))
    return "\n".join([HEADER, *of_ours])


def _sections(command: click.Command, name: str, parent: click.Context | None) -> Iterator[str]:
    settings = {**command.context_settings, "terminal_width": 100, "max_content_width": 100}
    context = click.Context(command, info_name=name, parent=parent, **settings)
    yield f"## {context.command_path}\n\n```text\n{command.get_help(context)}\n```\n"
    if isinstance(command, click.Group):
        for each in command.list_commands(context):
            below = command.get_command(context, each)
            assert below is not None
            yield from _sections(below, each, context)


if __name__ == "__main__":
    TARGET.write_text(page())
    sys.stdout.write(f"wrote {TARGET}\n")
