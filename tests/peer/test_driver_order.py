"""Goal: the driver keeps the order that ``raft/ready.py`` and its own module promise.

Method: the real driver with a real core, over the twin of the store whose writes complete when the
test says so. Time and the loop's turns are the test's as well. A diary tells what happened.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable

import pytest

from ha_scheduler.peer.consensus import driver as driver_module
from ha_scheduler.peer.consensus.driver import CATCH_UP_TICKS_MAX, Driver
from ha_scheduler.peer.consensus.lease import LeaderLease
from ha_scheduler.raft.config import Config
from ha_scheduler.raft.messages import (
    Entry,
    EntryKind,
    Membership,
    Message,
    MessageKind,
    ServerState,
    SnapshotMeta,
)
from ha_scheduler.raft.node import RawNode
from ha_scheduler.raft.ready import Ready, SoftState
from ha_scheduler.storage.port import WriteBatch
from tests.twins.store import MemoryStore

TICK_S = 1.0  # seconds of the test's clock
THREE = (1, 2, 3)
SETTINGS = {
    "election_ticks": 10,
    "heartbeat_ticks": 2,
    "promotion_lag_ticks": 12,
    "disk_patience_ticks": 60,
    "pre_vote": False,
}


class Desk:
    """A driver, and everything around it that is not under test."""

    def __init__(self, voters: tuple[int, ...] = THREE) -> None:
        self.diary: list[str] = []
        self.sent: list[Message] = []
        self.fatal: list[BaseException] = []
        self.written = 0
        self.now = 0.0
        self._soon: deque[Callable[[], None]] = deque()
        self.store = MemoryStore(
            on_durable=lambda number, error: self.driver.on_durable(number, error),
            membership=Membership(voters),
            deferred=True,
        )
        node = RawNode(Config(peer_id=1, **SETTINGS), self.store, random.Random(1))  # type: ignore[arg-type]
        self.driver = Driver(
            node,
            self.store,
            self,
            LeaderLease(own_id=1, lease_s=8.0),
            TICK_S,
            call_soon=self._soon.append,
            clock=lambda: self.now,
        )

    def turn(self) -> None:
        """The loop gets its turns, until nothing is left to do."""
        while self._soon:
            self._soon.popleft()()

    def disk(self, batches: int | None = None) -> None:
        """The oldest writes become durable."""
        self.store.flush(batches)
        self.turn()

    def hear(self, kind: MessageKind, term: int = 1, source: int = 2, **fields: object) -> None:
        self.driver.step(Message(kind, 1, source, term, **fields))  # type: ignore[arg-type]
        self.turn()

    def append(self, index: int) -> None:
        """Entry ``index`` of term 1 comes from the leader, peer 2."""
        log_term = 1 if index > 1 else 0
        entries = (Entry(1, index, EntryKind.NORMAL, b""),)
        self.hear(
            MessageKind.APPEND, log_term=log_term, index=index - 1, entries=entries, round=1, tick=1
        )

    def win(self) -> None:
        """Become the leader of term 1."""
        self.driver.node.campaign()
        self.driver.report_unreachable(2)  # makes the driver look
        self.turn()
        self.disk()
        if self.driver.node.role is not ServerState.LEADER:
            self.hear(MessageKind.VOTE_RESPONSE)
        assert self.driver.node.role is ServerState.LEADER

    def kinds(self) -> list[MessageKind]:
        return [message.kind for message in self.sent]

    # -- DriverEvents

    def on_soft_state(self, state: SoftState) -> None:
        self.diary.append(f"{state.role.value} in {state.term}")

    def on_send(self, message: Message) -> None:
        if message.kind is MessageKind.APPEND_RESPONSE and not message.reject:
            assert self.store.last_index() >= message.index, "acknowledged before it can be read"
        self.diary.append(f"send {message.kind.name}")
        self.sent.append(message)

    def on_sent(self) -> None:
        if self.diary and self.diary[-1].startswith("send "):
            self.diary.append("sent")

    def batch(self, ready: Ready) -> WriteBatch:
        self.diary.append("write")
        self.written += 1
        applied = ready.committed[-1].index if ready.committed else None
        return WriteBatch(
            ready.number,
            hard_state=ready.hard_state,
            entries=ready.entries,
            apply=ready.committed,
            applied_index=applied,
        )

    def on_contact(self) -> None: ...

    def on_read(self, context: bytes, index: int) -> None: ...

    def on_committed(self, entries: tuple[Entry, ...]) -> None:
        self.diary.append(f"committed {entries[-1].index}")

    def on_applied(self, index: int) -> None:
        assert self.store.applied() >= index, "applied before it is durable"
        self.diary.append(f"applied {index}")

    def on_snapshot_installed(self, meta: SnapshotMeta) -> None: ...

    def on_fatal(self, error: BaseException) -> None:
        self.fatal.append(error)


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_an_acknowledgement_leaves_when_the_entries_are_durable(desk: Desk) -> None:
    desk.append(1)
    assert desk.sent == []
    desk.disk()
    assert [(m.kind, m.index) for m in desk.sent] == [(MessageKind.APPEND_RESPONSE, 1)]


def test_appends_leave_before_the_leaders_own_disk_is_woken(desk: Desk) -> None:
    desk.win()
    desk.disk()
    desk.hear(MessageKind.APPEND_RESPONSE, index=1, round=1, tick=0)
    desk.disk()
    desk.diary.clear()
    desk.driver.propose(b"entry")
    desk.turn()
    assert desk.diary[:3] == ["send APPEND", "sent", "write"]


def test_a_commit_is_told_before_the_write_that_nobody_waits_for(desk: Desk) -> None:
    desk.win()
    desk.disk()
    desk.diary.clear()
    desk.hear(MessageKind.APPEND_RESPONSE, index=1, round=1, tick=0)
    assert "committed 1" in desk.diary
    assert desk.diary.index("committed 1") < desk.diary.index("write")


def test_a_follower_writes_before_it_reads_what_came_along(desk: Desk) -> None:
    desk.append(1)
    desk.disk()
    desk.diary.clear()
    entries = (Entry(1, 2, EntryKind.NORMAL, b""),)
    desk.hear(MessageKind.APPEND, log_term=1, index=1, entries=entries, commit=1, round=1, tick=1)
    assert desk.diary.index("write") < desk.diary.index("committed 1")


def test_a_completion_speaks_for_the_batches_up_to_it_and_no_others(desk: Desk) -> None:
    desk.append(1)
    desk.append(2)
    desk.disk(1)
    assert [m.index for m in desk.sent] == [1]
    desk.disk(1)
    assert [m.index for m in desk.sent] == [1, 2]


def test_an_answer_that_writes_nothing_waits_for_the_write_before_it(desk: Desk) -> None:
    """The same append once more: there is nothing to write, but the entry is not durable yet."""
    desk.append(1)
    desk.append(1)
    assert desk.sent == []
    desk.disk()
    assert desk.kinds() == [MessageKind.APPEND_RESPONSE] * 2


def test_what_is_applied_is_reported_when_it_is_durable(desk: Desk) -> None:
    desk.append(1)
    desk.disk()
    desk.hear(MessageKind.HEARTBEAT, commit=1, round=2, tick=2)
    assert "committed 1" in desk.diary
    assert "applied 1" not in desk.diary
    desk.disk()
    assert "applied 1" in desk.diary


def test_a_change_of_leadership_takes_effect_before_a_message_of_it_leaves(desk: Desk) -> None:
    desk.win()
    desk.disk()
    first = desk.diary.index("send APPEND")
    assert "leader in 1" in desk.diary[:first]


def test_an_error_of_the_store_is_the_end(desk: Desk) -> None:
    desk.append(1)
    failure = OSError("the disk is gone")
    desk.store.fail(failure)
    desk.append(2)
    desk.disk()
    assert desk.fatal == [failure]
    desk.append(3)
    desk.hear(MessageKind.HEARTBEAT, round=3, tick=3)
    desk.disk()
    assert desk.sent == []
    assert desk.fatal == [failure]
    assert desk.driver.certain_until() == 0.0


def test_ticks_that_are_due_are_counted_before_a_message_is_taken_in(desk: Desk) -> None:
    """The leader counts on ``election_ticks`` of this peer's time *after* its message."""
    desk.now += CATCH_UP_TICKS_MAX * TICK_S
    desk.append(1)
    for _ in range(9):
        desk.now += TICK_S
        desk.hear(MessageKind.VOTE, term=1, source=3)  # a stray: it only makes the clock look
    desk.hear(MessageKind.VOTE, term=2, source=3, index=9, log_term=1)
    assert desk.driver.node.term == 1


