"""Terms cannot be spent: what a peer makes of a term that is far beyond its own."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from ha_scheduler.raft.errors import LogCorruptionError, MalformedMessageError
from ha_scheduler.raft.membership import ChangeKind, MembershipChange
from ha_scheduler.raft.messages import (
    MAX_TERM,
    HardState,
    Membership,
    Message,
    MessageKind,
    ServerState,
    SnapshotMeta,
)
from ha_scheduler.raft.node import RawNode
from ha_scheduler.raft.wire import message_from_wire, message_to_wire
from tests.twins.log import MemoryLog

from .harness import TICKS, Cell, log_of
from .nodes import FIVE, THREE, node_of

E = TICKS["election_ticks"]
JUMP = 64  # Config.max_term_jump
HUGE = MAX_TERM

KINDS = [
    Message(MessageKind.VOTE, 1, 3, HUGE, force=True),
    Message(MessageKind.VOTE, 1, 3, HUGE, index=99, log_term=HUGE),
    Message(MessageKind.VOTE_RESPONSE, 1, 3, HUGE),
    Message(MessageKind.VOTE_RESPONSE, 1, 3, HUGE, reject=True),
    Message(MessageKind.PRE_VOTE, 1, 3, HUGE, index=99, log_term=HUGE),
    Message(MessageKind.PRE_VOTE_RESPONSE, 1, 3, HUGE),
    Message(MessageKind.PRE_VOTE_RESPONSE, 1, 3, HUGE, reject=True),
    Message(MessageKind.APPEND, 1, 3, HUGE, round=1),
    Message(MessageKind.APPEND_RESPONSE, 1, 3, HUGE),
    Message(MessageKind.HEARTBEAT, 1, 3, HUGE, round=1),
    Message(MessageKind.HEARTBEAT_RESPONSE, 1, 3, HUGE),
    Message(MessageKind.SNAPSHOT, 1, 3, HUGE, snapshot=SnapshotMeta(9, HUGE, THREE)),
    Message(MessageKind.TIMEOUT_NOW, 1, 3, HUGE),
    Message(MessageKind.READ_INDEX, 1, 3, HUGE),
    Message(MessageKind.READ_INDEX_RESPONSE, 1, 3, HUGE),
]
NAMES = [f"{m.kind.name}{'-reject' * m.reject}{'-force' * m.force}" for m in KINDS]


def claim(source: int, term: int, to: int = 1) -> Message:
    return Message(MessageKind.HEARTBEAT, to, source, term, round=1)


def cell_of(terms: dict[int, int], membership: Membership) -> Cell:
    """Peers that were restarted so long ago that none of them is bound by a promise."""
    cell = Cell(0)
    for peer, term in terms.items():
        cell.add_peer(peer, membership, log_of([1], membership, term=term))
    cell.isolate(*terms)
    cell.tick(E)
    cell.heal()
    return cell


def asked(node: RawNode) -> list[int]:
    """Whom the node asks for its term."""
    ready = node.ready()
    node.persisted(ready.number)
    return [m.to for m in ready.messages if m.kind is MessageKind.PRE_VOTE]


@pytest.mark.parametrize("message", KINDS, ids=NAMES)
@pytest.mark.parametrize("source", [3, 9])
def test_no_single_peer_takes_a_follower_to_a_huge_term(message: Message, source: int) -> None:
    """Nor one that is in no membership, whatever it sends."""
    node = node_of(log=log_of([1], THREE, term=1))
    node.step(replace(message, source=source))
    assert (node.term, node.role, node.leader) == (1, ServerState.FOLLOWER, 0)


@pytest.mark.parametrize("message", KINDS, ids=NAMES)
def test_no_single_peer_disturbs_a_leader_by_a_huge_term(message: Message) -> None:
    cell = Cell(3)
    cell.elect(1)
    for _ in range(3 * E):
        cell[1].step(message)
        cell.tick()
    assert (cell.leaders(), cell[1].term) == ([1], 1)


def test_a_cell_that_hears_huge_terms_all_the_time_still_elects() -> None:
    cell = Cell(3)
    cell.elect(1)
    cell.isolate(1)
    for n in range(6 * E):
        for peer in (2, 3):
            cell[peer].step(replace(KINDS[n % len(KINDS)], to=peer, source=1))
        cell.tick()
    (leader,) = {2, 3} & set(cell.leaders())
    assert cell[leader].term < JUMP


def test_a_term_within_the_limit_is_taken_at_once() -> None:
    node = node_of(log=log_of([1], THREE, term=1))
    node.step(claim(3, 1 + JUMP))
    assert (node.term, node.leader) == (1 + JUMP, 3)


def test_one_peer_moves_a_term_by_no_more_than_the_limit_in_an_election_timeout() -> None:
    """However many messages it sends, and if its claims count among the voters'."""
    node = node_of(log=log_of([1], THREE, term=1))
    for timeouts in range(1, 5):
        for _ in range(E):
            for _ in range(3):
                node.step(Message(MessageKind.VOTE_RESPONSE, 1, 3, node.term + JUMP, reject=True))
            node.tick()
        assert node.term <= 1 + JUMP * timeouts + timeouts


def test_two_of_five_do_not_spend_terms_either() -> None:
    node = node_of(log=log_of([1], FIVE, term=1))
    for _ in range(10):
        for source in (4, 5):
            node.step(claim(source, HUGE))
    assert node.term == 1


def test_a_term_of_a_majority_of_the_voters_is_taken_however_far_it_is() -> None:
    node = node_of(log=log_of([1], FIVE, term=1))
    for source in (2, 3):
        node.step(claim(source, 5000))
    assert node.term == 1
    node.step(claim(4, 5000))
    assert (node.term, node.leader) == (5000, 4)


