"""``dask ha ssh``: a whole cell over ssh, until Ctrl-C."""

from __future__ import annotations

import signal
import sys
from typing import Any

import click

from ha_scheduler.deploy.ssh import DIRECTORY, HASSHCluster


@click.command("ssh")
@click.option(
    "--peer", "peers", multiple=True, required=True, metavar="[NAME=]HOST", help="Once for each."
)
@click.option("--worker", "workers", multiple=True, metavar="HOST", help="Once for each.")
@click.option("--directory", default=DIRECTORY, show_default=True, help="The certificates, here.")
@click.option("--remote-directory", default=DIRECTORY, show_default=True, help="On each host.")
@click.option("--remote-python", default=sys.executable, show_default="the one that runs this")
@click.option("--ssh-username", default=None)
@click.option("--ssh-port", default=None, type=click.IntRange(1, 65535))
@click.option("--ssh-private-key", default=None, type=click.Path(exists=True))
@click.option("--nthreads", default=None, type=click.IntRange(1), help="Of each worker.")
@click.option("--memory-limit", default=None, help="Of each worker.")
def ssh(peers: tuple[str, ...], workers: tuple[str, ...], **given: Any) -> None:
    """Start peers and workers over ssh, and end them at Ctrl-C."""
    names = {"username": "ssh_username", "port": "ssh_port"}
    connect = {name: given[option] for name, option in names.items() if given[option] is not None}
    if given["ssh_private_key"] is not None:
        connect["client_keys"] = [given["ssh_private_key"]]
    options = {n: given[n] for n in ("nthreads", "memory_limit") if given[n] is not None}
    where = {n: given[n] for n in ("directory", "remote_directory", "remote_python")}
    with HASSHCluster(
        peers, workers, connect_options=connect, worker_options=options, **where
    ) as cluster:
        click.echo(f"The cell is at {cluster.scheduler_address}")
        click.echo(f"export DASK_CONFIG={cluster.directory}/tls/dask.yaml")
        signal.sigwait({signal.SIGINT, signal.SIGTERM})
