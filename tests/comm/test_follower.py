"""Whom a follower of a cell listens to, and when it leaves.

Method: hypothesis tells a ``Fence`` in any order what may happen to a connection; a naive model
keeps who leads each term, and says what must hold. What takes a loop, the ``Follower``, is told by
hand; one test waits for ``STUCK_S`` to pass.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest
from distributed.core import ConnectionPool
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ha_scheduler.comm.address import Endpoint
from ha_scheduler.comm.directory import Peer, View, directory_of, forget_directories
from ha_scheduler.comm.follower import STUCK_S, Fence, Follower

A, B, C = (Endpoint(host, 8786) for host in "abc")
TERMS = st.integers(1, 6)


def leader_of(term: int) -> Endpoint:
    """There is one in a term."""
    return (A, B, C)[term % 3]


def view_of(term: int, address: Endpoint | None) -> View:
    return View("cell", term, f"leader-{term}", address)


class Following(RuleBasedStateMachine):
    """A connection is made to somebody, says its term or does not, and views come at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.fence = Fence()
        self.peer: Endpoint | None = None
        self.term: int | None = None  # that the leader of the connection has said
        self.heard: View | None = None  # the newest since the connection was begun
        self.highest = 0

    @rule()
    def begin(self) -> None:
        self.fence.begin()
        self.peer = self.term = self.heard = None

    @precondition(lambda self: self.peer is None)
    @rule(peer=st.sampled_from([A, B, C]))
    def connect(self, peer: Endpoint) -> None:
        self.fence.connected(f"tls://{peer}")
        self.peer = peer

    @precondition(lambda self: self.peer is not None and self.term is None)
    @rule(data=st.data())
    def is_welcomed(self, data: st.DataObject) -> None:
        term = data.draw(TERMS.filter(lambda term: leader_of(term) == self.peer))
        followed = self.fence.welcomed(term)
        assert followed == (term >= self.highest), "never one of an older term"
        if followed:
            self.term = self.highest = term

    @rule(term=TERMS, serves=st.booleans())
    def hear(self, term: int, serves: bool) -> None:
        view = view_of(term, leader_of(term) if serves else None)
        new = self.fence.hear(view)
        if term < self.highest:
            assert not new
            return
        self.highest, self.heard = term, view

    @rule(term=TERMS)
    def hear_again(self, term: int) -> None:
        view = view_of(term, leader_of(term))
        self.hear(term, serves=True)
        assert not self.fence.hear(view), "what is heard twice is no news"

    @invariant()
    def the_fence_is_the_highest_term_seen(self) -> None:
        assert self.fence.term == self.highest

    @invariant()
    def a_leader_that_was_superseded_is_left_and_the_current_one_is_not(self) -> None:
        left, heard = self.fence.superseded() is not None, self.heard
        if self.peer is None or heard is None:
            assert not left, "nothing to leave, or no reason"
        elif self.term is not None:
            assert left == (heard.term > self.term)
        elif heard.leader_address is None or heard.leader_address == self.peer:
            assert not left, "it may be the new leader"
        elif heard.term > self.fence.joined:
            assert left


TestFollowing = Following.TestCase
TestFollowing.settings = settings(max_examples=300, stateful_step_count=30, deadline=None)


def test_what_is_connected_to_the_new_leader_before_its_news_come_is_spared() -> None:
    fence = Fence()
    fence.connected(f"tls://{A}")
    fence.welcomed(1)
    assert fence.hear(view_of(2, B))
    assert fence.spared == B
    assert fence.hear(view_of(3, B))
    assert fence.spared is None, "it may be with the engine of term 2"
    assert fence.hear(view_of(5, None))
    assert fence.spared is None
    assert fence.hear(view_of(5, B))
    assert fence.spared == B, "with the news before, all others were dropped"
    assert fence.hear(view_of(7, None))
    assert fence.hear(view_of(8, C))
    assert fence.spared is None, "it may have led term 7"


class Connection:
    """What is asked of a comm."""

    def __init__(self, peer: Endpoint) -> None:
        self.peer_address = f"tls://{peer}"


class Scheduler:
    """What is asked of a ``PooledRPCCall``; counts how often its connections are dropped."""

    def __init__(self, addr: str) -> None:
        self.addr = addr
        self.pool = ConnectionPool()
        self.reasons: list[str] = []
        self.pool._connecting[addr].add(self.reasons.append)


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    forget_directories()
    yield
    forget_directories()


def follower_of(term: int, address: str = "ha://a,b") -> tuple[Follower, Scheduler, list[str]]:
    """One that the leader of ``term`` has taken in."""
    left: list[str] = []
    follower = Follower(left.append)
    scheduler = Scheduler(address)
    connection = Connection(A)
    follower.connected(scheduler, connection)
    assert follower.welcomed(connection, view_of(term, None), watch=False)
    return follower, scheduler, left


