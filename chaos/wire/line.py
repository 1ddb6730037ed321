"""A spoiling wire between one host and the switch, put in and taken out while all runs.

``insert`` gives the host's port a bridge of its own, with one end of the wire; the other is a port
of the switch. If the wire's process ends, the host is cut off; ``remove``, or the ``will``, puts
its port back.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence

import msgspec

from chaos.wire.network import FAR_PREFIX, SWITCH, Network, port_of
from chaos.wire.spoil import Rules


class Line:
    """That of ``host``; ``seed`` decides which of its packets are spoiled."""

    def __init__(self, network: Network, host: str, seed: float) -> None:
        self.host = host
        self._network = network
        self._seed = seed
        self._rules = Rules()
        self._near, self._far, self._via = f"near-{host}", f"{FAR_PREFIX}{host}", f"via-{host}"
        self._process: subprocess.Popen[bytes] | None = None

    def insert(self) -> None:
        """Carry everything by the wire, and spoil nothing yet."""
        words = ["-m", "chaos.wire.spoil", self._near, self._far, f"{self._seed}"]
        with self._network.inside(SWITCH):
            self._process = subprocess.Popen(
                [sys.executable, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        self._answer()
        in_switch = self._network.in_switch
        in_switch("ip", "link", "add", self._via, "type", "bridge", "forward_delay", "0")
        for command in (
            ("set", self._via, "up"),
            ("set", self._near, "master", self._via, "up"),
            ("set", self._far, "master", "bridge", "up"),
            ("set", port_of(self.host), "master", self._via),
        ):
            in_switch("ip", "link", *command)

    def follow(self, rules: Rules) -> dict[str, int]:
        """From now on; returns what was carried and spoiled until now."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._rules = rules
        self._process.stdin.write(msgspec.json.encode(rules) + b"\n")
        self._process.stdin.flush()
        return self._answer()

    def counts(self) -> dict[str, int]:
        """Frames carried and spoiled."""
        return self.follow(self._rules)

    def remove(self) -> None:
        """Put the host's port back. Idempotent."""
        if self._process is None:
            return
        for command in self.will:
            subprocess.run(command, check=True, capture_output=True)
        process, self._process = self._process, None
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.wait()
        process.stdout.close()

    @property
    def will(self) -> Sequence[Sequence[str]]:
        """What puts the host's port back when this process cannot."""
        ip = [*self._network.enter(SWITCH), "ip", "link"]
        back = [*ip, "set", port_of(self.host), "master", "bridge"]
        return [back, [*ip, "delete", self._via]]

    def _answer(self) -> dict[str, int]:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the wire of {self.host} has ended")
        return dict(json.loads(line))
