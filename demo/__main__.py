"""``python -m demo`` runs the demo; ``python -m demo --serve`` leaves a cell up until Ctrl-C.

Exit status: 0 only if every result was right, nothing was lost and nothing ran twice.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import threading
from pathlib import Path

import dask.config
from rich.console import Console

from demo import data, report, scenario, tally
from demo.display import display
from ha_scheduler import LocalHACluster

N_PEERS, N_WORKERS = 3, 3

# By default Dask hands out the first tasks of a question only to workers that have nothing else to
# do, whatever its priority: all questions would wait until all days are reported.
SETTINGS = {"distributed.scheduler.worker-saturation": "inf"}


def run(console: Console, directory: Path) -> bool:
    """The demo. Whether everything held."""
    tables = data.load()
    data.write_parquet(tables, directory / "data")
    counts = directory / "tally"
    counts.mkdir()
    os.environ[tally.DIRECTORY_VARIABLE] = str(counts)
    _log_to(directory / "client.log")
    with display(console) as shown, dask.config.set(SETTINGS):
        shown.event(f"starting {N_PEERS} peers and {N_WORKERS} workers on loopback, with TLS")
        with (
            LocalHACluster(
                n_peers=N_PEERS,
                n_workers=N_WORKERS,
                worker_options=["--preload=demo.tally"],
                data_dir=directory / "cell",
            ) as cluster,
            cluster.get_client() as client,
        ):
            shown.event(f"peer {cluster.leader.name} leads; {cluster.scheduler_address}")
            play = scenario.Scenario(cluster, client, tables, directory / "data", shown)
            outcome = play.run()
            history = cluster.history()
            shown.event("comparing every result with pandas")
            lost, differences = scenario.lost(outcome), scenario.differences(outcome, tables)
    count = tally.read(counts)
    answered = report.print_timeline(console, outcome.blows, history, count)
    verdict = report.Verdict(
        compared=len(list(outcome.futures())) - len(outcome.parts),
        differences=differences,
        lost=lost,
        more_than_once=count.more_than_once,
        executions=count.executions.total(),
        workers_restarted=len(count.worker_pids) - N_WORKERS,
        failovers_seen=answered,
        failovers_expected=len(outcome.blows),
    )
    report.print_verdict(console, verdict)
    return verdict.holds


def _log_to(file: Path) -> None:
    """What the client logs when its scheduler dies is no part of the picture."""
    logger = logging.getLogger("distributed")
    logger.handlers[:] = [logging.FileHandler(file)]


def serve(console: Console) -> None:
    """A cell to look at, until Ctrl-C."""
    with LocalHACluster(n_peers=N_PEERS, n_workers=N_WORKERS) as cluster:
        assert cluster.cell is not None
        console.print(f"scheduler   {cluster.scheduler_address}", soft_wrap=True)
        console.print(f"settings    DASK_CONFIG={cluster.cell.dask_config}", soft_wrap=True)
        for peer in cluster.peers:
            url = cluster.cell.dashboard_url(peer.name)
            line = f"peer {peer.name}      {peer.status:<10} {url}  log: {peer.log_path}"
            console.print(line, soft_wrap=True)
        if cluster.cell.certificates is not None:
            token = cluster.cell.certificates / "client.token"
            console.print(f"A dashboard asks for the token in {token}", soft_wrap=True)
        console.print('\nThe dashboard with the tasks is the leader\'s. Try "kill -9" on it:')
        for peer in cluster.peers:
            console.print(f"    peer {peer.name}: daemon {peer.pid}, engine {peer.engine_pid}")
        console.print("\nCtrl-C ends it.")
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            console.print("ending the cell")


def main() -> int:
    """Parse the command line; run or serve."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=sys.modules["demo"].__doc__)
    parser.add_argument("--serve", action="store_true", help="leave a cell up until Ctrl-C")
    parser.add_argument("--keep", metavar="DIR", help="keep logs, data and counts in DIR")
    arguments = parser.parse_args()
    console = Console()
    if arguments.serve:
        serve(console)
        return 0
    if arguments.keep:
        directory = Path(arguments.keep).absolute()
        directory.mkdir(parents=True)
        return 0 if run(console, directory) else 1
    with tempfile.TemporaryDirectory(prefix="dask-ha-demo-") as temporary:
        return 0 if run(console, Path(temporary)) else 1


if __name__ == "__main__":
    sys.exit(main())
