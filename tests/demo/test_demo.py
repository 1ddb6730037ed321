"""The demo judges: its questions, its counting and its verdict must be right without any failover.

The whole of it, with both kills, is the slow test at the end.
"""

from __future__ import annotations

import collections
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from distributed import Client, LocalCluster
from rich.console import Console

from demo import analysis, data, report, scenario, tally

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tables() -> data.Tables:
    return data.load()


def test_dask_and_pandas_agree_on_every_question(tables: data.Tables, tmp_path: Path) -> None:
    data.write_parquet(tables, tmp_path)
    with (
        LocalCluster(n_workers=2, processes=False, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        for number, question in enumerate(analysis.questions()[:2]):
            frames = [
                analysis.frame(tmp_path / name, number, getattr(tables, name))
                for name in ("flights", "weather", "planes")
            ]
            found = client.compute(question.dask(*frames)).result()
            expected = question.pandas(tables)
            assert len(expected) > 50
            assert scenario._compare(question.title, found, expected) == []


def test_the_report_of_a_day_is_that_of_pandas(
    tables: data.Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(analysis, "DAY_PAUSE_S", 0.0)
    march = tables.flights[tables.flights["month"] == 3]
    expected = analysis.all_days(tables).loc[(3, 8)]
    assert analysis.day_report(march, 8) == pytest.approx(expected.to_dict())


def test_a_wrong_result_is_noticed() -> None:
    right = pd.DataFrame({"delay": [1.0, 2.0]})
    assert scenario._compare("it", right, right.iloc[::-1]) == []
    assert scenario._compare("it", right + 0.01, right)[0].startswith("it: ")
    assert scenario._compare("it", right.head(1), right) != []


def test_executions_are_counted_over_all_workers(tmp_path: Path) -> None:
    lines = {
        11: ["1.0\tstarted\t'x'", "1.5\tfinished\t'x'", "2.0\tstarted\t'y'"],
        12: [
            "2.1\tstarted\t'z'",
            "2.2\trescheduled\t'z'",
            "2.3\tstarted\t'z'",
            "9.0\tstarted\t'y'",
        ],
    }
    for pid, of_worker in lines.items():
        (tmp_path / f"worker-{pid}.tsv").write_text("\n".join(of_worker) + "\n")
    count = tally.read(tmp_path)
    assert count.executions == {"'x'": 1, "'y'": 2, "'z'": 1}
    assert count.more_than_once == {"'y'": 2}
    assert count.worker_pids == {11, 12}


def test_a_pause_is_counted_from_the_blow_on() -> None:
    count = tally.Count(finished_at=[1.0, 2.0, 5.0, 5.1, 9.0])
    assert count.pause_after(2.5, window_s=2.0) == pytest.approx(2.5)
    assert count.pause_after(5.05, window_s=2.0) == pytest.approx(3.9)


def verdict(**wrong: Any) -> report.Verdict:
    right: dict[str, Any] = {
        "compared": 10,
        "differences": [],
        "lost": [],
        "more_than_once": {},
        "executions": 100,
        "workers_restarted": 0,
        "failovers_seen": 2,
        "failovers_expected": 2,
    }
    return report.Verdict(**{**right, **wrong})


@pytest.mark.parametrize(
    "wrong",
    [
        {"differences": ["a question: differs"]},
        {"lost": ["key: cancelled"]},
        {"more_than_once": {"key": 2}},
        {"workers_restarted": 1},
        {"failovers_seen": 1},
    ],
)
def test_it_holds_only_if_all_of_it_does(wrong: dict[str, Any]) -> None:
    assert verdict().holds
    assert not verdict(**wrong).holds
    console = Console(file=io.StringIO(), width=100)
    report.print_verdict(console, verdict(**wrong))
    assert "It did NOT hold." in console.file.getvalue()  # type: ignore[attr-defined]


def test_the_timeline_answers_each_blow_with_its_failover() -> None:
    blows = [scenario.Blow("engine of peer a", 100.0), scenario.Blow("peer b", 200.0)]
    history = [
        {"term": 1, "leader": "a", "started": 50.0, "phases": {"detected": 0.0}, "details": {}},
        {"term": 2, "leader": "b", "started": 100.05, "phases": {"serving": 0.02}, "details": {}},
    ]
    console = Console(file=io.StringIO(), width=100)
    count = tally.Count(collections.Counter(), [100.1], set())
    assert report.print_timeline(console, blows, history, count) == 1
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "70 ms │ serving" in printed
    assert "no peer reported a change of leader" in printed


@pytest.mark.slow
@pytest.mark.system
@pytest.mark.timeout(600)
def test_the_demo_holds(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "demo", "--keep", str(tmp_path / "kept")],
        cwd=ROOT,
        env={**os.environ, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All of it held." in done.stdout
