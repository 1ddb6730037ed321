"""Real daemons with TLS and LMDB on loopback, with an engine that keeps a diary.

Each assertion has its deadline; ``DASK_HA_TEST_SCALE`` multiplies them on slow machines.
"""

from __future__ import annotations

import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest
from toy_cell import SCALE, Connection, ToyCell, report, within

from ha_scheduler.protocol import RELEASE, VERSION
from ha_scheduler.protocol.introduction import Introduction, Kind
from ha_scheduler.protocol.peer import Disk, PeerHello, Purpose
from ha_scheduler.security.authority import client_files, engine_files
from ha_scheduler.security.contexts import client_context

pytestmark = pytest.mark.system


def process_runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"  # the kernel has ended it; who reaps it is init's business


def activated_after(cell: ToyCell, name: str, began: float) -> float:
    """Seconds from ``began`` to the next activation of an engine of ``name``."""
    entries = within(10, lambda: [e for e in cell.diary(name, "activate") if e["t"] > began])
    assert entries[0]["lease"], "an engine is activated under a valid lease"
    return float(entries[0]["t"] - began)


def test_three_peers_elect_one_and_every_engine_gets_every_record_in_order(tmp_path: Path) -> None:
    with ToyCell(tmp_path) as cell:
        leader = cell.settled()
        cell.propose(leader, "x", 500)
        for name in cell.names:
            cell.fed(name, "x", 500)
            assert cell.values(name) == [f"x-{n}" for n in range(500)]
        proposals = [e["proposal"] for e in cell.diary(leader, "record") if e["proposal"]]
        assert proposals == list(range(1, 501)), "own records come back under their numbers"
        follower = next(n for n in cell.names if n != leader)
        assert not any(e["proposal"] for e in cell.diary(follower, "record"))
        assert all(cell.diary(n, "welcome")[0]["seed"] == "0" for n in cell.names)


def test_a_killed_leading_engine_hands_leadership_on_without_an_election_timeout(
    tmp_path: Path,
) -> None:
    with ToyCell(tmp_path) as cell:
        leader = cell.settled()
        cell.propose(leader, "x", 50)
        cell.fed(leader, "x", 50)
        began = time.monotonic()
        os.kill(cell.engine_pid(leader), signal.SIGKILL)
        successor = within(5, lambda: cell.leader(but=leader))
        took_s = activated_after(cell, successor, began)
        report(f"engine killed -> successor's engine activated: {took_s * 1000:.0f} ms")
        assert took_s < 0.5 * SCALE
        assert cell.values(successor) == [f"x-{n}" for n in range(50)]
        cell.settled()
        (entry,) = [e for e in cell.ask(leader, op="history")["entries"] if e["term"] > 1]
        assert entry["leader"] == successor
        assert {"detected", "elected", "activated", "serving"} <= set(entry["phases"])
        cell.propose(successor, "y", 50)
        cell.fed(leader, "y", 50)  # by the fresh engine, which began with the ledger
        assert len(cell.values(leader)) == 100


def test_a_killed_daemon_takes_its_engine_along_and_another_peer_leads(tmp_path: Path) -> None:
    with ToyCell(tmp_path) as cell:
        leader = cell.settled()
        engine = cell.engine_pid(leader)
        began = time.monotonic()
        cell.kill(leader)
        within(1, lambda: not process_runs(engine))
        successor = within(10, lambda: cell.leader(but=leader))
        took_s = activated_after(cell, successor, began)
        report(f"peer killed -> successor's engine activated: {took_s * 1000:.0f} ms")
        assert took_s < 3 * SCALE
        cell.propose(successor, "x", 300)
        cell.start(leader)
        cell.settled()
        cell.fed(leader, "x", 300)


