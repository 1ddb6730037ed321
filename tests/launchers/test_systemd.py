"""Slow: the unit as it is shipped, under a real systemd.

It is process 1 of namespaces of its own, with this machine's root beneath an overlay that is thrown
away. Only what this machine lacks is put beside the unit: the path of the program, and that it may
lie in a home or beneath ``/tmp``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ha_scheduler.cell.peers import parse_peers
from ha_scheduler.security.authority import ensure_certificates
from tests.launchers.test_service_files import DROP_IN, PROGRAM, UNIT
from tests.peer.toy_cell import within

SYSTEMD = Path("/lib/systemd/systemd")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces and an overlay take root"),
    pytest.mark.skipif(not SYSTEMD.exists(), reason="systemd is not installed"),
]

ROOT = Path(__file__).resolve().parents[2]
PLACES = [str(ROOT), sys.prefix, sys.base_prefix]
PEERS = "a=10.99.0.1"
TLS = "/etc/dask-ha/tls"
VIP = "10.99.0.100"
USER_ID = 990
NET_ADMIN, NET_RAW = 1 << 12, 1 << 13  # linux/capability.h

BOOT = """
set -eu
scratch=$1; shift
mount --make-rprivate /
mount -t overlay overlay -o lowerdir=/,upperdir=$scratch/upper,workdir=$scratch/work $scratch/merged
cd $scratch/merged
mount -t proc proc proc; mount -t sysfs sysfs sys; mount --rbind /dev dev
mount -t tmpfs tmpfs run; mount -t tmpfs -o mode=1777 tmpfs tmp
for place in "$@"; do mkdir -p ".$place"; mount --bind "$place" ".$place"; done
umount -R sys/fs/cgroup 2>/dev/null || true
mount -t tmpfs tmpfs sys/fs/cgroup; mkdir sys/fs/cgroup/systemd
mount -t cgroup -o none,name=systemd cgroup sys/fs/cgroup/systemd
ip link set lo up; ip link add net0 type veth peer name net1
ip addr add 10.99.0.1/24 dev net0; ip link set net0 up; ip link set net1 up
# No chroot: whoever is in one gets no namespace of a user, in which engines are confined.
pivot_root . mnt; cd /; umount -l /mnt
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin container=other /lib/systemd/systemd --system \\
    --log-target=console --show-status=no --unit=test.target
