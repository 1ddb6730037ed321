"""The files for systemd and supervisord, by the programs that they are for, where those are
installed; and what in them follows from the code.
"""

from __future__ import annotations

import configparser
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ha_scheduler.errors import EXIT_BAD_INPUT
from ha_scheduler.peer.daemon import HAND_OVER_S
from ha_scheduler.vip.hooks import HOOK_S

ROOT = Path(__file__).resolve().parent.parent.parent
UNIT = ROOT / "deploy" / "systemd" / "dask-ha-scheduler.service"
DROP_IN = UNIT.parent / "vip.conf"
SUPERVISORD = ROOT / "deploy" / "supervisord" / "dask-ha-scheduler.conf"
PROGRAM = "/opt/dask-ha/bin/dask-ha-scheduler"


def section(path: Path, name: str) -> dict[str, str]:
    found = configparser.RawConfigParser(strict=False)
    found.read_string(path.read_text())
    return dict(found[name])


def installed(text: str) -> str:
    """With a program that this host has."""
    assert text.count(PROGRAM) == 1
    return text.replace(PROGRAM, sys.executable)


@pytest.mark.parametrize("drop_ins", [[], [DROP_IN]], ids=["plain", "vip"])
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_has_nothing_to_say_against_the_unit(drop_ins: list[Path], tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    unit.write_text(installed(UNIT.read_text()))
    for drop_in in drop_ins:
        (tmp_path / f"{UNIT.name}.d").mkdir()
        shutil.copy(drop_in, tmp_path / f"{UNIT.name}.d")
    command = ["systemd-analyze", "verify", "--man=no", str(unit)]
    verified = subprocess.run(command, capture_output=True, text=True)
    # It ends with 0 for keys that it does not know, too, and says so.
    assert (verified.returncode, verified.stderr) == (0, "")


def test_the_unit_waits_for_a_transfer_and_does_not_repeat_wrong_input() -> None:
    service = section(UNIT, "Service")
    assert service["restartpreventexitstatus"] == str(EXIT_BAD_INPUT)
    assert float(service["timeoutstopsec"].removesuffix("s")) > HAND_OVER_S + HOOK_S
    assert service["killmode"] == "mixed"  # an engine that got SIGTERM would end before a transfer


def test_only_the_drop_in_of_a_virtual_address_gives_a_capability() -> None:
    service = section(UNIT, "Service")
    assert service["capabilityboundingset"] == ""
    assert "ambientcapabilities" not in service
    assert section(DROP_IN, "Service")["ambientcapabilities"] == "CAP_NET_ADMIN CAP_NET_RAW"


def test_supervisord_reads_its_file_as_it_is_meant(tmp_path: Path) -> None:
    options = pytest.importorskip("supervisor.options")
    whole = tmp_path / "supervisord.conf"
    whole.write_text(f"[supervisord]\n[include]\nfiles = {tmp_path}/*.ini\n")
    text = (
        SUPERVISORD.read_text()
        .replace("user=dask-ha\n", "")
        .replace("/var/log/supervisor", str(tmp_path))
    )
    (tmp_path / "peer.ini").write_text(text)
    server = options.ServerOptions()
    server.realize(["-c", str(whole)])
    (group,) = server.process_group_configs
    (program,) = group.process_configs
    assert program.command.startswith(PROGRAM)
    assert program.exitcodes == [0, EXIT_BAD_INPUT]
    assert program.autorestart.__name__ == "RestartWhenExitUnexpected"
    assert program.stopwaitsecs > HAND_OVER_S + HOOK_S
    assert (program.stopasgroup, program.killasgroup) == (False, True)