def test_a_frozen_leader_loses_its_lease_and_its_engine_when_it_wakes(tmp_path: Path) -> None:
    with ToyCell(tmp_path) as cell:
        leader = cell.settled()
        engine = cell.engine_pid(leader)
        cell.daemons[leader].send_signal(signal.SIGSTOP)
        frozen = cell.daemons.pop(leader)
        try:
            successor = within(10, lambda: cell.leader(but=leader))
            cell.order(leader, op="lease")
            valid = within(2, lambda: cell.diary(leader, "lease"))[0]["valid"]
            assert not valid, "its engine still runs and must know that it may write nothing"
            assert process_runs(engine)
        finally:
            frozen.send_signal(signal.SIGCONT)
            cell.daemons[leader] = frozen
        within(3, lambda: not process_runs(engine))
        assert cell.settled() == successor


def test_a_follower_that_was_away_is_brought_up_by_a_snapshot(tmp_path: Path) -> None:
    limits = {"ENTRIES_MAX": 400, "KEEP_ENTRIES": 50, "KEEP_BYTES": 1 << 20}
    with ToyCell(tmp_path, limits={**limits, "BUCKET_ENTRIES": 20}) as cell:
        leader = cell.settled()
        away = next(n for n in cell.names if n != leader)
        cell.kill(away)
        time.sleep(2.5)  # until the others no longer keep the log for it
        for burst in range(10):
            cell.propose(leader, f"x{burst}", 200)
            cell.fed(leader, f"x{burst}", 200)
        status = within(5, lambda: cell.status(leader))
        assert status["first_index"] > 400, "the log was compacted"
        cell.start(away)
        cell.settled()
        within(10, lambda: len(set(cell.values(away))) == 2000, every=0.05)
        assert "installed a snapshot" in cell.log(away)
        cell.propose(leader, "after", 10)
        cell.fed(away, "after", 10)


def test_a_fresh_engine_gets_the_ledger_and_then_the_log_without_gap_or_double(
    tmp_path: Path,
) -> None:
    with ToyCell(tmp_path) as cell:
        leader = cell.settled()
        follower = next(n for n in cell.names if n != leader)
        for part in range(20):
            cell.propose(leader, f"x{part}", 100, size=2000)
            if part == 10:
                os.kill(cell.engine_pid(follower), signal.SIGKILL)
                within(10, partial(cell.diary_length, follower, "welcome", 2), every=0.02)
            time.sleep(0.02)
        cell.settled()
        within(10, lambda: len(set(cell.values(follower))) == 2000, every=0.05)
        assert len(cell.values(follower)) == 2000, "no record twice"
        pid = cell.diary(follower)[-1]["pid"]
        indices = [
            e["index"] for e in cell.diary(follower, "record") if e["pid"] == pid and e["index"]
        ]
        assert indices == list(range(indices[0], indices[-1] + 1)), "live records are contiguous"
        (caught_up,) = [e for e in cell.diary(follower, "caught_up") if e["pid"] == pid]
        assert caught_up["index"] == indices[0] - 1


def test_a_burst_of_large_records_delays_no_heartbeat(tmp_path: Path) -> None:
    with ToyCell(tmp_path) as cell:
        leader = cell.settled()
        term = cell.ask(leader, op="status")["term"]
        began, lease_s = time.monotonic(), []
        cell.propose(leader, "big", 60, size=512 * 1024)
        while any(len(cell.values(n)) < 60 for n in cell.names):
            lease_s.append(cell.ask(leader, op="status")["lease_s"])
            assert time.monotonic() - began < 30 * SCALE
        gaps = [cell.ask(n, op="status")["tick_gap_s_max"] for n in cell.names]
        report(f"30 MB in {time.monotonic() - began:.2f} s; longest tick gap {max(gaps):.3f} s")
        report(f"shortest lease left {min(lease_s):.3f} s of 0.5 s")
        assert min(lease_s) > 0
        assert cell.ask(leader, op="status")["term"] == term


def test_watchers_are_told_of_the_leader_and_of_each_change_and_hear_beats(tmp_path: Path) -> None:
    with ToyCell(tmp_path) as cell:
        leader = cell.settled()
        follower = next(n for n in cell.names if n != leader)
        watch = cell.connect(follower, "watch", cell="")  # it need not know the cell's name
        assert watch.answer["ok"]
        view = watch.receive()
        assert (view["op"], view["leader"], view["cell"]) == (
            "view",
            leader,
            cell.cell.identity,
        )
        assert view["address"] == f"tls://127.0.0.1:{cell.cell.peer(leader).dask_port}"
        assert [p[0] for p in view["peers"]] == list(cell.names)
        while watch.receive()["op"] != "beat":
            pass
        assert cell.ask(leader, as_peer=leader, op="transfer", to=follower)["ok"]
        began = time.monotonic()
        while not ((new := watch.receive())["op"] == "view" and new["address"]):
            assert time.monotonic() - began < 2 * SCALE
        assert new["leader"] == follower
        assert new["term"] > view["term"]
        watch.close()


