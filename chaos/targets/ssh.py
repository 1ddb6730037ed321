"""A staging cell that runs already, on hosts that are reached by ssh.

It is described by a file (TOML), and a scenario names it as ``ssh:FILE``::

    name = "staging-east"               # must have "staging" in it
    peers = "a=10.0.0.1,b=10.0.0.2,c=10.0.0.3"
    tls-dir = "/etc/dask-ha"            # certificates of a peer, for an admin's requests
    dask-config = "/etc/dask-ha/dask.yaml"    # of clients
    [hosts.a]
    ssh = ["root@10.0.0.1"]             # words after `ssh`
    pid-file = "/run/dask-ha/peer.pid"
    start = ["systemctl", "restart", "--no-block", "dask-ha-scheduler"]
    log = "/var/log/dask-ha.log"

Nothing of the cell is started or ended by the run itself. What a fault did there is undone by its
heal; if the harness is killed, by the watchdog, over ssh as well.

It has no ability that takes more than signals, a start and the peers' own answers.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from signal import SIGKILL, Signals
from typing import Annotated, Any

import msgspec
from msgspec import Meta, to_builtins

from chaos.targets.base import Part, Pids, TargetFailed
from chaos.targets.clients import start_client
from ha_scheduler.cell.peers import parse_peers
from ha_scheduler.cli.control import ControlClient
from ha_scheduler.deploy.cell import is_ready, is_serving
from ha_scheduler.deploy.environment import worker_environment
from ha_scheduler.errors import ControlError, OperatorError
from ha_scheduler.security.authority import peer_files

PREFIX = "ssh:"
COMMAND_S_MAX = 20.0
GONE_S_MAX = 5.0
READY_S_MAX = 30.0
POLL_S = 0.1
#: No question, no agent, and an end to a host that does not answer.
SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5")


class Host(msgspec.Struct, frozen=True, rename="kebab", forbid_unknown_fields=True):
    """Where a peer runs. ``pid_file`` holds the id of its daemon."""

    ssh: Annotated[tuple[str, ...], Meta(min_length=1)]
    pid_file: str
    start: Annotated[tuple[str, ...], Meta(min_length=1)]
    log: str = ""


class Description(msgspec.Struct, frozen=True, rename="kebab", forbid_unknown_fields=True):
    name: str
    peers: str
    tls_dir: str
    dask_config: str
    hosts: dict[str, Host]


def read_description(file: Path) -> Description:
    """Raises ``OperatorError``."""
    try:
        found = msgspec.convert(tomllib.loads(file.read_text()), Description)
    except (OSError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise OperatorError(f"{file} does not describe a cell: {error}.") from error
    names = parse_peers(found.peers, any_count=True).names
    if missing := set(names) - set(found.hosts):
        raise OperatorError(f"{file} has no [hosts.{min(missing)}], which is one of its peers.")
    return found


class RemoteProcess:
    """A process of a peer, for the proofs of faults: what they need of ``psutil.Process``."""

    def __init__(self, target: Ssh, peer: str, pid: int) -> None:
        self.pid = pid
        self._target = target
        self._peer = peer

    def is_running(self) -> bool:
        return bool(self.status())

    def status(self) -> str:
        """As ``psutil`` has it, for the states that matter here; empty: it has ended."""
        shown = self._target.ask(self._peer, "ps", "-o", "stat=", "-p", str(self.pid)).strip()
        return {"T": "stopped", "Z": "zombie"}.get(shown[:1], "running") if shown else ""


class Ssh:
    """See the module."""

    name = "ssh"
    abilities = frozenset({"cell", "processes", "control"})

    def __init__(self, root: Path, description: Description) -> None:
        self.root = root
        self._hosts = description.hosts
        self._cell = parse_peers(description.peers, any_count=True)
        self._dask_config = Path(description.dask_config)
        self.peers = self._cell.names
        self.workers: tuple[str, ...] = ()
        self.address = self._cell.client_address
        files = peer_files(Path(description.tls_dir), self.peers[0])
        self.control = ControlClient(self._cell, files)
        self._clients: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """It runs: see that it is whole."""
        self.root.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + READY_S_MAX
        while not self.ready():
            if time.monotonic() > deadline:
                raise TargetFailed(f"the cell {self._cell.text} is not whole: it is left alone")
            time.sleep(POLL_S)

    def stop(self) -> None:
        for client in self._clients:
            client.kill()
            client.wait()
            if client.stdin is not None:
                client.stdin.close()
        self._clients.clear()

    # -- hosts

    def there(self, peer: str, *command: str) -> list[str]:
        """The words that run a command on the peer's host."""
        return [*SSH, *self._hosts[peer].ssh, *command]

    def ask(self, peer: str, *command: str) -> str:
        """What it prints; nothing, if it fails there. Raises ``TargetFailed`` without a host."""
        done = subprocess.run(
            self.there(peer, *command),
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_S_MAX,
        )
        if done.returncode == 255:  # ssh's own
            raise TargetFailed(f"the host of {peer} cannot be reached: {done.stderr.strip()}")
        return done.stdout if done.returncode == 0 else ""

    # -- peers

    def process_of(self, peer: str, pid: int) -> RemoteProcess:
        return RemoteProcess(self, peer, pid)

    def pids(self, peer: str) -> Pids:
        written = self.ask(peer, "cat", self._hosts[peer].pid_file).strip()
        if not written.isdecimal() or not self.process_of(peer, int(written)).is_running():
            return Pids(None, None)
        children = self.ask(peer, "pgrep", "-P", written).split()
        return Pids(int(written), int(children[0]) if children else None)

    def signal(self, peer: str, part: Part, signum: Signals) -> None:
        pids = self.pids(peer)
        wanted = {"daemon": [pids.daemon], "engine": [pids.engine]}.get(part, [*reversed(pids)])
        struck = [pid for pid in wanted if pid is not None]
        if not struck:
            return
        self.ask(peer, "kill", f"-{int(signum)}", *map(str, struck))
        deadline = time.monotonic() + GONE_S_MAX
        while signum is SIGKILL and any(self.process_of(peer, pid).is_running() for pid in struck):
            if time.monotonic() > deadline:
                return
            time.sleep(POLL_S)

    def restart(self, peer: str) -> None:
        self.ask(peer, *self._hosts[peer].start)

    def environment(self, peer: str) -> dict[str, str]:
        raise NotImplementedError("another host's: see abilities")

    def options(self, peer: str) -> list[str]:
        raise NotImplementedError("another host's: see abilities")

    def directory(self, peer: str) -> Path:
        raise NotImplementedError("another host's: see abilities")

    def log(self, peer: str) -> Path:
        """A copy of its end, taken now."""
        copy = self.root / f"{peer}.log"
        with contextlib.suppress(TargetFailed):
            if self._hosts[peer].log:
                copy.write_text(self.ask(peer, "tail", "-c", "1000000", self._hosts[peer].log))
        return copy

    # -- what the peers say

    def statuses(self) -> Mapping[str, Mapping[str, Any]]:
        answers = self.control.of_all(self.control.status)
        return {
            name: to_builtins(answer)
            for name, answer in answers.items()
            if not isinstance(answer, ControlError)
        }

    def leader(self) -> str | None:
        answers = self.control.of_all(self.control.status)
        leaders = [
            (answer.term, name)
            for name, answer in answers.items()
            if not isinstance(answer, ControlError) and is_serving(answer)
        ]
        return max(leaders)[1] if leaders else None

    def ready(self) -> bool:
        try:
            found = [self.control.status(name) for name in self.peers]
        except ControlError:
            return False
        agreed = len({(status.term, status.leader) for status in found}) == 1
        return agreed and all(map(is_ready, found)) and any(map(is_serving, found))

    # -- workers and clients

    def worker_pids(self, worker: str) -> Pids:
        raise NotImplementedError("not of this target: see abilities")

    def worker_log(self, worker: str) -> Path:
        raise NotImplementedError("not of this target: see abilities")

    def signal_worker(self, worker: str, part: Part, signum: Signals) -> None:
        raise NotImplementedError("not of this target: see abilities")

    def restart_worker(self, worker: str) -> None:
        raise NotImplementedError("not of this target: see abilities")

    def spawn_client(
        self, arguments: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """On this host."""
        client = start_client(
            arguments, log, {**worker_environment(self._dask_config), **(environment or {})}
        )
        self._clients.append(client)
        return client
