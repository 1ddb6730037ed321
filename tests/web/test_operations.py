"""Alert rules and the board are about metrics that there are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from ha_scheduler.engine.metrics import NAMES
from ha_scheduler.peer.operators.metrics import Metrics
from tests.web.test_conditions import LEADER
from tests.web.test_routes import FACTS

OPERATIONS = Path(__file__).parent.parent.parent / "docs" / "operations"
_NAME = re.compile(r"dask_ha_[a-z0-9_]+")


def existing() -> set[str]:
    """Names of the series of a daemon and of an engine."""
    text = Metrics(lambda: LEADER, lambda: FACTS).text()[0].decode()
    lines = [line for line in text.splitlines() if line]
    series = {re.split(r"[{ ]", line)[0] for line in lines if not line.startswith("#")}
    return series | {line.split()[2] for line in lines if line.startswith("# TYPE")} | set(NAMES)


def used() -> dict[str, str]:
    """Each name in an expression, with where it is."""
    rules = yaml.safe_load((OPERATIONS / "alerts.yml").read_text())
    expressions = {
        rule["alert"]: rule["expr"] for group in rules["groups"] for rule in group["rules"]
    }
    board = json.loads((OPERATIONS / "grafana.json").read_text())
    for panel in board["panels"]:
        expressions[panel["title"]] = " ".join(target["expr"] for target in panel["targets"])
    return {name: where for where, text in expressions.items() for name in _NAME.findall(text)}


def test_every_metric_of_an_alert_and_of_the_board_exists() -> None:
    missing = {name: where for name, where in used().items() if name not in existing()}
    assert not missing


def test_every_metric_is_described() -> None:
    page = (OPERATIONS / "metrics.md").read_text()
    base = {
        name for name in existing() if not name.endswith(("_bucket", "_sum", "_count", "_created"))
    }
    assert not {name for name in base if f"`{name}`" not in page}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool here")
def test_promtool_takes_the_alert_rules() -> None:
    command = ["promtool", "check", "rules", str(OPERATIONS / "alerts.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool here")
def test_promtool_takes_the_metrics() -> None:
    text = Metrics(lambda: LEADER, lambda: FACTS).text()[0]
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr + done.stdout


SERIES = {
    'dask_ha_failover_off{instance="a"}': "0x9 1x1800",
    'dask_ha_failover_off_until_timestamp_seconds{instance="a"}': "0x9 1200x1800",
    'dask_ha_peer_drained{instance="a",peer="b"}': "1x700 _x10 1x1000",
    'dask_ha_peer_drained{instance="c",peer="b"}': "1x1800",
    'dask_ha_engine_failing{instance="a"}': "0x9 1x20 0x1800",
}  # a value a minute


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool here")
@pytest.mark.parametrize(
    ("alert", "quiet_at", "fires_at", "labels"),
    [
        ("DaskFailoverOff", (9, 60), 71, {}),
        ("DaskFailoverOffOverdue", (9, 20), 23, {"instance": "a"}),
        ("DaskPeerDrained", (1430,), 1441, {"peer": "b"}),
        ("DaskEngineFailing", (9, 40), 12, {"instance": "a"}),
    ],
)
def test_orders_that_are_forgotten_and_engines_that_fail_raise_an_alarm(
    alert: str, quiet_at: tuple[int, ...], fires_at: int, labels: dict[str, str], tmp_path: Path
) -> None:
    groups = yaml.safe_load((OPERATIONS / "alerts.yml").read_text())["groups"]
    (rule,) = (rule for group in groups for rule in group["rules"] if rule["alert"] == alert)
    text = json.dumps(rule["annotations"])
    for name, value in labels.items():
        text = text.replace(f"{{{{ $labels.{name} }}}}", value)
    fires = {"exp_labels": {**rule["labels"], **labels}, "exp_annotations": json.loads(text)}
    expected = {**{at: [] for at in quiet_at}, fires_at: [fires]}
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": text} for name, text in SERIES.items()],
        "alert_rule_test": [
            {"eval_time": f"{at}m", "alertname": alert, "exp_alerts": alerts}
            for at, alerts in expected.items()
        ],
    }
    cases = tmp_path / "cases.yml"
    cases.write_text(json.dumps({"rule_files": [str(OPERATIONS / "alerts.yml")], "tests": [test]}))
    command = ["promtool", "test", "rules", str(cases)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
