"""``client_replay`` on machines that cannot run a cell: people's notebooks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_a_client_needs_no_part_of_linux_or_of_the_daemon(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.client.without_linux", str(tmp_path / "x.journal")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout == "nobody leads\n", done.stderr
