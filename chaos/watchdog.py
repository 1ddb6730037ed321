"""Heals what the harness cannot heal any more: ``python -m chaos.watchdog``, its stdin a pipe.

The harness says there what to run for each fault that it has made, and which it has healed. The end
of the pipe is the end of the harness, by ``kill -9`` too; then what is left is run, the latest
first. It ignores the signals that a terminal or a service manager sends to all.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterable
from typing import TextIO

COMMAND_TIMEOUT_S = 20.0


def outstanding(lines: Iterable[str]) -> list[list[str]]:
    """The commands of all that was made and not healed, the latest fault first."""
    wills: dict[int, list[list[str]]] = {}
    for line in lines:
        said = json.loads(line)
        if said.get("healed"):
            wills.pop(said["number"], None)
        else:
            wills[said["number"]] = said["will"]
    return [command for will in reversed(wills.values()) for command in will]


def main(source: TextIO) -> int:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    failed = 0
    for command in outstanding(source):
        try:
            subprocess.run(command, check=True, timeout=COMMAND_TIMEOUT_S, capture_output=True)
        except (OSError, subprocess.SubprocessError) as error:
            failed += 1
            sys.stderr.write(f"could not heal with {' '.join(command)}: {error}\n")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main(sys.stdin))