"""
TARGET = f"""
[Unit]
Requires=sysinit.target dbus.service
Wants={UNIT.name}
After=sysinit.target
AllowIsolate=yes
"""


class Host:
    """What systemd runs on."""

    def __init__(self, first: int) -> None:
        self._enter = ["nsenter", "-t", str(first), "-m", "-p", "-u", "-n", "-i", "-C", "-r"]

    def run(self, *words: str, check: bool = True) -> str:
        ran = subprocess.run([*self._enter, *words], capture_output=True, text=True)
        assert not check or ran.returncode == 0, ran.stderr
        return ran.stdout

    def systemctl(self, *words: str, check: bool = True) -> str:
        return self.run("systemctl", *words, UNIT.name, check=check)

    def unit(self) -> dict[str, str]:
        names = "ActiveState,NRestarts,MainPID,ExecMainStatus"
        lines = self.systemctl("show", "-p", names, check=False).splitlines()
        return dict(line.split("=", 1) for line in lines)

    def status(self) -> dict[str, Any] | None:
        command = [f"{sys.prefix}/bin/dask-ha-scheduler", "status", "--format", "json"]
        words = ["runuser", "-u", "dask-ha", "--", *command, "--peers", PEERS, "--tls-dir", TLS]
        said = self.run(*words, check=False)
        (peer,) = json.loads(said)["peers"] if said else [None]
        return peer if peer and peer.get("serving") else None

    def journal(self) -> str:
        return self.run("journalctl", "--no-pager", "-o", "cat", "-u", UNIT.name)

    def has_vip(self) -> bool:
        return VIP in self.run("ip", "addr")


def furnish(upper: Path, *, vip: bool) -> None:
    """What an operator puts on a host, by docs/operations/service.md."""
    for place in PLACES:  # the way there, for others than root
        (upper / place.lstrip("/")).mkdir(parents=True, exist_ok=True)
    etc, units = upper / "etc", upper / "etc/systemd/system"
    drop_ins = units / f"{UNIT.name}.d"
    for directory in (drop_ins, etc / "dask", upper / TLS.lstrip("/")):
        directory.mkdir(parents=True)
    for name, line in (
        ("passwd", f"dask-ha:x:{USER_ID}:{USER_ID}::/var/lib/dask-ha:/usr/sbin/nologin"),
        ("group", f"dask-ha:x:{USER_ID}:"),
    ):
        (etc / name).write_text(f"{Path('/etc', name).read_text()}{line}\n")
    ensure_certificates(upper / TLS.lstrip("/"), parse_peers(PEERS))
    for path in (upper / TLS.lstrip("/"), *(upper / TLS.lstrip("/")).iterdir()):
        os.chown(path, USER_ID, USER_ID)
    settings = {"peers": PEERS, "name": "a", "tls-dir": TLS}
    settings |= {"vip": f"{VIP}/24"} if vip else {}
    (etc / "dask/ha.yaml").write_text(json.dumps({"ha": {"peer": settings}}))  # JSON is YAML
    program = f"{sys.prefix}/bin/dask-ha-scheduler"
    (units / UNIT.name).write_text(UNIT.read_text().replace(PROGRAM, program))
    (units / "test.target").write_text(TARGET)
    here = f"[Service]\nProtectHome=no\nBindReadOnlyPaths={' '.join(PLACES)}\nWatchdogSec=3s\n"
    (drop_ins / "here.conf").write_text(here)
    if vip:
        shutil.copy(DROP_IN, drop_ins)


@contextmanager
def host(scratch: Path, *, vip: bool = False) -> Iterator[Host]:
    for name in ("upper", "work", "merged"):
        (scratch / name).mkdir()
    furnish(scratch / "upper", vip=vip)
    spaces = ["--pid", "--fork", "--kill-child", "--mount", "--uts", "--net", "--cgroup", "--ipc"]
    words = ["unshare", *spaces, "bash", "-c", BOOT, "boot", str(scratch), *PLACES]
    with (scratch / "console").open("wb") as console:
        outside = subprocess.Popen(words, stdout=console, stderr=console, stdin=subprocess.DEVNULL)
    try:
        children = Path(f"/proc/{outside.pid}/task/{outside.pid}/children")
        first = within(10, lambda: children.read_text().split())[0]
        ready = Path(f"/proc/{first}/comm")
        within(10, lambda: ready.read_text() == "systemd\n", every=0.05)
        yield Host(int(first))
    except BaseException:
        sys.stderr.write((scratch / "console").read_text())
        raise
    finally:
        outside.kill()
        outside.wait()


def test_a_peer_is_up_confined_reloaded_watched_and_not_restarted_in_vain(tmp_path: Path) -> None:
    with host(tmp_path) as machine:
        within(30, lambda: machine.unit().get("ActiveState") == "active", every=0.2)
        status = within(20, machine.status, every=0.2)
        assert status["engine"]["isolation"] == "full"
        first = machine.unit()
        assert '"namespace": "user"' in engine_command(machine)
        assert capabilities(machine, first["MainPID"]) == 0

        machine.systemctl("reload")
        within(10, lambda: "settings_reloaded" in machine.journal(), every=0.2)
        assert machine.unit()["MainPID"] == first["MainPID"]

        machine.run("kill", "-STOP", first["MainPID"])
        within(20, lambda: machine.unit()["NRestarts"] == "1", every=0.2)
        within(20, lambda: machine.unit()["ActiveState"] == "active", every=0.2)
        assert machine.unit()["MainPID"] != first["MainPID"]

        machine.systemctl("stop")
        assert machine.unit()["ExecMainStatus"] == "0"
        machine.run("sh", "-c", "echo '{ha: {peer: {tick-ms: -5}}}' > /etc/dask/zz.yaml")
        machine.systemctl("start", check=False)
        failed = machine.unit()
        assert (failed["ActiveState"], failed["ExecMainStatus"]) == ("failed", "2")


def test_the_drop_in_is_all_that_a_virtual_address_needs(tmp_path: Path) -> None:
    with host(tmp_path, vip=True) as machine:
        status = within(40, machine.status, every=0.2)
        within(10, machine.has_vip, every=0.1)
        assert status["engine"]["isolation"] == "full"
        assert capabilities(machine, machine.unit()["MainPID"]) == NET_ADMIN | NET_RAW
        assert capabilities(machine, str(status["engine"]["pid"])) == 0
        machine.systemctl("stop")
        assert not machine.has_vip()


def engine_command(machine: Host) -> str:
    return machine.run("sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' '\\n' | grep namespace")


def capabilities(machine: Host, pid: str) -> int:
    """Those that the process has or could get."""
    lines = machine.run("cat", f"/proc/{pid}/status").splitlines()
    fields = dict(line.split(":\t", 1) for line in lines if line.startswith("Cap"))
    return max(int(value, 16) for value in fields.values())
