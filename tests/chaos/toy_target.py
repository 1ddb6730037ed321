"""A target of the smallest processes that can be killed and frozen; nothing of ours runs there."""

from __future__ import annotations

import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class ToyPids:
    daemon: int | None
    engine: int | None


class ToyTarget:
    """Each peer is two processes that sleep."""

    name = "toy"
    abilities = frozenset({"processes", "files", "environment", "failpoints"})

    def __init__(self, directory: Path, *peers: str) -> None:
        self.peers = peers
        self.root = directory
        self.failpoints = directory / "failpoints"
        self.failpoints.mkdir()
        self.started_with: list[str] = []
        self._environments = {peer: dict(os.environ) for peer in peers}
        self._options: dict[str, list[str]] = {peer: [] for peer in peers}
        self.leading: str | None = peers[0]
        self.restarted: list[str] = []
        self._directory = directory
        self._running: dict[str, list[subprocess.Popen[bytes]]] = {}
        for peer in peers:
            self._start(peer)

    def _start(self, peer: str) -> None:
        env = self._environments[peer]
        self._running[peer] = [subprocess.Popen(["sleep", "600"], env=env) for _ in range(2)]

    def replace(self, peer: str, command: list[str]) -> None:
        """Have another daemon there."""
        daemon = self._running[peer][0]
        daemon.kill()
        daemon.wait()
        self._running[peer][0] = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def await_end(self, peer: str, seconds: float) -> None:
        self._running[peer][0].wait(seconds)

    def environment(self, peer: str) -> dict[str, str]:
        return self._environments[peer]

    def options(self, peer: str) -> list[str]:
        return self._options[peer]

    def leader(self) -> str | None:
        return self.leading

    def pids(self, peer: str) -> ToyPids:
        daemon, engine = (p.pid if p.poll() is None else None for p in self._running[peer])
        return ToyPids(daemon, engine)

    def signal(self, peer: str, part: str, signum: int) -> None:
        daemon, engine = self._running[peer]
        for process in {"daemon": [daemon], "engine": [engine]}.get(part, [daemon, engine]):
            process.send_signal(signum)  # nothing, if it has ended

    def restart(self, peer: str) -> None:
        self._end(peer)
        self.restarted.append(peer)
        self.started_with += self._options[peer]
        self._start(peer)

    def directory(self, peer: str) -> Path:
        return self._directory / peer

    def _end(self, peer: str) -> None:
        for process in self._running[peer]:
            process.send_signal(signal.SIGKILL)
            process.wait()

    def stop(self) -> None:
        for peer in self.peers:
            self._end(peer)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
