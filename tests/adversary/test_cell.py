"""Processes with each kind of certificate lie to every port of a cell, and an honest user goes on.

Slow: ``make test PYTEST_ARGS="-m slow tests/adversary/test_cell.py"``; ``DASK_HA_TEST_LIES`` is for
how many seconds, a minute by default.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from chaos.faults.liar import Liar
from ha_scheduler import LocalHACluster
from ha_scheduler.security.authority import client_files, engine_files
from tests.certificates import certificate_of, issue
from tests.deadlines import SCALE

pytestmark = [pytest.mark.system, pytest.mark.slow]

LIES_S = float(os.environ.get("DASK_HA_TEST_LIES", "60"))
LATE_S_MAX = 5.0 * SCALE
CALLER_S = 0.3  # each connection goes on for about as long


def test_an_honest_user_of_a_cell_notices_nothing_of_what_others_say(tmp_path: Path) -> None:
    with (
        LocalHACluster(n_peers=3, n_workers=1, nanny=False) as cluster,
        cluster.get_client() as client,
    ):
        held = client.submit(int, 7, pure=False)
        assert held.result(20 * SCALE) == 7
        assert cluster.cell is not None
        status = cluster.cell.control.status(cluster.leader.name)
        pids = [peer.pid for peer in cluster.peers]
        engines = [peer.engine_pid for peer in cluster.peers]
        ports = [(p.host, n) for p in cluster.cell.cell.peers for n in (p.peer_port, p.dask_port)]
        for address in client.scheduler_info()["workers"]:
            host, _, number = address.removeprefix("tls://").rpartition(":")
            ports.append((host, int(number)))
        own = cluster.directory / "certificates"
        other = issue(tmp_path / "other", "a", "b", "c")
        holders: dict[str, Any] = {
            "none": None,
            "guest": certificate_of(own, "guest"),
            "client": client_files(own),
            "engine": engine_files(own, "a"),
            "another cell's client": client_files(other),
            "another cell's engine": engine_files(other, "a"),
        }
        over = threading.Event()
        liars = [Liar(name, files, ports, status.cell, over) for name, files in holders.items()]
        for liar in liars:
            liar.start()
        worst, until, number = 0.0, time.monotonic() + LIES_S, 0
        try:
            while time.monotonic() < until:
                began = time.monotonic()
                assert client.submit(abs, -number, pure=False).result(60 * SCALE) == number
                worst = max(worst, time.monotonic() - began)
                number += 1
        finally:
            over.set()
            for liar in liars:
                liar.join()
        assert worst < LATE_S_MAX, worst
        assert held.result(10 * SCALE) == 7
        assert [peer.pid for peer in cluster.peers] == pids
        assert [peer.engine_pid for peer in cluster.peers] == engines
        assert cluster.cell.control.status(cluster.leader.name).term == status.term
        assert min(liar.calls for liar in liars) > 10
