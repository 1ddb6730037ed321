"""``python -m tests.upstream CHECKOUT [FILE...]``: upstream's tests with our classes, compared.

Each file runs twice, with the classes of distributed and with ours in their place; a test whose
outcome differs runs again alone, with both, before the difference is believed. Prints a table in
Markdown. The exit status is 1 if a difference has no reason in ``differences.toml``.

With ``--cell`` the tests that do not look into the scheduler object get a cell of three peers for a
scheduler, whose leader dies in the midst of each test. Prints what came of them. The exit status is
1 if a failure has no reason in ``differences.toml``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.upstream.cell_report import CellReport, Reasons, run_in_cell
from tests.upstream.compare import Comparison, compare, load_reasons
from tests.upstream.runner import Workshop

FILES = (
    "test_client.py",
    "test_scheduler.py",
    "test_worker.py",
    "test_failed_workers.py",
    "test_steal.py",
    "test_nanny.py",
    "test_active_memory_manager.py",
)
CELL_FILES = (
    "test_client.py",
    "test_as_completed.py",
    "test_publish.py",
    "test_queues.py",
    "test_variable.py",
    "test_locks.py",
    "test_semaphore.py",
    "test_events.py",
    "test_multi_locks.py",
    "test_actor.py",
    "test_worker_client.py",
    "test_client_executor.py",
    "test_failed_workers.py",
    "test_dask_collections.py",
    "test_priorities.py",
    "test_resources.py",
    "test_stress.py",
)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.upstream", description=__doc__)
    parser.add_argument("checkout", type=Path, help="a checkout of dask/distributed")
    parser.add_argument("files", nargs="*", help="such as test_client.py")
    parser.add_argument("-k", dest="expression", help="only tests that match, as for pytest")
    parser.add_argument("--slow", action="store_true", help="the tests marked slow too")
    parser.add_argument("--cell", action="store_true", help="against cells that lose leaders")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("--after", type=int, help="the message to kill after; 0: do not kill")
    parser.add_argument("--keep", type=Path, help="keep outcomes and logs in this new directory")
    return parser.parse_intermixed_args()


def _run(arguments: argparse.Namespace, directory: Path) -> int:
    workshop = Workshop(arguments.checkout.resolve(), directory, arguments.seed)
    options = ["--runslow"] * arguments.slow
    if arguments.expression:
        options += ["-k", arguments.expression]
    if arguments.cell:
        return _run_in_cells(workshop, arguments, options)
    reasons = load_reasons()
    comparisons: list[Comparison] = []
    for name in arguments.files or FILES:
        comparison = compare(workshop, name, options, reasons)
        print(comparison.progress(), file=sys.stderr, flush=True)
        comparisons.append(comparison)
    print(Comparison.table(comparisons))
    return 1 if any(comparison.unexplained for comparison in comparisons) else 0


def _run_in_cells(workshop: Workshop, arguments: argparse.Namespace, options: list[str]) -> int:
    reasons = Reasons()
    reports: list[CellReport] = []
    for name in arguments.files or CELL_FILES:
        reports.append(run_in_cell(workshop, name, options, reasons, arguments.after))
        print(reports[-1].row(), file=sys.stderr, flush=True)
    print(f"Seed {arguments.seed}. {CellReport.table(reports)}")
    return 1 if any(report.unexplained for report in reports) else 0


def main() -> int:
    """Run the command. Returns its exit status."""
    arguments = _arguments()
    if arguments.keep:
        arguments.keep.mkdir(parents=True)
        return _run(arguments, arguments.keep.resolve())
    with tempfile.TemporaryDirectory(prefix="upstream-tests-") as directory:
        return _run(arguments, Path(directory))


if __name__ == "__main__":
    sys.exit(main())
