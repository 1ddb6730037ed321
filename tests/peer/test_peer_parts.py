"""The pure parts of the daemon: contact and lease, proposals, the committed tail, history."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import pytest

from ha_scheduler.ledger import encoding, records
from ha_scheduler.peer.consensus.lease import LeaderLease
from ha_scheduler.peer.engine.feed import TAIL_BYTES_MAX, CommittedTail
from ha_scheduler.peer.engine.proposals import OUTSTANDING_BYTES_MAX, ProposalError, Proposals
from ha_scheduler.peer.operators.history import ENTRIES_MAX, LeaderHistory
from ha_scheduler.raft.errors import CompactedError, NotLeaderError, ProposalDroppedError
from ha_scheduler.raft.messages import Entry, EntryKind, Message, MessageKind

VOTERS = (1, 2, 3)


def entry(index: int, data: bytes = b"x", term: int = 1) -> Entry:
    return Entry(term, index, EntryKind.NORMAL, data)


def message(
    kind: MessageKind, *, tick: int, term: int = 5, to: int = 1, source: int = 2
) -> Message:
    return Message(kind=kind, to=to, source=source, term=term, round=1, tick=tick)


# -- contact


@pytest.fixture
def contact() -> LeaderLease:
    contact = LeaderLease(own_id=1, lease_s=0.5)
    contact.begin(5)
    return contact


def beat(contact: LeaderLease, tick: int, now: float) -> None:
    contact.sent(message(MessageKind.HEARTBEAT, tick=tick, to=2, source=1), now)


def test_the_lease_counts_from_the_sending_of_what_a_quorum_answered(contact: LeaderLease) -> None:
    beat(contact, 1, 10.0)
    assert contact.certain_until(VOTERS, 10.0) == 0.0, "nobody has answered"
    beat(contact, 2, 10.1)
    assert contact.answered(message(MessageKind.HEARTBEAT_RESPONSE, tick=1))
    assert contact.certain_until(VOTERS, 12.0) == 10.5, "however late the answer came"
    assert not contact.answered(message(MessageKind.HEARTBEAT_RESPONSE, tick=1)), "nothing new"
    assert contact.answered(message(MessageKind.APPEND_RESPONSE, tick=2))
    assert contact.certain_until(VOTERS, 12.0) == 10.6


def test_the_lease_counts_from_the_first_message_of_a_tick(contact: LeaderLease) -> None:
    """An answer echoes the tick, and says nothing of which of its messages it answers."""
    beat(contact, 1, 10.0)
    beat(contact, 1, 10.04)
    contact.answered(message(MessageKind.HEARTBEAT_RESPONSE, tick=1))
    assert contact.certain_until(VOTERS, 12.0) == 10.5


def test_of_five_voters_the_third_newest_contact_counts(contact: LeaderLease) -> None:
    for tick, now in ((1, 10.0), (2, 11.0)):
        beat(contact, tick, now)
    contact.answered(message(MessageKind.HEARTBEAT_RESPONSE, tick=2, source=2))
    assert contact.certain_until((1, 2, 3, 4, 5), 12.0) == 0.0
    contact.answered(message(MessageKind.HEARTBEAT_RESPONSE, tick=1, source=3))
    assert contact.certain_until((1, 2, 3, 4, 5), 12.0) == 10.5


def test_answers_of_another_term_or_to_nothing_we_sent_prove_nothing(contact: LeaderLease) -> None:
    beat(contact, 1, 10.0)
    assert not contact.answered(message(MessageKind.HEARTBEAT_RESPONSE, tick=1, term=4))
    assert not contact.answered(message(MessageKind.HEARTBEAT_RESPONSE, tick=9))
    assert not contact.answered(message(MessageKind.VOTE_RESPONSE, tick=1))
    contact.answered(message(MessageKind.HEARTBEAT_RESPONSE, tick=1))
    contact.begin(6)
    assert contact.certain_until(VOTERS, 10.0) == 0.0


def test_whoever_was_told_to_campaign_takes_the_certainty_along(contact: LeaderLease) -> None:
    beat(contact, 1, 10.0)
    contact.answered(message(MessageKind.HEARTBEAT_RESPONSE, tick=1, source=3))
    contact.sent(message(MessageKind.TIMEOUT_NOW, tick=1, to=2, source=1), 10.0)
    assert contact.closed
    assert contact.certain_until(VOTERS, 10.0) == 0.0
    beat(contact, 2, 10.1)
    contact.answered(message(MessageKind.HEARTBEAT_RESPONSE, tick=2, source=3))
    assert contact.closed, "another's answer says nothing about the target"
    contact.answered(message(MessageKind.HEARTBEAT_RESPONSE, tick=2, source=2))
    assert contact.certain_until(VOTERS, 10.1) == 10.6


def test_a_cell_of_one_is_certain_by_itself() -> None:
    contact = LeaderLease(own_id=1, lease_s=0.5)
    contact.begin(1)
    assert contact.certain_until((1,), 10.0) == 10.5


# -- proposals


class Core:
    """Takes proposals, or refuses them with ``error``."""

    def __init__(self) -> None:
        self.log: list[bytes] = []
        self.error: Exception | None = None
        self.soon: list[Callable[[], None]] = []

    def propose(self, batch: Sequence[bytes]) -> range:
        if self.error is not None:
            raise self.error
        self.log += batch
        return range(len(self.log) - len(batch) + 1, len(self.log) + 1)

    def run(self) -> None:
        while self.soon:
            self.soon.pop(0)()


RECORDS = [encoding.encode(records.ClientLeft(f"c{n}")) for n in range(2000)]


@pytest.fixture
def core() -> Core:
    return Core()


@pytest.fixture
def proposals(core: Core) -> Proposals:
    return Proposals(core.propose, term=5, call_soon=core.soon.append)


def test_proposals_enter_the_log_in_order_and_are_known_again(
    core: Core, proposals: Proposals
) -> None:
    for number, data in enumerate(RECORDS, 1):
        proposals.offer(number, data)
    core.run()
    assert core.log == RECORDS
    assert proposals.report(entry(2, term=5)) == 2
    assert proposals.report(entry(2, term=5)) == 0, "once"
    assert proposals.report(entry(3, term=4)) == 0, "another leader's entry"


def test_what_is_refused_now_holds_back_what_follows(core: Core, proposals: Proposals) -> None:
    core.error = ProposalDroppedError("busy")
    proposals.offer(1, RECORDS[0])
    core.run()
    proposals.offer(2, RECORDS[1])
    core.run()
    assert core.log == []
    core.error = None
    proposals.pump()
    core.run()
    assert core.log == RECORDS[:2]


def test_nothing_is_proposed_after_leadership_is_lost(core: Core, proposals: Proposals) -> None:
    core.error = NotLeaderError(2)
    proposals.offer(1, RECORDS[0])
    core.run()
    core.error = None
    proposals.pump()
    core.run()
    assert proposals.closed
    assert core.log == []


def test_a_gap_or_a_record_nobody_can_apply_is_refused(proposals: Proposals) -> None:
    with pytest.raises(ProposalError, match="proposal 2 where 1"):
        proposals.offer(2, RECORDS[0])
    with pytest.raises(ProposalError, match="no peer can apply"):
        proposals.offer(1, b"\x91\xcd\x03\xe7")
    with pytest.raises(ProposalError, match="0 bytes"):
        proposals.offer(1, b"")
    with pytest.raises(ProposalError, match="bytes"):
        proposals.offer(1, bytes(records.RECORD_BYTES_MAX + 1))


def test_too_much_outstanding_is_congestion_until_half_is_reported(
    core: Core, proposals: Proposals
) -> None:
    big = encoding.encode(records.BlobPart(5, 1, 0, bytes(512 * 1024)))
    number = 0
    while not proposals.congested:
        number += 1
        proposals.offer(number, big)
    assert proposals.outstanding_bytes < OUTSTANDING_BYTES_MAX + len(big) * 2
    core.run()
    index = 0
    while not proposals.relieved:
        index += 1
        assert proposals.report(entry(index, term=5)) == index
    assert proposals.outstanding_bytes < OUTSTANDING_BYTES_MAX / 2


# -- the committed tail


class Log:
    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    def entries(self, lo: int, hi: int, max_bytes: int) -> Sequence[Entry]:
        self.asked.append((lo, hi))
        if lo < 3:
            raise CompactedError(f"{lo}")
        return [entry(index) for index in range(lo, hi)]


def test_the_tail_gives_what_follows_and_nothing_when_there_is_nothing() -> None:
    tail = CommittedTail(Log(), 10)
    assert tail.after(10) == ()
    tail.append([entry(11), entry(12)])
    assert [e.index for e in tail.after(10)] == [11, 12]
    assert [e.index for e in tail.after(11)] == [12]


def test_what_left_the_tail_is_read_from_the_log_and_only_if_it_is_durable() -> None:
    log = Log()
    tail = CommittedTail(log, 4)
    big = bytes(TAIL_BYTES_MAX // 2)
    tail.append([entry(5, big), entry(6, big), entry(7, big)])
    assert tail.after(4)[0].index == 5, "not durable yet, so it was kept"
    tail.applied(6)
    assert [e.index for e in tail.after(4)] == [5, 6]
    assert log.asked == [(5, 7)]
    with pytest.raises(CompactedError):
        tail.after(1)


def test_a_snapshot_leaves_no_way_from_before_to_after() -> None:
    tail = CommittedTail(Log(), 0)
    tail.append([entry(1)])
    tail.restart(100)
    with pytest.raises(CompactedError):
        tail.after(1)
    tail.append([entry(101)])
    assert [e.index for e in tail.after(100)] == [101]


# -- history


def test_phases_are_seconds_after_the_new_leader_noticed() -> None:
    history = LeaderHistory()
    history.begin(3, "b", detected=100.0, now=100.2)
    history.mark(3, "serving", 100.5, {"port": 1})
    history.mark(3, "serving", 200.0)
    history.mark(4, "serving", 200.0)
    (entry_,) = history.tail()
    assert entry_.phases == pytest.approx({"detected": 0.0, "elected": 0.2, "serving": 0.5})
    assert entry_.details == {"serving": {"port": 1}}


def test_other_peers_entries_are_merged_and_ours_are_never_replaced() -> None:
    ours, theirs = LeaderHistory(), LeaderHistory()
    ours.begin(3, "b", 100.0, 100.1)
    theirs.begin(4, "c", 500.0, 500.1)
    ours.merge([*theirs.tail(), msgspec.structs.replace(theirs.tail()[0], term=3)])
    assert [(e.term, e.leader) for e in ours.tail()] == [(3, "b"), (4, "c")]
    theirs.mark(4, "serving", 500.3)
    ours.merge(theirs.tail())
    assert "serving" in ours.tail()[-1].phases


def test_the_history_is_bounded() -> None:
    history = LeaderHistory()
    for term in range(1, ENTRIES_MAX * 2):
        history.begin(term, "a", 1.0, 1.1)
    assert len(history.tail(1000)) == ENTRIES_MAX
    assert history.tail(1)[0].term == ENTRIES_MAX * 2 - 1
