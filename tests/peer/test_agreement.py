"""Peers that compare their ledgers, and what of a release a member understands."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import msgspec
import pytest
from msgspec import Meta
from toy_cell import ToyCell, within

from ha_scheduler.ledger import encoding, records
from ha_scheduler.ledger.encoding import TooNewError, decode, encode
from ha_scheduler.ledger.records import FORMAT, CaseReleased, TermStarted
from ha_scheduler.peer.members import comparing
from ha_scheduler.peer.members.agreement import EVERY_S, QUIET_S, REST_FACTOR, Agreement
from ha_scheduler.peer.members.releases import format_of_cell, misfit
from ha_scheduler.peer.operators.history import LeaderHistory
from ha_scheduler.peer.operators.history_file import FILE, HistoryFile
from ha_scheduler.peer.operators.service import APART_S, Service

ONE, TWO = b"1" * 16, b"2" * 16


# -- digests


def test_a_leader_compares_when_its_cell_is_quiet_and_not_too_often() -> None:
    leader = Agreement("a")
    assert not leader.is_due(100.0, 7, "a"), "something was applied just now"
    assert leader.is_due(100.0 + QUIET_S, 7, "a")
    leader.made(103.0, 2.0, 7, ONE)
    assert not leader.is_due(104.0, 7, "a"), "it is done"
    leader.is_due(104.0, 8, "a")
    rest = max(EVERY_S, REST_FACTOR * 2.0)
    assert not leader.is_due(103.0 + rest - 1, 8, "a")
    assert leader.is_due(103.0 + rest, 8, "a")


def test_a_follower_compares_at_the_index_that_the_leader_has_told() -> None:
    follower = Agreement("b")
    assert not follower.is_due(500.0, 7, "a")
    follower.told("a", 7, ONE)
    assert follower.is_due(500.0, 7, "a")
    assert not follower.is_due(500.0, 8, "a"), "it is past that index, and says nothing"
    assert not follower.is_due(500.0, 7, None)


def test_only_digests_of_one_index_are_compared() -> None:
    one = Agreement("a")
    one.made(1.0, 0.0, 7, ONE)
    assert one.told("b", 8, TWO) == []
    assert one.told("b", 7, TWO) == ["b"]
    assert one.sentences == ("peer b, at 7",)
    assert one.told("b", 7, TWO) == [], "it is no news"
    assert one.made(2.0, 0.0, 9, ONE) == []
    assert one.told("b", 9, ONE) == []
    assert one.sentences == (), "its disk was replaced"


def test_a_difference_is_an_error_in_the_log_once(caplog: pytest.LogCaptureFixture) -> None:
    said: set[str] = set()
    with caplog.at_level(logging.ERROR):
        comparing._tell({"b": 7}, said)
        comparing._tell({"b": 7}, said)
        assert len(caplog.records) == 1
        comparing._tell({}, said)
        comparing._tell({"b": 9}, said)
        assert len(caplog.records) == 2
    assert "ledger of peer b differs from ours at index 7" in caplog.text


@pytest.mark.system
def test_peers_notice_a_ledger_that_has_lost_a_row(tmp_path: Path) -> None:
    import lmdb

    with ToyCell(tmp_path) as cell:
        leader = cell.settled()
        spoilt = next(name for name in cell.names if name != leader)
        cell.kill(spoilt)
        env = lmdb.open(str(cell.data(spoilt)), max_dbs=200, lock=False)
        names = [bytes(key) for key in _keys(env)]
        with env.begin(write=True) as txn:
            for name in names:
                if name.endswith(b"peers"):
                    txn.drop(env.open_db(name, txn=txn), delete=False)
        env.close()
        cell.start(spoilt)
        cell.settled()

        def differs() -> bool:
            status = cell.status(leader)
            return bool(status and any(f"peer {spoilt}" in t for t in status["ledgers_differ"]))

        within(30, differs, every=0.2)
        within(30, lambda: f"ledger of peer {spoilt} differs from ours" in cell.log(leader))


def _keys(env: object) -> list[bytes]:
    with env.begin() as txn:  # type: ignore[attr-defined]
        return list(txn.cursor().iternext(keys=True, values=False))


# -- what all members understand


class Later(records._Record, tag=120):
    """A record of a later release."""

    what: Annotated[str, Meta(max_length=10)]


class Grown(records._Record, tag=121):
    """A record that got a field in a later release."""

    first: str
    added: str = ""


@pytest.mark.parametrize(
    ("written", "read", "expected"),
    [
        (None, {1: FORMAT, 2: FORMAT, 3: FORMAT}, FORMAT),
        (None, {1: FORMAT, 2: 2}, 2),  # a cell that begins with an older peer in it
        (2, {1: FORMAT, 2: FORMAT}, 2),  # 3 has not said what it reads
        (2, {1: FORMAT, 2: FORMAT, 3: 2}, 2),
        (2, {1: FORMAT, 2: FORMAT, 3: FORMAT}, FORMAT),
        (FORMAT, {1: FORMAT, 2: 2, 3: 2}, FORMAT),  # it was written, so it has to be read
    ],
)
def test_a_leader_writes_what_all_members_read(
    written: int | None, read: dict[int, int], expected: int
) -> None:
    assert format_of_cell(written, [1, 2, 3], read) == expected


def test_a_record_that_a_member_cannot_read_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(records.SINCE, Later, FORMAT)
    assert encode(Later("x")) == encode(Later("x"), FORMAT)  # type: ignore[arg-type]
    with pytest.raises(TooNewError, match=f"Later came with format {FORMAT}"):
        encode(Later("x"), FORMAT - 1)  # type: ignore[arg-type]
    released = CaseReleased(b"c" * 16)
    assert encode(released, FORMAT - 1) == encode(released)


def test_a_field_that_a_member_cannot_read_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(records.ADDED, Grown, (FORMAT,))
    short = encode(Grown("x"), FORMAT - 1)  # type: ignore[arg-type]
    assert msgspec.msgpack.decode(short) == [121, "x"]
    assert msgspec.msgpack.decode(encode(Grown("x"))) == [121, "x", ""]  # type: ignore[arg-type]
    with pytest.raises(TooNewError, match="a field of Grown"):
        encode(Grown("x", "y"), FORMAT - 1)  # type: ignore[arg-type]


def test_a_term_is_opened_in_the_format_of_the_cell() -> None:
    started = decode(encode(TermStarted(3, "a", FORMAT - 1), FORMAT - 1))
    assert isinstance(started, TermStarted)
    assert started.format == FORMAT - 1


@pytest.mark.parametrize(
    "data",
    [
        msgspec.msgpack.encode([120, "x"]),  # a record more
        msgspec.msgpack.encode([*msgspec.msgpack.decode(encode(TermStarted(1, "a"))), "more"]),
    ],
)
def test_what_a_newer_release_wrote_asks_for_an_upgrade_and_no_new_disk(data: bytes) -> None:
    with pytest.raises(encoding.UnknownRecordError, match="upgrade this peer") as caught:
        decode(data)
    assert "replace" not in str(caught.value)


def test_releases_of_distributed_one_month_apart_fit() -> None:
    assert misfit("2026.7.1", "2026.8.0") == ""
    assert misfit("2026.12.0", "2027.1.0") == ""
    assert misfit("", "2026.8.0") == ""
    refused = misfit("2026.8.0", "2026.6.2")
    assert "distributed 2026.6.2 and the other 2026.8.0" in refused
    assert "upgrade the peers with 2026.6.2" in refused


# -- since when users wait, and how long it is remembered


def test_a_failover_is_counted_from_the_first_notice_of_any_peer() -> None:
    history = LeaderHistory()
    history.begin(3, "c", detected=107.0, now=107.2, noticed=100.0)
    history.mark(3, "serving", 107.8)
    (entry,) = history.tail()
    assert entry.phases == pytest.approx(
        {"noticed": 0.0, "detected": 7.0, "elected": 7.2, "serving": 7.8}
    )


def test_a_leader_that_never_served_does_not_end_the_wait() -> None:
    service = Service()
    assert not service.tick(1.0, serves=False), "it has not seen anybody serve since its start"
    service.tick(2.0, serves=True)
    assert service.tick(3.0, serves=False)
    assert not service.tick(4.0, serves=False)  # elected, and died
    assert service.waited_s(9.0) == 6.0
    service.tick(10.0, serves=True)
    assert service.waited_s(11.0) == 0.0


def test_what_another_peer_noticed_counts_unless_it_was_alone() -> None:
    new = Service()
    assert new.first_noticed(10.0, []) is None
    assert new.first_noticed(10.0, [0.0, 4.0]) == 6.0, "it was started after the loss"
    new.tick(1.0, serves=True)
    new.tick(9.0, serves=False)
    assert new.first_noticed(10.0, [1.5]) == 8.5
    assert new.first_noticed(10.0, [1.0 + APART_S + 50]) == 9.0, "that one was cut off"


def test_the_history_outlives_the_process(tmp_path: Path) -> None:
    before = LeaderHistory()
    file = HistoryFile(tmp_path, before)
    file.load()
    before.begin(3, "b", 100.0, 100.2)
    before.mark(3, "serving", 100.5, {"port": 1})
    file.save()
    after = LeaderHistory()
    HistoryFile(tmp_path, after).load()
    assert after.tail() == before.tail()
    (tmp_path / FILE).write_bytes(b'[{"term": "three"}]')
    HistoryFile(tmp_path, LeaderHistory()).load()
