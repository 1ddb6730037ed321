"""Disks of a peer's own: a small one that fills up, and one whose power fails.

The peer is killed, its data is moved to the disk, and it is started on it. The heal kills it again,
moves what the disk holds back, and starts it.

``power`` cuts at the heal: all the peers that are meant are stopped in the midst of writing, their
disks (files with ext4 on a loop device) are copied, and they go on with what the copies hold: what
was written and not synced is not in them.

Proof: no byte is free; or what the copies held.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from signal import SIGKILL, SIGSTOP
from typing import TYPE_CHECKING

from chaos.faults.base import (
    LASTS,
    VICTIM,
    Active,
    CannotInject,
    Command,
    Fault,
    Simple,
    chosen,
    lacks,
)

if TYPE_CHECKING:
    from chaos.targets.base import Target

SMALL_BYTES = 320 * 1024 * 1024  # holds a data directory and its reserve
IMAGE_BYTES = 512 * 1024 * 1024
FILLER = "filler"
BACK_S_MAX = 30.0  # until a peer that was started on its disk runs
STOPPED_S_MAX = 5.0
POLL_S = 0.05


def _run(*command: str | Path) -> None:
    """Raises ``CannotInject``."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotInject(f"{' '.join(map(str, command))}: {done.stderr.strip()}")


@dataclass
class Disk:
    """A disk of a peer's own at its data directory; ``aside`` is where its files were before."""

    target: Target
    peer: str

    @property
    def at(self) -> Path:
        return self.target.directory(self.peer)

    @property
    def aside(self) -> Path:
        return self.at.with_name("data-before")

    def begin(self, mount: Callable[[Disk], None]) -> None:
        """Kill the peer, move its data there and start it. ``end`` also after an error."""
        self.target.signal(self.peer, "both", SIGKILL)
        self.at.rename(self.aside)
        self.at.mkdir()
        mount(self)
        shutil.copytree(self.aside, self.at, dirs_exist_ok=True, symlinks=True)
        _run("sync", "--file-system", self.at)  # what we have copied is not what is to be lost
        shutil.rmtree(self.aside)
        self.target.restart(self.peer)

    def end(self) -> None:
        """The other way round. Before ``begin`` was through, its old data is all there is."""
        self.target.signal(self.peer, "both", SIGKILL)
        if self.at.is_mount():
            if not self.aside.exists():
                skipped = shutil.ignore_patterns("lost+found", FILLER)
                shutil.copytree(self.at, self.aside, symlinks=True, ignore=skipped)
            _run("umount", self.at)
        if self.aside.exists():
            self.at.rmdir()
            self.aside.rename(self.at)
        self.target.restart(self.peer)

    @property
    def will(self) -> Command:
        return ("umount", "--lazy", str(self.at))


@dataclass
class Full:
    """Disks without a free byte, but for what the heal frees."""

    disks: Sequence[Disk]
    left: dict[str, int] = field(default_factory=dict)
    healed: bool = False

    def fill(self) -> None:
        for disk in self.disks:
            with (disk.at / FILLER).open("ab") as file:
                free = shutil.disk_usage(disk.at).free
                with contextlib.suppress(OSError):  # the peer has taken some meanwhile
                    os.posix_fallocate(file.fileno(), file.tell(), max(free, 1))
            self.left[disk.peer] = shutil.disk_usage(disk.at).free

    def heal(self) -> None:
        if self.healed:
            return
        for disk in self.disks:
            (disk.at / FILLER).unlink(missing_ok=True)
            disk.end()
        self.healed = True

    def proof(self) -> str | None:
        left = [f"{peer}: {count}" for peer, count in self.left.items()]
        return f"bytes left, {', '.join(left)}" if left else None

    @property
    def will(self) -> Sequence[Command]:
        return [disk.will for disk in self.disks]


def _fill(target: Target, random: Random, lasts_s: float | None, word: str) -> Active:
    active = Full(_begin(target, chosen(target, word, random), _mount_small))
    active.fill()
    return active