def test_transfer_is_answered_when_another_peer_leads(tmp_path: Path) -> None:
    with ToyCell(tmp_path) as cell:
        leader = cell.settled()
        to = next(n for n in cell.names if n != leader)
        assert cell.ask(to, as_peer=to, op="transfer")["leader"] == leader, (
            "a follower says who to ask"
        )
        assert "no peer" in cell.ask(leader, as_peer=leader, op="transfer", to="z")["reason"]
        began = time.monotonic()
        answer = cell.ask(leader, as_peer=leader, op="transfer", to=to)
        assert answer["ok"]
        assert answer["leader"] == to
        took_s = activated_after(cell, to, began)
        report(f"transfer asked for -> successor's engine activated: {took_s * 1000:.0f} ms")
        assert took_s < 0.25 * SCALE
        assert cell.settled() == to
        assert not cell.ask(to, op="nonsense")["ok"]


def test_sigterm_hands_over_and_ends_with_status_zero(tmp_path: Path) -> None:
    with ToyCell(tmp_path) as cell:
        leader = cell.settled()
        assert (tmp_path / f"{leader}.pid").exists()
        began = time.monotonic()
        assert cell.kill(leader, signal.SIGTERM) == 0
        assert not (tmp_path / f"{leader}.pid").exists()
        successor = within(5, lambda: cell.leader(but=leader))
        assert activated_after(cell, successor, began) < 0.5 * SCALE, "no election was waited for"


def hello(name: str, to: str) -> PeerHello:
    """As peer ``name`` would say it, if its disk were number 7."""
    return PeerHello(to, 1, Purpose.CONTROL, False, 100, Disk(7, 7, name, "h", 1, 2, False))


def test_strangers_are_refused_with_a_reason(tmp_path: Path) -> None:
    with ToyCell(tmp_path) as cell:
        cell.settled()
        wrong_cell = cell.connect("a", "control", cell="another")
        assert "another" in wrong_cell.answer["reason"]
        half = cell.connect("a", "peer", {"op": "peer-hello", "to": "a"}, as_peer="b")
        assert "no hello of a peer" in half.answer["reason"]
        client = cell.connect("a", "peer", hello("b", "a"))
        assert "for client" in client.answer["reason"]
        impostor = cell.connect("b", "peer", hello("c", "b"), as_peer="a")
        assert "not for peer c" in impostor.answer["reason"]
        assert "no kind of connection 'king'" in cell.connect("a", "king").answer["reason"]
        older = Introduction(VERSION - 1, "0.0", (), Kind.WATCH)
        context = client_context(client_files(tmp_path / "certs"))
        assert "upgrade the caller" in Connection(cell.ports["a"], context, older).answer["reason"]


def test_the_certificate_of_an_engine_opens_nothing_on_the_peer_port(tmp_path: Path) -> None:
    with ToyCell(tmp_path, names="a") as cell:
        cell.settled()
        context = client_context(engine_files(tmp_path / "certs", "a"))
        for kind in (Kind.PEER, Kind.WATCH, Kind.CONTROL):
            introduction = Introduction(VERSION, RELEASE, (), kind, cell.cell.identity)
            answer = Connection(cell.ports["a"], context, introduction).answer
            assert "an engine opens nothing on the peer port" in answer["reason"]


def test_a_peer_with_other_election_timeouts_is_refused_with_a_reason(tmp_path: Path) -> None:
    """A lease is worth as much as the shortest promise among those it relies on."""
    with ToyCell(tmp_path) as cell:
        cell.settled()
        cell.kill("c")
        cell.start("c", timing={"election_ticks": 6})
        within(10, lambda: "--election-ticks" in cell.log("c"))
        within(10, lambda: cell.leader(but="c"))
        assert cell.member("c", "c") is not None, "it runs, and its operator reads why it is alone"


