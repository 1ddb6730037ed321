"""The process of a client.

Guarantee: it has a session of its own, so that Ctrl-C reaches the harness alone, which ends it; its
stdin is a pipe, by which it is told to stop; all that it prints is in ``log``.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


def start_client(
    arguments: Sequence[str], log: Path, environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Run Python with these arguments, from where the calling thread is."""
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
