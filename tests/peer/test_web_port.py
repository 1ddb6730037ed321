"""The HTTP port of real daemons, with engines that are busy, gone, or fine."""

from __future__ import annotations

import json
import os
import signal
import ssl
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from ha_scheduler.deploy.ports import free_ports
from tests.deadlines import SCALE
from tests.peer.test_peer_audit import events
from tests.peer.toy_cell import ToyCell, within

pytestmark = pytest.mark.system


class Doors:
    """The HTTP ports of a cell."""

    def __init__(self, cell: ToyCell, ports: dict[str, int]) -> None:
        self.ports = ports
        self.trust = ssl.create_default_context(cafile=str(cell.base / "certs" / "ca.pem"))

    def ask(self, name: str, path: str, token: str = "") -> tuple[int, bytes]:
        url = f"https://127.0.0.1:{self.ports[name]}{path}"
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        asked = urllib.request.Request(url, headers=headers)
        try:
            with urllib.request.urlopen(asked, timeout=5 * SCALE, context=self.trust) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()
        except OSError:
            return 0, b""

    def codes(self, path: str) -> dict[str, int]:
        return {name: self.ask(name, path)[0] for name in self.ports}


def test_a_load_balancer_finds_the_leader_whatever_becomes_of_its_engine(tmp_path: Path) -> None:
    ports = dict(zip("abc", free_ports("127.0.0.1", 3), strict=True))
    with ToyCell(tmp_path, http=ports) as cell:
        doors = Doors(cell, ports)
        leader = cell.settled()
        others = {name for name in ports if name != leader}
        within(10, lambda: set(doors.codes("/ready").values()) == {200}, every=0.05)
        assert doors.codes("/leader") == {leader: 200, **dict.fromkeys(others, 503)}
        assert doors.codes("/follower") == {leader: 503, **dict.fromkeys(others, 200)}
        assert json.loads(doors.ask(leader, "/health")[1]) == {"up": True, "leader": True}
        for path in ("/metrics", "/cell", "/history"):
            assert set(doors.codes(path).values()) == {401}, path

        ask = {"op": "token-issue", "subject": "prometheus", "role": "observer"}
        token = cell.ask(leader, as_peer=leader, **ask)["text"]
        within(5, lambda: all(doors.ask(n, "/metrics", token)[0] == 200 for n in ports), every=0.05)
        metrics = doors.ask(leader, "/metrics", token)[1].decode()
        assert "dask_ha_leader 1.0" in metrics
        assert "dask_ha_fsync_duration_seconds_count 0.0" not in metrics
        assert "dask_ha_commit_duration_seconds_count 0.0" not in metrics
        assert "dask_ha_tokens_valid 0.0" not in metrics
        assert doors.ask(leader, "/metrics", token[:-9] + "AAAAAAAAA")[0] == 401
        shown = within(5, lambda: events(cell, leader, "authenticated"), every=0.05)
        assert "prometheus" in {event["subject"] for event in shown if event["what"] == "HTTP"}
        refused = within(5, lambda: events(cell, leader, "refused"), every=0.05)
        assert any("HTTP" in event["what"] for event in refused)
        told = json.loads(doors.ask(leader, "/cell", token)[1])
        assert (told["leader"], told["is_leader"], told["unready"]) == (leader, True, "")
        (entry, *_) = json.loads(doors.ask(leader, "/history", token)[1])["failovers"]
        assert "serving" in entry["phases"]

        os.kill(cell.engine_pid(leader), signal.SIGSTOP)  # busy with somebody's graph
        assert doors.ask(leader, "/health")[0] == 200
        os.kill(cell.engine_pid(leader), signal.SIGKILL)
        heir = within(10, lambda: cell.leader(but=leader), every=0.02)
        within(10, lambda: doors.codes("/leader")[heir] == 200, every=0.02)
        assert doors.codes("/leader")[leader] == 503

        cell.kill(heir)
        (third,) = set(ports) - {leader, heir}
        cell.kill(third)
        # Alone: it is up, and neither leads nor counts.
        within(10, lambda: doors.ask(leader, "/ready")[0] == 503, every=0.05)
        assert doors.ask(leader, "/leader")[0] == 503
        assert json.loads(doors.ask(leader, "/health")[1]) == {"up": True, "leader": False}
