"""What code of users can try in a confined process: ``attempts.py <orders as JSON>``.

This process stands for the daemon, and a child for its engine, as any user and without an exec: an
interpreter need not be readable for them. Prints, as JSON, what was possible.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ha_scheduler.confinement import kernel
from ha_scheduler.confinement.plan import Plan

libc = ctypes.CDLL(None, use_errno=True)
PTRACE_ATTACH = 16

#: What can be tried without a plan, and changes nothing for anybody.
HARMLESS = (
    *("key", "key of another peer", "key of the authority", "ledger", "a signal"),
    *("ledger by a relative path", "ledger by /proc/self/cwd", "a signal by a descriptor"),
    *("a limit", "a priority", "a policy"),
)


def checked(result: int) -> int:
    return kernel.checked(result, "")


def attempts(base: Path, daemon: int, secret_fd: int) -> dict[str, Callable[[], Any]]:
    """``base``: tls/ (keys), data/ (the ledger), work/."""
    key, ledger, work = base / "tls" / "peer-a-key.pem", base / "data" / "data.mdb", base / "work"
    proc = Path(f"/proc/{daemon}")

    def by_link() -> str:
        (work / "link").symlink_to(key)
        return (work / "link").read_text()

    def by_hard_link() -> str:
        os.link(key, work / "hard")
        return (work / "hard").read_text()

    def by_mode() -> str:
        key.chmod(0o644)
        return key.read_text()

    def read_memory() -> int:
        local = ctypes.create_string_buffer(8)
        there = (ctypes.c_size_t * 2)(id(daemon), 8)
        here = (ctypes.c_size_t * 2)(ctypes.addressof(local), 8)
        return checked(libc.process_vm_readv(daemon, here, 1, there, 1, 0))

    return {
        "key": key.read_text,
        "key of another peer": (base / "tls" / "peer-b-key.pem").read_text,
        "key of the authority": (base / "tls" / "ca-key.pem").read_text,
        "key by a link": by_link,
        "key by a hard link": by_hard_link,
        "key by its mode": by_mode,
        "key by the daemon's root": Path(f"{proc}/root{key}").read_text,
        "key by the daemon's files": (proc / "fd" / str(secret_fd)).read_text,
        "key moved": lambda: key.replace(work / "moved").read_text(),
        "ledger": ledger.read_bytes,
        "ledger by a relative path": Path("data.mdb").read_bytes,
        "ledger by /proc/self/cwd": Path("/proc/self/cwd/data.mdb").read_bytes,
        "ledger, to write": lambda: ledger.open("r+b"),
        "ledger, removed": lambda: ledger.unlink(),
        "a file beside the ledger": (base / "data" / "more").touch,
        "a directory in place of the data": lambda: (base / "data").rename(base / "old"),
        "the daemon's memory": lambda: (proc / "mem").open("r+b", 0),
        "the daemon's memory by call": read_memory,
        "the daemon's environment": (proc / "environ").read_bytes,
        "a trace of the daemon": lambda: checked(libc.ptrace(PTRACE_ATTACH, daemon, 0, 0)),
        "a signal": lambda: os.kill(daemon, 0),
        "a signal by a descriptor": lambda: signal.pidfd_send_signal(os.pidfd_open(daemon), 0),
        "a limit": lambda: resource.prlimit(daemon, resource.RLIMIT_CPU, (10**6, 10**6)),
        "a limit by a thread": lambda: resource.prlimit(
            int(os.listdir(proc / "task")[-1]), resource.RLIMIT_NOFILE, (1000, 1000)
        ),
        "a priority": lambda: os.setpriority(os.PRIO_PROCESS, daemon, 1),
        "a priority of all": lambda: os.setpriority(os.PRIO_USER, os.getuid(), 1),
        "a policy": lambda: os.sched_setscheduler(daemon, os.SCHED_IDLE, os.sched_param(0)),
        "a setting of the kernel": lambda: open("/proc/sys/kernel/core_pattern", "r+"),
        "a mount": lambda: kernel.mount("tmpfs", str(base / "data"), "tmpfs", 0),
        "no mount": lambda: checked(libc.umount2(os.fsencode(base / "data"), 2)),
        "another root": lambda: os.chroot(base),
        "another user": lambda: os.setuid(12345),
        "the program of the daemon": lambda: (base / "code" / "daemon.py").open("r+"),
    }


def uses(base: Path) -> dict[str, Callable[[], Any]]:
    """What programs of users do, and still can."""
    work = base / "work"

    def by_a_program() -> str:
        command = ["/bin/sh", "-c", f"cat {work}/program > /dev/null && echo done"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def made_and_read() -> str:
        (work / "made").mkdir()
        (work / "made" / "file").write_text("x")
        (work / "made" / "file").rename(work / "made-file")
        return (work / "made-file").read_text()

    def own_limits() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.prlimit(os.getpid(), resource.RLIMIT_CORE, (0, 0))

    def new_beside_the_data() -> str:
        (base / "new").write_text("x")
        return (base / "new").read_text()

    return {
        "own key": (base / "data" / "tls" / "engine-a-key.pem").read_text,
        "authority": (base / "tls" / "ca.pem").read_text,
        "key of clients": (base / "tls" / "client-key.pem").read_text,
        "a program": by_a_program,
        "files": made_and_read,
        "a library": Path("/etc/passwd").read_text,
        "a port": lambda: socket.create_server(("127.0.0.1", 0)),
        "its own state": Path("/proc/self/status").read_text,
        "a child and a signal to it": lambda: os.kill(_sleeping(), signal.SIGKILL),
        "its own limits": own_limits,
        "its own priority": lambda: os.nice(1),
        "the limits of others, to read": lambda: resource.prlimit(
            os.getppid(), resource.RLIMIT_NOFILE
        ),
        "names": lambda: os.listdir("/"),
        "beside": new_beside_the_data,
        "temporary files": lambda: tempfile.TemporaryDirectory(dir="/tmp").cleanup(),
    }


def _sleeping() -> int:
    return subprocess.Popen(["/bin/sleep", "60"]).pid


def possible(tries: dict[str, Callable[[], Any]]) -> list[str]:
    found = []
    for name, attempt in tries.items():
        try:
            attempt()
        except OSError:
            continue
        found.append(name)
    return found


def status() -> dict[str, str]:
    lines = (line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    wanted = ("CapPrm", "CapEff", "CapBnd", "CapInh", "CapAmb", "NoNewPrivs", "Uid")
    return {name: value.split()[0] for name, value in lines if name in wanted}


def main() -> None:
    orders = json.loads(sys.argv[1])
    base, plan = Path(orders["base"]), Plan.from_text(orders["plan"])
    if orders["uid"]:
        os.setgroups([])
        os.setgid(orders["uid"])
        os.setuid(orders["uid"])
    kernel.set_dumpable(False)
    os.chdir(base / "data")
    secret = (base / "tls" / "peer-a-key.pem").open()
    daemon = os.getpid()
    if os.fork():
        os.wait()
        return
    secret_fd = secret.fileno()
    secret.close()  # as an exec does
    if not orders["bare"]:
        kernel.set_dumpable(True)  # as an exec does, too
        plan.carry_out()
    answer = {
        "uses": possible(uses(base)),
        "forbidden": possible(
            {
                name: attempt
                for name, attempt in attempts(base, daemon, secret_fd).items()
                if not orders["bare"] or name in HARMLESS
            }
        ),
        "status": status(),
    }
    sys.stdout.write(json.dumps(answer))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
