"""``python -m tests.upstream CHECKOUT [FILE...]``: upstream's tests with our classes, compared.

Each file runs twice, with the classes of distributed and with ours in their place; a test whose
outcome differs runs again alone, with both, before the difference is believed. Prints a table in
Markdown. The exit status is 1 if a difference has no reason in ``differences.toml``.

With ``--cell`` the tests that take a cluster of processes get a cell of three peers instead, whose
leader is killed within the first moments of each test; what fails is listed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.upstream.compare import Comparison, compare, in_cell, load_reasons
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


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.upstream", description=__doc__)
    parser.add_argument("checkout", type=Path, help="a checkout of dask/distributed")
    parser.add_argument("files", nargs="*", default=FILES, help="such as test_client.py")
    parser.add_argument("-k", dest="expression", help="only tests that match, as for pytest")
    parser.add_argument("--slow", action="store_true", help="the tests marked slow too")
    parser.add_argument("--cell", action="store_true", help="against cells that lose leaders")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("--keep", type=Path, help="keep outcomes and logs in this new directory")
    return parser.parse_args()


def _run(arguments: argparse.Namespace, directory: Path) -> int:
    workshop = Workshop(arguments.checkout.resolve(), directory, arguments.seed)
    options = ["--runslow"] * arguments.slow
    if arguments.expression:
        options += ["-k", arguments.expression]
    if arguments.cell:
        for name in arguments.files:
            print(in_cell(workshop, name, options), flush=True)
        return 0
    reasons = load_reasons()
    comparisons: list[Comparison] = []
    for name in arguments.files:
        comparison = compare(workshop, name, options, reasons)
        print(comparison.progress(), file=sys.stderr, flush=True)
        comparisons.append(comparison)
    print(Comparison.table(comparisons))
    return 1 if any(comparison.unexplained for comparison in comparisons) else 0


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
