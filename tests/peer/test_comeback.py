"""A cell that was down comes back at other addresses: a peer is its name and disk, no address."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from toy_cell import ToyCell, within

from ha_scheduler.cell.peers import parse_peers
from ha_scheduler.deploy.ports import free_ports
from ha_scheduler.ledger.records import PeerNamed
from ha_scheduler.peer.members.roster import Roster, described

pytestmark = pytest.mark.system


def elsewhere(cell: ToyCell, *names: str) -> str:
    """Give these peers other ports. Returns the list, which is that of the cell from now on."""
    ports = iter(free_ports("127.0.0.1", 2 * len(names)))
    listed = []
    for peer in cell.cell.peers:
        if peer.name in names:
            cell.ports[peer.name] = next(ports)
            listed.append(f"{peer.name}=127.0.0.1:{cell.ports[peer.name]}/{next(ports)}")
        else:
            listed.append(f"{peer.name}=127.0.0.1:{peer.peer_port}/{peer.dask_port}")
    return ",".join(listed)


def knows(cell: ToyCell, name: str, listed: str) -> bool:
    """Whether what a peer tells watchers are the addresses of this list."""
    status = cell.status(name)
    told = {tuple(peer) for peer in status["peers"]} if status else set()
    return told == {(p.name, p.host, p.peer_port, p.dask_port) for p in parse_peers(listed).peers}


def test_all_peers_come_back_at_other_addresses_with_their_ledger(tmp_path: Path) -> None:
    with ToyCell(tmp_path) as cell:
        leader = cell.settled()
        cell.propose(leader, "before", 50)
        cell.fed(leader, "before", 50)
        for name in cell.names:
            cell.kill(name)
        founding, cell.peers = cell.peers, elsewhere(cell, *cell.names)
        for name in cell.names:
            cell.start(name)
        leader = cell.settled()
        for name in cell.names:
            cell.fed(name, "before", 50)
            within(10, partial(knows, cell, name, cell.peers), every=0.05)
        assert "peer_moved" in cell.log(leader) or "by --peers" in cell.log(leader)

        # The ledger has learnt it: the list of the founders, which is older, does no harm.
        follower = next(name for name in cell.names if name != leader)
        cell.kill(follower)
        own = parse_peers(cell.peers).peer(follower)
        mixed = ",".join(
            f"{p.name}=127.0.0.1:{p.peer_port}/{p.dask_port}"
            for p in (*(q for q in parse_peers(founding).peers if q.name != follower), own)
        )
        cell.start(follower, peers=mixed)
        cell.settled()
        within(10, partial(knows, cell, follower, cell.peers), every=0.05)


def test_one_peer_moves_and_the_others_learn_it_from_itself(tmp_path: Path) -> None:
    with ToyCell(tmp_path) as cell:
        leader = cell.settled()
        moving = next(name for name in cell.names if name != leader)
        cell.kill(moving)
        listed = elsewhere(cell, moving)
        cell.start(moving, peers=listed)
        assert cell.settled() == leader, "nobody was disturbed"
        for name in cell.names:
            within(10, partial(knows, cell, name, listed), every=0.05)
        # An operator's list that has it there is understood by all.
        status = cell.connect(leader, "control", cell=parse_peers(listed).identity)
        assert status.answer["ok"]


CELL = parse_peers("a=10.0.0.1,b=10.0.0.2,c=10.0.0.3")
MOVED = parse_peers("a=10.1.0.1,b=10.1.0.2,c=10.0.0.3")
B = CELL.peer_id("b")


@pytest.fixture
def roster() -> Callable[..., Roster]:
    def make(listed: str = "a=10.0.0.1,b=10.0.0.2,c=10.0.0.3") -> Roster:
        cell = parse_peers(listed)
        return Roster(CELL, cell, described(CELL.peer_id("a"), 1, cell.peer("a")))

    return make


def hosts(roster: Roster) -> list[str]:
    return [place.host for place in roster.addresses([B])[B]]


def test_all_places_where_a_peer_may_be_are_dialled(roster: Callable[..., Roster]) -> None:
    one = roster("a=10.1.0.1,b=10.1.0.2,c=10.0.0.3")
    assert hosts(one) == ["10.1.0.2", "10.0.0.2"]
    assert [peer.host for peer in one.current()] == ["10.1.0.1", "10.1.0.2", "10.0.0.3"]
    assert one.moved() == {
        "a": ("10.0.0.1:8785", "10.1.0.1:8785"),
        "b": ("10.0.0.2:8785", "10.1.0.2:8785"),
    }


def test_who_has_called_is_where_it_says(roster: Callable[..., Roster]) -> None:
    one = roster()
    called = PeerNamed(B, 2, "b", "10.9.0.2", 8785, 8786, False, "")
    assert one.heard(called)
    assert not one.heard(called)
    assert hosts(one) == ["10.9.0.2", "10.0.0.2"]
    one.learn(called)
    assert hosts(one) == ["10.9.0.2", "10.0.0.2"]


def test_the_founding_list_may_be_older_than_the_ledger(roster: Callable[..., Roster]) -> None:
    one = roster()
    one.learn(PeerNamed(B, 2, "b", "10.9.0.2", 8785, 8786, False, ""))
    assert hosts(one) == ["10.9.0.2", "10.0.0.2"], "and a cell may come back where it began"
    assert one.moved() == {}


@pytest.mark.parametrize(
    ("listed", "ours"),
    [
        ("a=10.0.0.1:8785,b=10.7.7.7:8785,c=10.0.0.3:8785", True),  # has b where it is, or was
        ("a=10.7.7.7:8785,b=10.0.0.2:8785,c=10.0.0.3:8785", False),
        ("a=10.0.0.1:8785,x=10.0.0.2:8785,c=10.0.0.3:8785", False),
        ("nonsense", False),
    ],
)
def test_whose_list_means_this_cell(
    listed: str, roster: Callable[..., Roster], *, ours: bool
) -> None:
    assert roster().is_operators(listed) is ours
