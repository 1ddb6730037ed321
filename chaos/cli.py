"""``dask-ha-chaos``: break a cell on purpose, and judge what its users saw.

Exit statuses: 0 valid, 1 a violation, 2 unknown (a fault did not fire, too little was done), 254
usage, 255 the harness itself failed.
"""

from __future__ import annotations

import sys
import tempfile
import traceback
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from chaos import guard
from chaos.checkers.judge import EXIT
from chaos.execution import execute, made, new_directory, rejudge
from chaos.faults.registry import FAULTS
from chaos.record import SCENARIO
from chaos.reporting.markdown import tables
from chaos.reporting.page import TIMELINE, short
from chaos.runner import Interrupted
from chaos.scenario import Scenario, changed, read
from chaos.schedule import describe, schedule
from chaos.simulation.command import sim
from chaos.suites import suite as suites
from chaos.targets.registry import TARGETS, cell_of, is_owned, make
from chaos.workloads.registry import WORKLOADS, workload
from ha_scheduler.errors import OperatorError

EXIT_USAGE, EXIT_HARNESS = 254, 255
STORE = Path("chaos-runs")


class Commands(click.Group):
    """Errors are one sentence, with the exit statuses above."""

    def main(self, *arguments: Any, **options: Any) -> Any:
        options["standalone_mode"] = False
        try:
            sys.exit(super().main(*arguments, **options) or 0)
        except click.ClickException as error:
            _fail(error.format_message(), EXIT_USAGE)
        except OperatorError as error:
            _fail(str(error), EXIT_USAGE)
        except Interrupted as error:
            _fail(f"{error}; all is healed, and `check` judges what there is", EXIT_HARNESS)
        except (click.Abort, KeyboardInterrupt):
            _fail("interrupted", EXIT_HARNESS)
        except Exception as error:
            traceback.print_exc()
            _fail(f"the harness failed: {error}", EXIT_HARNESS)


def _fail(sentence: str, status: int) -> None:
    click.echo(f"Error: {sentence.rstrip('.')}.", err=True)
    sys.exit(status)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Break a Dask cell on purpose, and judge what its users saw."""


_store = click.option(
    "--store",
    type=click.Path(path_type=Path),
    default=STORE,
    show_default=True,
    help="For reports.",
)


@main.command()
@click.argument("file", required=False, type=click.Path(exists=True, path_type=Path))
@click.option("--workload")
@click.option("--faults", help="With commas, as kill:leader,pause:follower:3s.")
@click.option("--target", help=f"One of {', '.join(TARGETS)}.")
@click.option("--seed", type=int)
@click.option("--peers", type=int)
@click.option("--workers", type=int)
@click.option("--clients", type=int)
@click.option("--rate", type=float, help="Operations per second and client.")
@click.option("--baseline", type=float, help="Seconds before the first fault.")
@click.option("--time-limit", type=float, help="Seconds of faults.")
@click.option("--interval", type=float, help="Seconds from fault to fault.")
@click.option("--lasts", type=float, help="Seconds until a fault is healed.")
@click.option("--settle", type=float, help="Seconds that the cell has to be whole again.")
@click.option("--deadline", type=float, help="Seconds in which every operation ends.")
@click.option("--floor", type=int, help="Operations that there must be before the first fault.")
@click.option("--recovery", type=float, help="Seconds in which the first answer comes again.")
@click.option("--controls", help="Safeguards to take away, with commas.")
@click.option("--options", help="Words for the command line of each peer, with commas.")
@click.option("--keep", is_flag=True, help="Keep the data of the cell in any case.")
@click.option("--dry-run", is_flag=True, help="Print the plan, and do nothing.")
@click.option("--allow-outage", is_flag=True, help="Break a majority of a cell that is not ours.")
@_store
def run(
    file: Path | None, keep: bool, dry_run: bool, allow_outage: bool, store: Path, **given: Any
) -> int:
    """Run one scenario: FILE (TOML), the options, or both."""
    scenario = changed(read(file) if file else Scenario(), **_chosen(given))
    workload(scenario.workload)
    guard.check(
        scenario,
        owned=is_owned(scenario.target),
        cell=cell_of(scenario.target),
        outage_allowed=allow_outage,
    )
    if dry_run:
        _print_plan(scenario)
        return 0
    directory = new_directory(store, scenario)
    click.echo(f"{scenario.title}, seed {scenario.seed}: {directory}")
    return _told(execute(scenario, directory, click.echo, keep=keep), directory)


_IN_SECONDS = ("baseline", "time_limit", "interval", "lasts", "settle", "deadline", "recovery")
_LISTS = ("faults", "controls", "options")


def _chosen(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given, as fields of a scenario."""
    values = {name: value for name, value in given.items() if value is not None}
    for name in _LISTS:
        if name in values:
            values[name] = [word for word in values[name].split(",") if word]
    return {f"{name}_s" if name in _IN_SECONDS else name: v for name, v in values.items()}


