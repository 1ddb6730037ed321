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
    abilities = frozenset({"processes", "disk"})

    def __init__(self, directory: Path, *peers: str) -> None:
        self.peers = peers
        self.leading: str | None = peers[0]
        self.restarted: list[str] = []
        self._directory = directory
        self._running: dict[str, list[subprocess.Popen[bytes]]] = {}
        for peer in peers:
            self._start(peer)

    def _start(self, peer: str) -> None:
        self._running[peer] = [subprocess.Popen(["sleep", "600"]) for _ in range(2)]

    def leader(self) -> str | None:
        return self.leading

    def pids(self, peer: str) -> ToyPids:
        daemon, engine = (p.pid if p.poll() is None else None for p in self._running[peer])
        return ToyPids(daemon, engine)

    def signal(self, peer: str, part: str, signum: int) -> None:
        daemon, engine = self._running[peer]
        for process in {"daemon": [daemon], "engine": [engine]}.get(part, [daemon, engine]):
            os.kill(process.pid, signum)

    def restart(self, peer: str) -> None:
        self._end(peer)
        self.restarted.append(peer)
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
