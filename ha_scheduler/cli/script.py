"""``dask ha script slurm|sge|pbs``: the peers of a cell as batch jobs, one script for each."""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import Any

import click

from ha_scheduler.cell.peers import parse_peers
from ha_scheduler.cli.batch_scripts import Job, System, first_walltimes, script, submit_command
from ha_scheduler.cli.sentences import CONTEXT
from ha_scheduler.errors import OperatorError

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@click.command("script", context_settings=CONTEXT)
@click.argument("system", type=click.Choice([str(system) for system in System]))
@click.option("--peers", required=True, metavar="LIST", help="All peers, with fixed addresses.")
@click.option("--walltime", default="24h", show_default=True, help="Of each job: 90m, 24h, 7d.")
@click.option(
    "--hand-over",
    default="2m",
    show_default=True,
    help="A peer is told to end that long before its walltime.",
)
@click.option(
    "--data-dir",
    required=True,
    type=click.Path(path_type=Path),
    help="Of the peers, a directory for each, and of scripts and logs; the same on all nodes.",
)
@click.option(
    "--tls-dir",
    type=click.Path(path_type=Path),
    help="Directory made by `dask-ha-scheduler init`.",
)
@click.option("--program", default="dask-ha-scheduler", show_default=True)
@click.option(
    "--directive", "directives", multiple=True, metavar="TEXT", help="One more, like '-p long'."
)
@click.argument("arguments", nargs=-1)
def write_scripts(system: str, peers: str, walltime: str, hand_over: str, **given: Any) -> None:
    """Write a job script for each peer of a cell, and say how to submit them.

    ARGUMENTS, after --, go to each peer.
    """
    cell, data_dir, tls_dir = parse_peers(peers), given["data_dir"].absolute(), given["tls_dir"]
    try:
        job = Job(
            System(system),
            _seconds("--walltime", walltime),
            _seconds("--hand-over", hand_over),
            given["program"],
            str(data_dir),
            str(tls_dir.absolute()) if tls_dir is not None else None,
            given["directives"],
            given["arguments"],
        )
    except ValueError as error:
        raise OperatorError(f"--walltime, --hand-over: {error}.") from error
    data_dir.mkdir(parents=True, exist_ok=True)
    commands = []
    for peer, first in zip(cell.peers, first_walltimes(job, cell).values(), strict=True):
        file = data_dir / f"dask-ha-{peer.name}.{system}"
        file.write_text(script(job, cell, peer))
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
        commands.append(submit_command(job, str(file), first))
    click.echo("Submit each once; from then on each job submits its successor:")
    click.echo("\n".join(commands))


def _seconds(option: str, text: str) -> int:
    found = re.fullmatch(r"([0-9]{1,6})([smhd])", text)
    if found is None:
        raise OperatorError(f"{option} {text} is no time; write it as 90s, 30m, 12h or 7d.")
    return int(found[1]) * _UNITS[found[2]]