def _print_plan(scenario: Scenario) -> None:
    plan = schedule(scenario, lambda call: FAULTS.of(call).lasts(call.arguments))
    click.echo(f"{scenario.title} on {scenario.target}, seed {scenario.seed}")
    click.echo(describe(plan) or "no fault")


def _told(summary: Mapping[str, Any], directory: Path) -> int:
    for finding in summary["findings"]:
        click.echo(f"  {finding['verdict']}: {finding['check']}: {finding['text']}")
    for name, counts in summary["checks"].items():
        words = ", ".join(
            f"{key} {short(value)}" for key, value in counts.items() if key != "verdict"
        )
        click.echo(f"  {counts['verdict']:<9} {name}: {words}")
    click.echo(f"{summary['verdict']}: {directory}")
    if summary["verdict"] != "valid":
        click.echo(f"again: {summary['reproduce']}")
    return EXIT[summary["verdict"]]


@main.command()
@click.argument("directory", type=click.Path(exists=True, path_type=Path))
def check(directory: Path) -> int:
    """Judge an old run with today's checkers."""
    return _told(rejudge(directory), directory)


@main.command()
@click.argument("name", metavar="NAME|FILE")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--resume", type=click.Path(exists=True, path_type=Path), help="Go on in there.")
@click.option("--budget", type=float, help="Seconds in which no further run is begun.")
@click.option("--dry-run", is_flag=True, help="Print the scenarios, and do nothing.")
@_store
def suite(
    name: str, seed: int, resume: Path | None, budget: float | None, dry_run: bool, store: Path
) -> int:
    """Run a suite: smoke, pr, nightly, soak, or a FILE."""
    loaded = suites.load(name, seed)
    if budget is not None:
        loaded = replace(loaded, budget_s=budget)
    if dry_run:
        for scenario in loaded.scenarios:
            click.echo(f"{scenario.title} on {scenario.target}, seed {scenario.seed}")
        return 0
    directory = resume or made(store, f"suite-{loaded.name}", seed)
    click.echo(f"{loaded.about}\n{directory}")
    verdict = suites.run(loaded, directory, click.echo)
    click.echo(f"{verdict}: {directory / 'index.html'}")
    return EXIT[verdict]


@main.command()
@click.argument(
    "directories", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path)
)
@click.option("--open", "show", is_flag=True, help="In a browser.")
@click.option("--markdown", is_flag=True, help="Print what these suites say together.")
def report(directories: tuple[Path, ...], show: bool, markdown: bool) -> int:
    """Judge old runs or suites anew, and write their pages."""
    for directory in directories:
        where = suites.rewrite(directory) if suites.is_one(directory) else _rewrite(directory)
        click.echo(where, err=True)
        if show:
            click.launch(str(where))
    if markdown:
        found = [s for directory in directories for s in suites.summaries(directory)]
        click.echo(tables(found))
    return 0


def _rewrite(directory: Path) -> Path:
    rejudge(directory)
    return directory.absolute() / TIMELINE


@main.command()
@click.argument("directory", type=click.Path(exists=True, path_type=Path))
@_store
def replay(directory: Path, store: Path) -> int:
    """Run the scenario of an old run once more."""
    scenario = read(directory / SCENARIO if directory.is_dir() else directory)
    guard.check(scenario, owned=is_owned(scenario.target), cell=cell_of(scenario.target))
    again = new_directory(store, scenario)
    return _told(execute(scenario, again, click.echo), again)


@main.command()
@click.option("--target", default="loopback", show_default=True)
def faults(target: str) -> None:
    """List the faults, and which cannot be made here."""
    with tempfile.TemporaryDirectory() as directory:  # where it makes its certificates
        made = make(Scenario(target=target), Path(directory))
        reasons = [(fault, fault.unavailable(made)) for fault in FAULTS]
    for fault, why in reasons:
        click.echo(f"{fault.name}{fault.usage}\n    {fault.about}")
        if why:
            click.echo(f"    Not here: {why}.")


main.add_command(sim)


@main.command()
def doctor() -> int:
    """Say what this host lets the harness do; exit status 1 if something is missing."""
    from chaos.doctor import examine

    missing = 0
    for name, purpose, why in examine():
        missing += why is not None
        click.echo(f"{'no ' if why else 'yes'}  {name}: {purpose}{f' ({why})' if why else ''}")
    return 1 if missing else 0


@main.command()
def workloads() -> None:
    """List the workloads, and which cannot run here."""
    from chaos.workloads.registry import unavailable

    for one in WORKLOADS.values():
        why = unavailable(one)
        click.echo(f"{one.name:<18} {one.about}{f' (not here: {why})' if why else ''}")


if __name__ == "__main__":
    main()
