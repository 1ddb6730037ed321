"""The harness's own promises: a seed decides all, what is allowed, that all is healed, verdicts."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from chaos import guard, history, record
from chaos.checkers.judge import judge, summarize, verdict
from chaos.cli import main
from chaos.faults.base import BadFault, parse
from chaos.history import Event, Writer, operations, read
from chaos.record import Facts, Fired, Ledger, Record, Sample, append, write_json
from chaos.reporting import page
from chaos.scenario import BadScenario, Scenario, changed, command, from_mapping, to_toml
from chaos.schedule import schedule
from chaos.suites import suite as suites
from tests.deadlines import SCALE


def lasts_not(call: Any) -> float | None:
    return 9.0 if call.name == "pause" else None


# -- scenario and schedule


def test_a_scenario_is_read_as_it_was_written(tmp_path: Path) -> None:
    scenario = Scenario(faults=("kill:leader", "pause:follower:2s"), seed=7, rate=2.5)
    path = tmp_path / "scenario.toml"
    path.write_text(to_toml(scenario))
    from chaos.scenario import read as read_scenario

    assert read_scenario(path) == scenario


def test_the_line_that_runs_it_again_names_what_is_unusual_and_the_seed() -> None:
    line = command(Scenario(faults=("kill:leader",), seed=7, time_limit_s=9.0))
    assert line == "dask-ha-chaos run --faults kill:leader --seed 7 --time-limit 9"


@pytest.mark.parametrize(
    "wrong",
    [{"peers": 2}, {"peers": 99}, {"rate": 0}, {"sed": 1}, {"faults": ["kill::"]}, {"seed": "x"}],
)
def test_a_wrong_scenario_is_refused_before_anything_starts(wrong: dict[str, Any]) -> None:
    with pytest.raises((BadScenario, BadFault)):
        from_mapping(wrong)


def test_one_seed_decides_the_schedule_and_another_one_gives_another() -> None:
    scenario = Scenario(faults=("kill:leader", "kill:follower"), time_limit_s=60)
    assert schedule(scenario, lasts_not) == schedule(scenario, lasts_not)
    other = schedule(changed(scenario, seed=1), lasts_not)
    assert [i.at_s for i in other] != [i.at_s for i in schedule(scenario, lasts_not)]


@pytest.mark.parametrize("seed", range(20))
def test_no_fault_falls_while_another_lasts_and_all_are_healed_in_time(seed: int) -> None:
    names = ("kill:leader", "pause:leader:9s", "kill:follower")
    scenario = Scenario(faults=names, seed=seed, time_limit_s=120, interval_s=4, lasts_s=3)
    plan = schedule(scenario, lasts_not)
    assert {str(i.call) for i in plan[:3]} == set(names), "each falls before any falls twice"
    assert plan[0].at_s == scenario.baseline_s
    for before, after in itertools.pairwise(plan):
        assert before.heal_at_s < after.at_s
    assert plan[-1].heal_at_s <= scenario.baseline_s + scenario.time_limit_s


def test_a_scenario_without_faults_has_an_empty_schedule() -> None:
    assert schedule(Scenario(), lasts_not) == ()


# -- guard


def test_a_cell_that_is_not_named_staging_is_not_broken() -> None:
    scenario = Scenario(faults=("kill:leader",), target="ssh")
    for name in ("production", "", "stagingproduction"):
        with pytest.raises(guard.NotAllowed, match="staging"):
            guard.check(scenario, owned=False, cell=name)
    guard.check(scenario, owned=False, cell="staging-east")
    guard.check(scenario, owned=True)


def test_a_staging_cell_loses_its_quorum_only_where_that_is_permitted() -> None:
    scenario = Scenario(faults=("kill:majority",), target="ssh")
    with pytest.raises(guard.NotAllowed, match="--allow-outage"):
        guard.check(scenario, owned=False, cell="staging")
    guard.check(scenario, owned=False, cell="staging", outage_allowed=True)


def test_no_more_disks_are_destroyed_than_a_cell_survives() -> None:
    guard.check(Scenario(faults=("damage:lost:leader",)), owned=True)
    with pytest.raises(guard.NotAllowed, match="prove nothing"):
        guard.check(Scenario(faults=("damage:lost:majority",)), owned=True)


def test_a_fault_that_does_not_exist_is_refused() -> None:
    with pytest.raises(BadFault):
        guard.check(Scenario(faults=("explode:leader",)), owned=True)


class Frozen:
    """A process that is stopped, and runs again when it is healed."""

    def __init__(self, pid: int) -> None:
        self.will = [["kill", "-CONT", str(pid)]]

    def heal(self) -> None:
        raise AssertionError("not by this process")

    def proof(self) -> str | None:
        return "stopped"


def test_what_was_broken_is_healed_after_the_harness_was_killed(tmp_path: Path) -> None:
    """By the watchdog, which the signals of a terminal do not end."""
    victim = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    program = (
        "import os, pathlib, signal, sys\n"
        "from chaos.guard import guarded\n"
        "from tests.chaos.test_harness import Frozen\n"
        f"with guarded(pathlib.Path({str(tmp_path / 'watchdog.log')!r}), print) as guard:\n"
        f"    os.kill({victim.pid}, signal.SIGSTOP)\n"
        f"    guard.made(1, Frozen({victim.pid}))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    try:
        ended = subprocess.run([sys.executable, "-c", program], check=False)
        assert ended.returncode == -signal.SIGKILL
        deadline = time.monotonic() + 20 * SCALE
        while _state(victim.pid) == "T":
            assert time.monotonic() < deadline, "nobody has healed it"
            time.sleep(0.02)
    finally:
        victim.kill()
        victim.wait()


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_what_was_healed_is_not_healed_again_by_the_watchdog() -> None:
    from chaos.watchdog import outstanding

    said = [
        {"number": 1, "will": [["a"]]},
        {"number": 2, "will": [["b"], ["c"]]},
        {"number": 1, "healed": True},
        {"number": 3, "will": [["d"]]},
    ]
    assert outstanding(map(json.dumps, said)) == [["d"], ["b"], ["c"]]


# -- history


def test_an_operation_that_never_ended_is_one_that_nobody_knows(tmp_path: Path) -> None:
    path = tmp_path / "c0.ndjson"
    writer = Writer(path, "c0")
    done, _ = writer.invoke("submit", "x", expected=1), writer.invoke("submit", "y")
    writer.end(done, "ok", "submit", "x", 1)
    with path.open("ab") as file:
        file.write(b'{"t": 1.0, "proc')  # cut by a kill
    found = {op.key: op for op in operations(read([path]))}
    assert (found["x"].type, found["x"].got, found["x"].expected) == ("ok", 1, 1)
    assert (found["y"].type, found["y"].end) == ("info", None)


def test_an_end_of_nothing_is_no_history() -> None:
    with pytest.raises(ValueError, match="never began"):
        list(operations([Event(1.0, "c0", 5, "ok", "submit")]))


# -- judges


class Made:
    """The record of a run that went well, to be spoiled."""

    def __init__(self, directory: Path, **scenario: Any) -> None:
        self.directory = directory
        self.scenario = from_mapping({"faults": ["kill:leader"], "floor": 1, **scenario})
        self.events: list[Event] = []
        self.samples = [
            Sample(t, {"a": {"role": "leader", "term": 1}, "b": {"role": "follower", "term": 1}})
            for t in (1.0, 2.0)
        ]
        self.faults = [Fired(0, "kill:leader", 10.0, 12.0, "ended: 1, 2", made=10.1)]
        self.ledgers = {name: Ledger(1, 3, ["x", "y", "z"], [(1, 1)]) for name in "abc"}
        self.exits: dict[str, int | None] = {"c0": 0}
        self.settled_s: float | None = 1.0
        self.trouble = ""
        self.overdue: tuple[str, ...] = ()
        self.executions: list[str] = []
        self.log = ""
        for n in range(20):
            self.operation(n, f"k{n}", 1.0 + n)

    def operation(self, n: int, key: str, at: float, got: Any = 7, type: Any = "ok") -> None:
        self.events.append(Event(at, "c0", n, "invoke", "submit", key, expected=7))
        self.events.append(Event(at + 0.1, "c0", n, type, "submit", key, got))
        self.executions.append(key)

    def only(self, these: Callable[[int], bool]) -> None:
        """Only the operations of these numbers."""
        self.events = [event for event in self.events if these(event.op)]
        self.executions = [event.key for event in self.events if event.type == "ok"]

    def record(self) -> Record:
        for name in (record.LOGS, record.FILES, record.CLIENTS):
            (self.directory / name).mkdir()
        (self.directory / record.SCENARIO).write_text(to_toml(self.scenario))
        history.write_all(self.directory / record.HISTORY, self.events)
        for name, items in ((record.FAULTS, self.faults), (record.STATUS, self.samples)):
            for item in items:
                append(self.directory / name, item)
        lines = "".join(f"{key}\t1\t1.0\n" for key in self.executions)
        (self.directory / record.FILES / "executions").write_text(lines)
        (self.directory / record.LOGS / "peer-a.log").write_text(self.log)
        write_json(self.directory / record.LEDGERS, self.ledgers)
        phases = {"setup": 0.0, "baseline": 1.0, "faults": 10.0, "heal": 20.0, "settle": 20.0}
        facts = Facts(
            0.0,
            0.0,
            {**phases, "final": 21.0, "collect": 22.0},
            ("a", "b", "c"),
            ("0",),
            ("cell", "files", "shared-files"),
            {},
            {},
            self.exits,
            self.settled_s,
            self.trouble,
            self.overdue,
        )
        write_json(self.directory / record.FACTS, facts)
        return Record(self.directory)

    def verdicts(self) -> dict[str, str]:
        """Of the checkers that found something."""
        results = judge(self.record())
        return {r.name: r.verdict for r in results if r.verdict != "valid"}


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path)


def test_a_run_in_which_all_went_well_is_valid_and_has_its_pages(made: Made) -> None:
    opened = made.record()
    results = judge(opened)
    assert verdict(results) == "valid"
    page.write(opened, summarize(opened, results))
    text = (made.directory / page.TIMELINE).read_text()
    assert "independent under kill:leader" in text
    assert 'class="fault"' in text
    assert json.loads((made.directory / record.SUMMARY).read_text())["verdict"] == "valid"


def test_a_wrong_value_is_found(made: Made) -> None:
    made.operation(50, "wrong", 15.0, got=8)
    assert made.verdicts() == {"values": "violation"}


def test_a_future_that_failed_or_was_cancelled_is_found(made: Made) -> None:
    made.operation(50, "gone", 15.0, got=None, type="fail")
    assert made.verdicts() == {"values": "violation"}


def test_an_operation_without_an_end_is_found(made: Made) -> None:
    made.operation(50, "lost", 15.0, type="info")
    assert made.verdicts() == {"lost": "violation"}


def test_an_operation_of_a_client_that_was_killed_may_be_without_an_end(made: Made) -> None:
    made.operation(50, "lost", 15.0, type="info")
    made.exits["c0"] = -9
    assert made.verdicts() == {"ended": "violation"}


def test_a_client_that_waits_for_ever_has_lost_what_it_waits_for(made: Made) -> None:
    made.operation(50, "lost", 15.0, type="info")
    made.exits["c0"], made.overdue = -9, ("c0",)
    assert made.verdicts() == {"ended": "violation", "lost": "violation"}


def test_what_ran_twice_is_found_and_forgiven_where_workers_died(tmp_path: Path) -> None:
    for name, faults, found in (
        ("a", ["kill:leader"], {"executions": "violation"}),
        ("b", ["kill-worker"], {}),
    ):
        (tmp_path / name).mkdir()
        made = Made(tmp_path / name, faults=faults)
        made.executions.append("k3")
        assert made.verdicts() == found


def test_a_result_of_what_never_ran_is_found(made: Made) -> None:
    made.executions.remove("k3")
    assert made.verdicts() == {"executions": "violation"}


def test_two_leaders_of_a_term_are_found_in_what_peers_say_or_write(tmp_path: Path) -> None:
    for name in ("status", "log"):
        (tmp_path / name).mkdir()
        made = Made(tmp_path / name)
        if name == "status":
            made.samples.append(Sample(3.0, {"c": {"role": "leader", "term": 1}}))
        else:
            made.log = "2026-12-01 16:25:19,183 INFO ha_scheduler.peer.replica: c leads term 1 [x]"
        assert made.verdicts() == {"one-leader": "violation"}


def test_committed_entries_that_differ_are_found_and_later_ones_may(made: Made) -> None:
    made.ledgers["b"] = Ledger(2, 3, ["y", "OTHER"], [(2, 1)])
    assert made.verdicts() == {"prefixes": "violation"}


def test_entries_that_are_not_committed_may_differ(made: Made) -> None:
    made.ledgers["b"] = Ledger(1, 2, ["x", "y", "OTHER"], [(1, 1)])
    assert made.verdicts() == {}


def test_a_cell_that_did_not_come_back_is_found(made: Made) -> None:
    made.settled_s = None
    assert made.verdicts() == {"whole": "violation"}


def test_a_first_answer_that_came_too_late_is_found(tmp_path: Path) -> None:
    made = Made(tmp_path, recovery_s=2.0)
    made.only(lambda n: n < 8 or n > 18)
    assert made.verdicts() == {"recovery": "violation"}


def test_a_secret_or_an_assertion_in_a_log_is_found(made: Made) -> None:
    made.log = "AssertionError: state\n-----BEGIN PRIVATE KEY-----\n"
    results = {r.name: r for r in judge(made.record())}
    assert len(results["logs"].findings) == 2


@pytest.mark.parametrize("what", ["no proof", "no load", "trouble", "no fault"])
def test_a_run_that_proves_nothing_is_unknown(made: Made, what: str) -> None:
    match what:
        case "no proof":
            made.faults = [msgspec.structs.replace(made.faults[0], proof=None)]
        case "no load":
            made.only(lambda n: n > 10)
        case "trouble":
            made.trouble = "interrupted: SIGTERM"
        case _:
            made.faults = []
    assert made.verdicts() == {"vacuity": "unknown"}


# -- suites


def test_a_suite_is_decided_by_its_seed_and_has_every_workload_and_fault_early() -> None:
    nightly = suites.load("nightly", 3)
    assert nightly == suites.load("nightly", 3)
    assert nightly != suites.load("nightly", 4)
    faults = {s.faults for s in nightly.scenarios}
    workloads = {s.workload for s in nightly.scenarios}
    assert {s.faults for s in nightly.scenarios[: len(faults)]} == faults
    early = nightly.scenarios[: len(faults) + len(workloads)]
    assert {s.workload for s in early} == workloads


@pytest.mark.parametrize("name", suites.known())
def test_every_suite_names_what_there_is(name: str) -> None:
    loaded = suites.load(name, 0)
    assert loaded.scenarios
    for scenario in loaded.scenarios:
        guard.check(scenario, owned=True)
        assert scenario.workload in suites_workloads()
        assert parse(scenario.faults[0]) if scenario.faults else True


def suites_workloads() -> set[str]:
    from chaos.workloads.registry import WORKLOADS

    return set(WORKLOADS)


def test_a_suite_that_was_interrupted_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []

    def execute(scenario: Scenario, directory: Path, say: Any) -> dict[str, Any]:
        ran.append(scenario.title)
        if len(ran) == 2:
            raise KeyboardInterrupt
        directory.mkdir(parents=True)
        summary = {
            "verdict": "valid",
            "title": scenario.title,
            "reproduce": "",
            "findings": [],
            "checks": {},
            "seconds": 1.0,
            "faults": [],
            "scenario": msgspec.to_builtins(scenario),
            "versions": {},
            "host": {},
            "figures": {"recovery_s": [], "latency_s": {}, "baseline_latency_s": {}},
        }
        write_json(directory / record.SUMMARY, summary)
        return summary

    monkeypatch.setattr(suites, "execute", execute)
    pr = suites.load("smoke", 0)
    three = suites.Suite("x", "", 1e9, tuple(changed(pr.scenarios[0], seed=n) for n in range(3)))
    with pytest.raises(KeyboardInterrupt):
        suites.run(three, tmp_path, lambda line: None)
    assert suites.run(three, tmp_path, lambda line: None) == "valid"
    assert len(ran) == 4
    assert "3 of 3" in (tmp_path / "index.html").read_text()


# -- commands


def run_command(*words: str) -> Result:
    return CliRunner().invoke(main, words)


def test_a_dry_run_prints_the_plan_and_does_nothing(tmp_path: Path) -> None:
    store = tmp_path / "store"
    words = ("--faults", "kill:leader", "--dry-run", "--store", str(store))
    done = run_command("run", *words)
    assert done.exit_code == 0
    assert "kill:leader" in done.stdout
    assert not store.exists()


def test_wrong_usage_is_told_apart_from_what_nobody_knows() -> None:
    done = run_command("run", "--workload", "nothing")
    assert done.exit_code == 254
    assert done.stderr.startswith("Error: There is no workload")
    assert run_command("run", "--peers", "two").exit_code == 254


def test_an_old_run_is_judged_again(made: Made) -> None:
    made.operation(50, "wrong", 15.0, got=8)
    made.record()
    done = run_command("check", str(made.directory))
    assert done.exit_code == 1
    assert "submit wrong: got 8, expected 7" in done.stdout


def test_listing_faults_leaves_nothing_where_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run_command("faults")
    assert "kill" in done.output
    assert not list(tmp_path.iterdir())
