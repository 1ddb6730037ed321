"""A cell of three peers and two workers, whose leader another process may have killed.

``python -m tests.upstream.cell`` starts one and prints a line of JSON: its address and those of
its workers. For each line ``ready`` it prints that again when there is a leader and all workers
have joined it; for a line ``kill`` it kills the leader's engine. It ends with its input. A process
of its own, because upstream's tests count the connections and threads of theirs.
"""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

WORKERS = 2  # as many as upstream's ``cluster``
KILL_SECONDS_MAX = 0.6  # after which a test has its leader killed; most take less than a second


def serve() -> None:
    """The process of the cell."""
    from ha_scheduler import LocalHACluster

    with LocalHACluster(
        WORKERS, nanny=False, security=False, dashboard_address=None, quiet=True
    ) as cluster:
        _tell(cluster)
        for line in sys.stdin:
            if line == "kill\n":
                with contextlib.suppress(Exception):  # there is none just now
                    cluster.leader.kill_engine()
            else:
                _tell(cluster)


def _tell(cluster: Any) -> None:
    with cluster.get_client() as client:
        client.wait_for_workers(WORKERS)
        workers = list(client.scheduler_info(n_workers=-1)["workers"])
    print(json.dumps({"address": cluster.scheduler_address, "workers": workers}), flush=True)


class Cell:
    """The cell as seen by the process of the tests."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.upstream.cell"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.known = self._hear()
        self.killed_after: float | None = None

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the cell has ended")
        known: dict[str, Any] = json.loads(line)
        return known

    def _say(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()

    @contextlib.contextmanager
    def cluster(self, test: str) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
        """What upstream's ``cluster`` yields, and a blow within the first moments."""
        self._say("ready")
        self.known = self._hear()
        after = random.Random(f"{self._seed} {test}").uniform(0.0, KILL_SECONDS_MAX)
        self.killed_after = None
        blow = threading.Timer(after, self._kill, (after,))
        blow.start()
        try:
            yield (
                {"address": self.known["address"]},
                [{"address": w, "proc": lambda: None} for w in self.known["workers"]],
            )
        finally:
            blow.cancel()
            blow.join()

    def _kill(self, after: float) -> None:
        self.killed_after = after
        self._say("kill")

    def close(self) -> None:
        """End the cell."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


if __name__ == "__main__":
    serve()
