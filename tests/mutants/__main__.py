"""Which seeded bugs do the tests notice, and which layer of them?

    python -m tests.mutants                     each up to the first layer that notices
    python -m tests.mutants --all-layers        the whole table
    python -m tests.mutants --only "vote"       mutants with this in their name

Prints one line a mutant. A survivor is a defect of the tests, and makes the exit code 1. Tests that
fail without any mutant would make the table worthless: exit code 2.
"""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import ThreadPoolExecutor

from .judge import LAYERS, MUTANTS, failing_without_mutant, judge
from .mutant import Mutant

WIDTH = 42  # of a cell of the table


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    chosen = [m for m in MUTANTS if options.only in f"{m.package}/{m.module} {m.name}"]
    if failing := failing_without_mutant():
        print(f"{failing} fails without any mutant; mend it first")  # noqa: T201
        return 2
    _print_row("", {layer: layer for layer in LAYERS})
    survivors = []
    with ThreadPoolExecutor(options.jobs) as pool:
        verdicts = pool.map(lambda mutant: _verdict(mutant, options.all_layers), chosen)
        for mutant, found in zip(chosen, verdicts, strict=True):
            _print_row(f"{mutant.package}: {mutant.name}", found)
            if not any(found.values()):
                survivors.append(mutant.name)
    print(f"\n{len(chosen) - len(survivors)} of {len(chosen)} noticed")  # noqa: T201
    for name in survivors:
        print(f"SURVIVES: {name}")  # noqa: T201
    return 1 if survivors else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutants",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--all-layers", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    return parser


def _verdict(mutant: Mutant, all_layers: bool) -> dict[str, str]:
    """Layer -> the test that noticed."""
    found = {}
    for layer, test in judge(mutant):
        found[layer] = test
        if test and not all_layers:
            break
    return found


def _short(test: str) -> str:
    """The name of a play, or the beginning of a test's sentence."""
    play = test.removeprefix("test_the_play_goes_as_written[")
    return (test.removeprefix("test_") if play == test else play.removesuffix("]"))[:WIDTH]


def _print_row(name: str, found: dict[str, str]) -> None:
    cells = (_short(found.get(layer, "")).ljust(WIDTH) for layer in LAYERS)
    print(f"{name:60} {' '.join(cells)}".rstrip(), flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