def test_a_grant_of_the_own_pre_vote_is_no_word_of_a_term() -> None:
    """It carries the term that was asked for, not that of its sender."""
    node = node_of(log=log_of([1], FIVE, term=1))
    for source in (2, 3, 4):
        node.step(Message(MessageKind.PRE_VOTE_RESPONSE, 1, source, 500))
    node.step(claim(5, 500))
    assert node.term == 1


def test_a_peer_that_was_away_for_long_asks_the_others_and_comes_back() -> None:
    cell = cell_of({1: 5000, 2: 5000, 3: 1}, THREE)
    cell.elect(1)
    cell.tick(3)
    assert (cell[3].term, cell[3].leader) == (5001, 1)


def test_the_others_are_asked_once_in_a_round_of_heartbeats() -> None:
    node = node_of(log=log_of([1], THREE, term=1))
    node.step(claim(3, HUGE))
    node.step(claim(3, HUGE))
    assert asked(node) == [2, 3]
    for _ in range(TICKS["heartbeat_ticks"]):
        node.step(claim(3, HUGE))
        node.tick()
    node.step(claim(3, HUGE))
    assert asked(node) == [2, 3]


def test_a_returning_peer_follows_although_those_it_knew_are_gone() -> None:
    """Its membership names peers that have died, and one of them is needed to confirm the term."""
    cell = cell_of({1: 1000, 3: 1}, THREE)
    for _ in range(100):
        cell.tick(E)
        if cell.leaders():
            break
    assert cell.leaders()
    assert cell[3].term == cell[1].term > 1000


def test_three_of_five_elect_though_two_of_them_are_far_ahead() -> None:
    cell = cell_of({1: 1, 2: 700, 3: 700}, FIVE)
    for _ in range(100):
        cell.tick(E)
        if cell.leaders():
            break
    assert cell.leaders()


def test_three_of_five_lead_on_though_two_are_far_ahead_and_these_are_told_of() -> None:
    cell = cell_of({1: 1, 2: 1, 3: 1, 4: 9000, 5: 9000}, FIVE)
    cell.elect(1)
    cell.tick(20 * E)
    assert (cell.leaders(), cell[1].term) == ([1], 2)
    assert cell[1].doubted == {4: 9000, 5: 9000}


def test_a_claim_is_forgotten_when_its_peer_says_something_believable() -> None:
    node = node_of(log=log_of([1], THREE, term=1))
    node.step(claim(3, HUGE))
    assert node.doubted == {3: HUGE}
    node.step(Message(MessageKind.VOTE_RESPONSE, 1, 3, 1, reject=True))
    assert node.doubted == {}


def test_one_stray_message_moves_nobody_though_no_leader_is_there_for_long() -> None:
    node = node_of(log=log_of([1], THREE, term=1))
    for _ in range(30 * E):
        node.tick()
    node.step(claim(3, HUGE))
    assert node.term == 1


def test_a_stranger_is_not_gone_towards_however_long_it_claims() -> None:
    """Who was removed is no voter, and nobody needs it."""
    node = node_of(log=log_of([1], THREE, term=1))
    for _ in range(40 * E):
        node.tick()
        node.step(claim(9, HUGE))
        node.ready()
    assert node.term < JUMP


def test_a_newcomer_joins_a_cell_of_any_term() -> None:
    cell = cell_of(dict.fromkeys((1, 2, 3), 500_000), THREE)
    cell.elect(1)
    cell.join(4)
    cell[1].propose_membership(MembershipChange(ChangeKind.ADD_VOTER, 4))
    cell.tick(4)
    assert (cell[4].term, cell[4].leader) == (500_001, 1)
    assert cell[4].membership.voters == (1, 2, 3, 4)


def test_a_cell_of_one_needs_nobody() -> None:
    cell = cell_of({1: 500_000}, Membership((1,)))
    cell.elect(1)
    cell[1].step(replace(KINDS[0], source=9))
    assert (cell.leaders(), cell[1].term) == ([1], 500_001)


def test_leadership_moves_in_a_cell_of_any_term() -> None:
    cell = cell_of(dict.fromkeys((1, 2, 3), 500_000), THREE)
    cell.elect(1)
    for to in (2, 3, 1) * 10:
        (leader,) = cell.leaders()
        cell[leader].transfer_leadership(to)
        cell.tick(1)
        assert cell.leaders() == [to]


@pytest.mark.parametrize("message", KINDS, ids=NAMES)
@pytest.mark.parametrize("term", [MAX_TERM + 1, 2**62, 2**63 - 1])
def test_a_message_of_a_term_that_no_cell_reaches_is_malformed(message: Message, term: int) -> None:
    with pytest.raises(MalformedMessageError):
        message_from_wire(message_to_wire(replace(message, term=term)))


def test_a_peer_of_the_last_term_stands_no_more_and_goes_on_following() -> None:
    node = node_of(log=log_of([1], THREE, term=MAX_TERM))
    for _ in range(10 * E):
        node.tick()
    node.campaign()
    assert (node.term, node.role) == (MAX_TERM, ServerState.FOLLOWER)
    node.step(claim(3, MAX_TERM))
    assert node.leader == 3


def test_a_disk_of_a_term_beyond_the_last_is_refused() -> None:
    log = MemoryLog(THREE)
    log.set_hard_state(HardState(2**62, 0, 0))
    with pytest.raises(LogCorruptionError, match="last one"):
        node_of(log=log)