def _begin(target: Target, peers: Sequence[str], mount: Callable[[Disk], None]) -> Sequence[Disk]:
    """One peer after the other, so that a majority stays up; all or none."""
    begun: list[Disk] = []
    try:
        for peer in peers:
            begun.append(Disk(target, peer))
            begun[-1].begin(mount)
            _wait_for(target, begun)
    except BaseException:
        for disk in begun:
            disk.end()
        raise
    return begun


def _wait_for(target: Target, disks: Sequence[Disk]) -> None:
    """Until the peers run again on their disks and the cell is whole."""
    deadline = time.monotonic() + BACK_S_MAX
    while not target.ready() and time.monotonic() < deadline:
        time.sleep(POLL_S)
    ended = [disk.peer for disk in disks if target.pids(disk.peer).daemon is None]
    if ended:
        raise CannotInject(f"{', '.join(ended)} did not start on another disk")


@dataclass
class Power:
    """Peers whose power fails at the heal."""

    target: Target
    disks: Sequence[Disk]
    copied: dict[str, int] = field(default_factory=dict)
    healed: bool = False

    def heal(self) -> None:
        if self.healed:
            return
        for disk in self.disks:
            _freeze(self.target, disk.peer)
        for disk in self.disks:
            _run("cp", "--sparse=always", image(disk), copy(disk))
            self.copied[disk.peer] = copy(disk).stat().st_blocks * 512
        for disk in self.disks:
            self._go_on_with_the_copy(disk)
        self.healed = True

    def _go_on_with_the_copy(self, disk: Disk) -> None:
        self.target.signal(disk.peer, "both", SIGKILL)
        _run("umount", disk.at)
        _run("mount", "-o", "loop", copy(disk), disk.at)
        disk.end()
        image(disk).unlink()
        copy(disk).unlink()

    def proof(self) -> str | None:
        held = [f"{peer}: {count}" for peer, count in self.copied.items()]
        return f"power lost; bytes on the disks, {', '.join(held)}" if held else None

    @property
    def will(self) -> Sequence[Command]:
        return [disk.will for disk in self.disks]


def image(disk: Disk) -> Path:
    return disk.at.with_name("disk.image")


def copy(disk: Disk) -> Path:
    return disk.at.with_name("disk.copy")


def _freeze(target: Target, peer: str) -> None:
    """Stop its processes, and wait until no thread is in the midst of a system call."""
    pids = [pid for pid in target.pids(peer) if pid is not None]
    target.signal(peer, "both", SIGSTOP)
    tasks = [task for pid in pids for task in Path(f"/proc/{pid}/task").iterdir()]
    deadline = time.monotonic() + STOPPED_S_MAX
    while any(map(_runs, tasks)) and time.monotonic() < deadline:
        time.sleep(POLL_S / 10)


def _runs(task: Path) -> bool:
    with contextlib.suppress(OSError):
        return task.joinpath("stat").read_text().rpartition(")")[2].split()[0] != "T"
    return False


def _mount_image(disk: Disk) -> None:
    with image(disk).open("wb") as file:
        file.truncate(IMAGE_BYTES)
    _run("mkfs.ext4", "-q", "-F", image(disk))
    _run("mount", "-o", "loop", image(disk), disk.at)


def _mount_small(disk: Disk) -> None:
    _run("mount", "-t", "tmpfs", "-o", f"size={SMALL_BYTES}", "chaos", disk.at)


def _begin_power(target: Target, random: Random, lasts_s: float | None, word: str) -> Active:
    return Power(target, _begin(target, chosen(target, word, random), _mount_image))


def _lacks(target: Target) -> str | None:
    if os.geteuid() != 0:
        return "mounting takes root"
    for tool, package in (("mount", "mount"), ("mkfs.ext4", "e2fsprogs")):
        if shutil.which(tool) is None:
            return f"{tool} is missing: install the package {package}"
    return lacks("processes", "files")(target)


FAULTS: tuple[Fault, ...] = (
    Simple(
        "disk-full",
        "A peer's data is on a small disk that has no byte left.",
        _fill,
        (LASTS, VICTIM),
        _lacks,
    ),
    Simple(
        "power",
        "Peers lose their power at the heal: what was not synced is gone.",
        _begin_power,
        (LASTS, VICTIM),
        _lacks,
    ),
)