async def settle() -> None:
    """What views of the cell have put on the loop is done."""
    for _ in range(3):
        await asyncio.sleep(0)


async def test_a_view_of_the_cell_makes_it_leave_and_frees_the_calls_once() -> None:
    follower, scheduler, left = follower_of(1)
    assert follower.directory is not None
    follower.directory.observe(view_of(2, B))
    await settle()
    assert left == scheduler.reasons == ["leader-2 leads term 2"]
    assert follower.news.is_set()
    follower.hear(view_of(2, B))
    assert left == scheduler.reasons == ["leader-2 leads term 2"]
    await follower.stop()


async def test_calls_are_freed_again_when_the_new_leader_serves() -> None:
    follower, scheduler, left = follower_of(1)
    follower.hear(view_of(2, None))
    follower.hear(view_of(2, B))
    assert (len(left), len(scheduler.reasons)) == (1, 2)
    follower.connected(scheduler, Connection(B))
    follower.hear(view_of(2, B))
    assert (len(left), len(scheduler.reasons)) == (1, 2)
    await follower.stop()


async def test_a_leader_that_presents_itself_is_heard_before_the_cell_is_known() -> None:
    left: list[str] = []
    follower = Follower(left.append)
    follower.connected(Scheduler("tls://vip:8786"), Connection(A))
    follower.called(2, "leader-2", "tls://b:8786")
    assert (follower.fence.term, len(left)) == (2, 1)
    assert not follower.welcomed(Connection(A), view_of(1, None))


async def test_a_leader_that_has_not_said_who_it_is_is_left_when_another_leads() -> None:
    left: list[str] = []
    follower, scheduler = Follower(left.append), Scheduler("ha://a,b")
    follower.connected(scheduler, Connection(A))
    cell = directory_of([A, B])
    cell.observe(view_of(1, A))
    await settle()
    assert left == scheduler.reasons == [], "it is this one"
    cell.observe(view_of(2, B))
    await settle()
    assert left == scheduler.reasons == ["leader-2 leads term 2"]
    await follower.stop()


async def test_a_plain_address_becomes_that_of_the_cell_itself_included() -> None:
    scheduler, connection = Scheduler("tls://vip:8786"), Connection(A)
    follower = Follower(lambda reason: None)
    view = View("cell", 1, "leader", None, (Peer("a", "a", 8785),), (A, B))
    follower.connected(scheduler, connection)
    assert follower.directory is None
    assert follower.welcomed(connection, view, watch=False)
    assert scheduler.addr == "ha://a:8786,b:8786,vip:8786"
    await follower.stop()


async def test_an_engine_that_stands_alone_stays_at_its_address() -> None:
    follower, scheduler, _ = follower_of(1, "tls://a:8786")
    assert scheduler.addr == "tls://a:8786"
    await follower.stop()


async def test_an_attempt_is_ended_when_another_leads_but_not_before_it_is_old_enough() -> None:
    follower, _, left = follower_of(1)
    attempt = asyncio.ensure_future(follower.attempt(asyncio.Event().wait()))
    began = time.monotonic()
    await asyncio.sleep(0)
    follower.hear(view_of(2, B))
    with pytest.raises(TimeoutError, match="another leader"):
        await attempt
    assert time.monotonic() - began >= STUCK_S * 0.9
    assert left == []
    await follower.stop()


async def test_an_attempt_that_is_with_the_new_leader_meanwhile_goes_on() -> None:
    follower, scheduler, left = follower_of(1)

    async def slow() -> str:
        follower.connected(scheduler, Connection(B))
        follower.hear(view_of(2, B))
        await asyncio.sleep(STUCK_S * 1.5)
        return "taken in"

    assert await follower.attempt(slow()) == "taken in"
    assert left == []
    await follower.stop()


async def test_an_attempt_that_turns_out_to_be_with_another_is_left_at_once() -> None:
    follower, scheduler, left = follower_of(1)

    async def connecting() -> None:
        follower.hear(view_of(2, B))
        assert left == []
        follower.connected(scheduler, Connection(C))

    await follower.attempt(connecting())
    assert left == ["leader-2 leads term 2"]
    await follower.stop()


async def test_a_cancelled_caller_ends_its_attempt_and_hears_of_that() -> None:
    follower, *_ = follower_of(1)
    ended = asyncio.Event()

    async def connecting() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    attempt = asyncio.ensure_future(follower.attempt(connecting()))
    await settle()
    attempt.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attempt
    assert ended.is_set()
    await follower.stop()


async def test_a_stopped_follower_leaves_nobody() -> None:
    follower, scheduler, left = follower_of(1)
    assert follower.directory is not None
    follower.directory.observe(view_of(2, B))
    await follower.stop()
    await settle()
    follower.called(3, "leader-3", "tls://c:8786")
    assert left == scheduler.reasons == []
