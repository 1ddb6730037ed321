"""``history --plot``, ``status --watch`` and completion: what is drawn, repeated and completed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from ha_scheduler.cli.history_plot import drawing
from ha_scheduler.cli.main import main
from ha_scheduler.protocol.peer import Failover
from tests.peer.toy_cell import ToyCell

SVG = "{http://www.w3.org/2000/svg}"
ENTRIES = (
    Failover(3, "a<b>", 0.0, {"detected": 0.0, "elected": 0.3, "serving": 0.5}, {}),
    Failover(4, "b", 60.0, {"detected": 0.0, "elected": 0.1}, {}),
)


def test_each_phase_of_each_change_is_a_bar_as_long_as_it_took() -> None:
    root = ElementTree.fromstring(drawing(ENTRIES))
    titles = {t.text: rect for rect in root.iter(f"{SVG}rect") for t in rect.iter(f"{SVG}title")}
    assert set(titles) == {
        f"{phase}: {entry.phases[phase]:.3f} s" for entry in ENTRIES for phase in entry.phases
    }
    elected, serving = (
        float(titles[t].get("width", "")) for t in ("elected: 0.300 s", "serving: 0.500 s")
    )
    assert elected == pytest.approx(1.5 * serving, abs=0.2)
    assert "a<b>" in "".join(root.itertext())


def test_without_a_change_of_leader_the_picture_says_so() -> None:
    assert "No change of leader is known." in drawing(())
    ElementTree.fromstring(drawing(()))


@pytest.mark.system
def test_a_real_peer_is_drawn_and_watched(tmp_path: Path) -> None:
    with ToyCell(tmp_path, names="a") as cell:
        cell.settled()
        where = ["--peers", cell.peers, "--tls-dir", str(cell.base / "certs")]
        picture = tmp_path / "history.svg"
        done = CliRunner().invoke(main, ["history", *where, "--plot", str(picture)])
        assert done.exit_code == 0, done.output
        assert "serving" in picture.read_text()
        watching = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "ha_scheduler.cli",
                "status",
                *where,
                "--format",
                "json",
                "--watch",
                "0.2",
            ],
            stdout=subprocess.PIPE,
        )
        try:
            assert watching.stdout is not None
            seen = [json.loads(watching.stdout.readline()) for _ in range(2)]
            assert [each["leader"] for each in seen] == ["a", "a"]
        finally:
            watching.kill()
            watching.communicate()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("dask-ha-scheduler memb", "members"),
        ("dask-ha-scheduler members pro", "promote"),
        ("dask-ha-scheduler status --wat", "--watch"),
    ],
)
def test_a_shell_completes_commands_and_options(words: str, offered: str) -> None:
    count = str(len(words.split()) - 1)
    variables = {"_DASK_HA_SCHEDULER_COMPLETE": "bash_complete", "COMP_WORDS": words}
    done = subprocess.run(
        [str(Path(sys.executable).with_name("dask-ha-scheduler"))],
        env={**os.environ, **variables, "COMP_CWORD": count},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.split() == [f"plain,{offered}"]