def test_an_engine_that_hangs_is_ended_by_the_watchdog(tmp_path: Path) -> None:
    with ToyCell(tmp_path, watchdog_s=5.0) as cell:
        leader = cell.settled()
        os.kill(cell.engine_pid(leader), signal.SIGSTOP)
        successor = within(12, lambda: cell.leader(but=leader), every=0.05)
        assert "made no progress" in cell.log(leader)
        assert successor != leader


def test_a_leader_without_successor_restarts_its_engine_and_takes_a_new_term(
    tmp_path: Path,
) -> None:
    with ToyCell(tmp_path) as cell:
        leader = cell.settled()
        for name in cell.names:
            if name != leader:
                (cell.toys / f"{name}.never-ready").touch()
                os.kill(cell.engine_pid(name), signal.SIGKILL)
                within(5, partial(cell.diary_length, name, "caught_up", 2))
        time.sleep(0.3)
        os.kill(cell.engine_pid(leader), signal.SIGKILL)
        within(15, lambda: len(cell.diary(leader, "activate")) == 2, every=0.02)
        first, second = cell.diary(leader, "activate")
        assert second["term"] > first["term"], "each activation has a term of its own"
        assert second["pid"] != first["pid"]
        report(f"engine restarted and active again after {second['t'] - first['t']:.2f} s")


def test_a_cell_of_one_in_plaintext_leads_itself(tmp_path: Path) -> None:
    with ToyCell(tmp_path, names="a", tls=False) as cell:
        assert cell.settled() == "a"
        cell.propose("a", "x", 20)
        cell.fed("a", "x", 20)
        os.kill(cell.engine_pid("a"), signal.SIGKILL)
        within(10, lambda: len(cell.diary("a", "activate")) == 2)
        assert len(cell.values("a")) == 20
        status = cell.status("a")
        assert status is not None
        assert status["lease_s"] > 0


def test_a_whole_cell_killed_at_once_comes_back_with_everything(tmp_path: Path) -> None:
    with ToyCell(tmp_path) as cell:
        leader = cell.settled()
        cell.propose(leader, "x", 200)
        for name in cell.names:
            cell.fed(name, "x", 200)
        for name in cell.names:
            cell.kill(name)
        for name in cell.names:
            cell.start(name)
        leader = cell.settled()
        for name in cell.names:
            assert sorted(set(cell.values(name))) == sorted(f"x-{n}" for n in range(200))
        cell.propose(leader, "y", 10)
        for name in cell.names:
            cell.fed(name, "y", 10)


def test_a_daemon_that_may_not_start_says_why_and_leaves_status_two(tmp_path: Path) -> None:
    with ToyCell(tmp_path) as cell:
        cell.settled()
        data = tmp_path / "data" / "a"
        twin = cell.daemons.pop("a")
        try:
            cell.start("a")
            assert cell.daemons.pop("a").wait(timeout=10 * SCALE) == 2
            assert "Cannot listen at the peer port" in cell.log("a")
        finally:
            cell.daemons["a"] = twin
        cell.kill("a")
        cell.kill("b")
        data.rename(tmp_path / "data" / "a-was")
        (tmp_path / "data" / "b").rename(data)
        cell.start("a")
        assert cell.daemons["a"].wait(timeout=10 * SCALE) == 2
        assert "belongs to" in cell.log("a")


def test_a_failed_disk_ends_the_peer_and_another_leads(tmp_path: Path) -> None:
    with ToyCell(tmp_path) as cell:
        leader = cell.settled()
        engine = cell.engine_pid(leader)
        (tmp_path / f"{leader}.disk-fails").touch()
        cell.propose(leader, "x", 1)
        assert cell.daemons.pop(leader).wait(timeout=10 * SCALE) == 1
        assert "CRITICAL" in cell.log(leader)
        assert not process_runs(engine)
        within(10, lambda: cell.leader(but=leader))
