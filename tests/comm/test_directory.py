"""What a process knows of a cell only ever becomes newer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ha_scheduler.comm.address import Endpoint, HAAddressError
from ha_scheduler.comm.directory import Directory, Peer, View, directory_of
from ha_scheduler.protocol.client import Welcome
from ha_scheduler.protocol.peer import PeerAddress
from ha_scheduler.protocol.watch import WatchView

A, B, C = (Endpoint(host, 8786) for host in "abc")
PEERS = tuple(Peer(e.host, e.host, 8785, 8786) for e in (A, B, C))
VIEW = View("cell", 3, "a", A, PEERS, (A, B, C))


def test_the_leader_comes_first_among_the_candidates() -> None:
    cell = Directory([A, B])
    assert cell.candidates() == (A, B)
    cell.connected(B)
    assert cell.candidates() == (B, A)
    cell.observe(VIEW)
    assert cell.candidates() == (A, B, C)


def test_an_older_term_changes_nothing_and_nobody_hears_of_it() -> None:
    cell = Directory([A])
    heard: list[View] = []
    cell.subscribe(heard.append)
    assert cell.observe(VIEW)
    assert not cell.observe(replace(VIEW, term=2, leader="b", leader_address=B))
    assert not cell.observe(VIEW)
    assert (cell.term, cell.leader_hint, heard) == (3, A, [VIEW])


def test_nobody_waits_for_the_leader_of_an_older_term() -> None:
    """Its host may be gone without a word; where the next one serves is told a moment later."""
    cell = Directory([A])
    cell.observe(VIEW)
    cell.observe(replace(VIEW, leader=None, leader_address=None))
    assert cell.leader_hint == A
    cell.observe(replace(VIEW, term=4, leader="b", leader_address=None))
    assert (cell.term, cell.leader_hint) == (4, None)
    assert cell.candidates() == (A, B, C)
    cell.observe(replace(VIEW, term=4, leader="b", leader_address=B))
    assert cell.leader_hint == B


def test_a_welcome_does_not_take_the_dask_ports_away() -> None:
    cell = Directory([A])
    cell.observe(VIEW)
    welcome = Welcome(3, "cell", "a", tuple((p.name, p.host, 8785) for p in PEERS))
    cell.observe(View.from_welcome(welcome))
    assert cell.peers == PEERS


def test_a_welcome_of_before_a_peer_joined_does_not_take_it_away() -> None:
    cell = Directory([A])
    d = Endpoint("d", 8786)
    cell.observe(replace(VIEW, peers=(*PEERS, Peer("d", "d", 8785, 8786)), addresses=(A, B, C, d)))
    watch = tuple((p.name, p.host, 8785) for p in PEERS)
    old = Welcome(3, "cell", "a", watch, tuple(f"tls://{host}:8786" for host in "abc"))
    cell.observe(View.from_welcome(old))
    assert [peer.name for peer in cell.peers] == ["a", "b", "c", "d"]
    assert d in cell.candidates()
    cell.observe(VIEW)
    assert cell.peers == PEERS, "the watch says who has left"


def test_a_cell_built_anew_on_the_same_ports_is_another_one() -> None:
    cell = Directory([A])
    cell.observe(VIEW)
    assert cell.observe(View("other", 1, "b", B, PEERS[1:]))
    assert (cell.term, cell.leader_hint, cell.peers) == (1, B, PEERS[1:])


def test_unsubscribed_is_unheard() -> None:
    cell = Directory([A])
    heard: list[View] = []
    unsubscribe = cell.subscribe(heard.append)
    unsubscribe()
    unsubscribe()
    cell.observe(VIEW)
    assert heard == []


def test_one_cell_a_set_of_addresses() -> None:
    assert directory_of([A, B]) is directory_of([B, A])
    assert directory_of([A, B]) is not directory_of([A])
    with pytest.raises(HAAddressError):
        directory_of([])


def test_a_view_of_the_watch_is_understood() -> None:
    peers = tuple(PeerAddress(p.name, p.host, p.peer_port, p.dask_port or 0) for p in PEERS)
    assert View.from_watch(WatchView("cell", "b", 3, "a", "tls://a:8786", peers)) == VIEW
