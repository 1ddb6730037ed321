"""``config``: what a peer on this machine would be told by Dask's configuration."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import click

from ha_scheduler.cli.configuration import (
    SECTION,
    VARIABLE,
    About,
    Configuration,
    about,
    configured,
    key_of,
    source_of,
)
from ha_scheduler.cli.operate import format_option, new_table, print_table
from ha_scheduler.cli.sentences import CONTEXT, OneSentenceGroup


@click.group(cls=OneSentenceGroup, context_settings=CONTEXT)
def config() -> None:
    """Settings of a peer in Dask's configuration: files and environment."""


@config.command()
@format_option
def show(output: str) -> int:
    """Show every setting, its value, and where that comes from. Options of a start win over it."""
    found = configured()
    rows = [
        (key_of(each), found.get(each.name, each.default), about(each), source_of(each, found))
        for each in fields(Configuration)
        if not about(each).once
    ]
    if output == "json":
        tree = {
            key: {"value": value, "source": source, "unit": known.unit}
            for key, value, known, source in rows
        }
        click.echo(json.dumps(tree, indent=2, default=str))
        return 0
    table = new_table("setting", "value", "unit", "from")
    for key, value, known, source in rows:
        table.add_row(key, "-" if value in (None, ()) else _text(value), known.unit, source)
    print_table(table)
    return 0


@config.command()
def check() -> int:
    """Check it: names, values, bounds, and values that are dangerous together.

    `dask-ha-scheduler --check` goes on from there: ports, directories, certificates.
    """
    found = configured()
    Configuration(**found)
    click.echo(f"{len(found)} settings, which a peer can be started with.")
    return 0


@config.command()
def generate() -> int:
    """Write a file with every setting, its default and what it does, all commented out."""
    top, section = SECTION.split(".")
    click.echo(
        f"# Settings of a peer of dask-ha-scheduler. Put it into ~/.config/dask/ or /etc/dask/.\n"
        f"# The environment wins ({VARIABLE}TICK_MS=50), and options of the command line do.\n"
        f"{top}:\n  {section}:"
    )
    for each in fields(Configuration):
        known = about(each)
        if known.once:
            continue
        notes = ["The same on all peers."] * known.of_cell
        notes += ["Reloaded on SIGHUP."] * known.reloaded
        click.echo(f"\n    # {' '.join([known.text, *notes])}")
        click.echo(f"    # {key_of(each)}: {_yaml(each.default)}{_remarks(known)}")
    return 0


def _remarks(known: About) -> str:
    remarks = [known.unit, f"default: {known.shown}" if known.shown else ""]
    if known.least is not None:
        remarks.append(f"at least {known.least:g}")
    if known.most is not None:
        remarks.append(f"at most {known.most:g}")
    found = ", ".join(filter(None, remarks))
    return f"  # {found}" if found else ""


def _yaml(value: Any) -> str:
    if value in ((), None):
        return "[]" if value == () else "null"
    return json.dumps(value)


def _text(value: Any) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)