def test_a_driver_that_was_frozen_hears_its_leader_before_it_stands(desk: Desk) -> None:
    desk.append(1)
    desk.disk()
    desk.now += 1000 * TICK_S
    desk.hear(MessageKind.HEARTBEAT, round=2, tick=500)
    desk.disk()
    assert desk.driver.node.term == 1
    assert MessageKind.VOTE not in desk.kinds()


def test_no_time_passes_for_a_driver_that_is_muted(desk: Desk) -> None:
    desk.driver.muted = True
    for _ in range(100):
        desk.now += TICK_S
        desk.driver.wake()
        desk.turn()
    assert desk.driver.node.term == 0
    desk.driver.muted = False
    desk.driver.wake()
    desk.turn()
    assert desk.driver.node.role is ServerState.FOLLOWER


def test_no_more_batches_are_in_flight_than_the_limit(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver_module, "IN_FLIGHT_MAX", 3)
    for index in range(1, 9):
        desk.append(index)
    assert desk.written == 3
    for _ in range(9):
        desk.disk()
    assert desk.store.last_index() == 8
    assert desk.sent[-1].index == 8


def test_a_cell_of_one_commits_by_its_own_disk() -> None:
    desk = Desk(voters=(1,))
    desk.win()
    assert desk.store.last_index() == 0
    for _ in range(3):
        desk.disk()
    assert desk.diary[-1] == "applied 1"
