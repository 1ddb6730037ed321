"""``dask-ha-scheduler init``: make the certificate authority and certificates of a cell."""

from __future__ import annotations

from pathlib import Path

import click

from ha_scheduler.cell.peers import Cell
from ha_scheduler.cli.options import path_option, peers_option, port_option, the_cell
from ha_scheduler.errors import OperatorError
from ha_scheduler.security import authority
from ha_scheduler.security.authority import (
    CA_FILE,
    ISSUING,
    PEERS,
    client_files,
    engine_files,
    peer_files,
)
from ha_scheduler.security.dask_config import DASK_CONFIG_FILE


@click.command()
@peers_option
@port_option
@path_option("--dir", "Directory to create; it must hold no certificate authority yet.")
@click.option(
    "--reissue",
    is_flag=True,
    help="Renew all certificates with the authorities in the directory; new peers get theirs.",
)
def init(peers: str | None, port: int | None, dir: Path | None, reissue: bool) -> None:
    """Make the authorities of a cell, and certificates for all peers, clients and workers."""
    cell = the_cell(peers, port, any_count=reissue)
    if dir is None:
        raise OperatorError("--dir is missing; name the directory to create, as in --dir ./tls.")
    directory = dir.absolute()
    if reissue:
        written = authority.reissue(directory, cell)
        click.echo(f"Renewed the certificates of {len(cell.peers)} peers and of clients.")
    else:
        written = authority.create_authority(directory, cell)
        click.echo(
            f"Created two authorities and certificates of {len(cell.peers)} peers and clients."
        )
    click.echo(_what_to_copy(directory, cell))
    beside = directory / f"{DASK_CONFIG_FILE}.new"
    if beside in written:
        click.echo(f"{DASK_CONFIG_FILE} was edited and stays; what it would be is in {beside}.")


def _what_to_copy(directory: Path, cell: Cell) -> str:
    lines = [f"They are in {directory}.", "", "Copy to each peer, into <data-dir>/tls/:"]
    shared = (CA_FILE, ISSUING.cert_file, ISSUING.key_file)
    for peer in cell.peers:
        pairs = (peer_files(directory, peer.name), engine_files(directory, peer.name))
        names = " ".join([*shared, *(f"{p.cert_file.name} {p.key_file.name}" for p in pairs)])
        lines.append(f"  {peer.name} ({peer.host}): {names}")
    files = client_files(directory)
    names = f"{CA_FILE} {files.cert_file.name} {files.key_file.name} {DASK_CONFIG_FILE}"
    lines += [
        "",
        "Copy to each machine with clients or workers, to the same path "
        f"(or correct the paths in {DASK_CONFIG_FILE}):",
        f"  {names}",
        f"  export DASK_CONFIG={directory / DASK_CONFIG_FILE}",
        f"  dask worker {cell.client_address}",
        "",
        f"Keep {PEERS.key_file} offline and copy it to no node: who has it can join the cell. It "
        "is needed to add a peer and to renew the peers' certificates, each year.",
    ]
    return "\n".join(lines)
