"""What this host lets the harness do: each probe says what it is for, and what is missing.

A probe does what a fault would do, on a small scale, and undoes it; none looks at version numbers.
"""

from __future__ import annotations

import ctypes.util
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from chaos.wire.network import NoNamespaces, check_permitted
from chaos.workloads.registry import WORKLOADS, unavailable

TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Probe:
    """``look`` returns what is missing, in words; None: nothing is."""

    name: str
    purpose: str
    look: Callable[[], str | None]


def _namespaces() -> str | None:
    try:
        check_permitted()
    except NoNamespaces as error:
        return str(error)
    return None


def _tap() -> str | None:
    return None if os.access("/dev/net/tun", os.R_OK | os.W_OK) else "/dev/net/tun cannot be opened"


def _strace() -> str | None:
    """As a fault does: attach to a process and delay its syncs."""
    if shutil.which("strace") is None:
        return "`strace` is missing: install the package strace"
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        tracer = subprocess.Popen(  # nosec B607  # the one on the PATH
            ["strace", "-f", "-p", str(child.pid), "-e", "inject=fdatasync:error=EIO"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        assert tracer.stderr is not None
        said = tracer.stderr.readline().decode()
        tracer.send_signal(signal.SIGINT)
        tracer.communicate(timeout=TIMEOUT_S)
        return None if "attached" in said else f"a process cannot be traced: {said.strip()}"
    finally:
        child.kill()
        child.wait()


def _small_disk() -> str | None:
    words = ["unshare", "-m", "sh", "-c", "mount -t tmpfs -o size=1m none /mnt"]
    return _fails(words, "util-linux")


def _loop() -> str | None:
    return _fails(["losetup", "-f"], "util-linux (or no loop device is left)")


def _fails(words: list[str], package: str) -> str | None:
    if shutil.which(words[0]) is None:
        return f"`{words[0]}` is missing: install {package}"
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    return None if done.returncode == 0 else done.stderr.strip() or f"`{words[0]}` failed"


def _time() -> str | None:
    found = shutil.which("faketime") or ctypes.util.find_library("faketime")
    return None if found else "libfaketime is missing: install the package faketime"


def _ssh() -> str | None:
    return None if shutil.which("ssh") else "`ssh` is missing: install the package openssh-client"


PROBES = (
    Probe("namespaces", "partitions, half-open connections, virtual addresses", _namespaces),
    Probe("tap", "packets that are late, lost, repeated or reordered", _tap),
    Probe("strace", "disks that are slow or fail", _strace),
    Probe("small disk", "disks that are full", _small_disk),
    Probe("loop device", "loss of power", _loop),
    Probe("faketime", "clocks that jump or drift", _time),
    Probe("ssh", "cells on other hosts", _ssh),
)


def examine() -> Iterator[tuple[str, str, str | None]]:
    """Name, purpose, and what is missing, of each probe and each workload that needs something."""
    for probe in PROBES:
        try:
            yield probe.name, probe.purpose, probe.look()
        except (OSError, subprocess.SubprocessError) as error:
            yield probe.name, probe.purpose, f"{type(error).__name__}: {error}"
    for workload in WORKLOADS.values():
        if workload.needs:
            yield ", ".join(workload.needs), f"the workload {workload.name}", unavailable(workload)
