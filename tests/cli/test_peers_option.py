"""What ``--peers``, ``--name`` and the timing options mean, and each sentence for bad input.

Method: ``parse_peers`` and ``own_name`` are pure; everything is asserted on their results.
"""

from __future__ import annotations

import pytest

from ha_scheduler.cell.address import is_loopback
from ha_scheduler.cell.peers import (
    DEFAULT_DASK_PORT,
    DEFAULT_PEER_PORT,
    Cell,
    own_name,
    parse_peers,
)
from ha_scheduler.errors import HAError, OperatorError
from ha_scheduler.peer.settings import PRIORITY_MAX, PeerSettings, Timing
from ha_scheduler.protocol.peer import PeerAddress
from ha_scheduler.raft.config import HIGHEST_PRIORITY

THREE = "a=10.0.0.1:8785,b=10.0.0.2,c=10.0.0.3"


def test_names_and_addresses_are_parsed_and_sorted() -> None:
    cell = parse_peers("c=10.0.0.3:9000/9001, a=10.0.0.1, b=node-2.example.COM:9002")
    assert cell.peers == (
        PeerAddress("a", "10.0.0.1", DEFAULT_PEER_PORT, DEFAULT_DASK_PORT),
        PeerAddress("b", "node-2.example.com", 9002, DEFAULT_DASK_PORT),
        PeerAddress("c", "10.0.0.3", 9000, 9001),
    )


def test_plain_host_names_are_names_and_hosts() -> None:
    cell = parse_peers("host1,host2:99,host3/77", dask_port=55)
    assert cell.peers == (
        PeerAddress("host1", "host1", DEFAULT_PEER_PORT, 55),
        PeerAddress("host2", "host2", 99, 55),
        PeerAddress("host3", "host3", DEFAULT_PEER_PORT, 77),
    )


def test_ipv6_in_brackets() -> None:
    cell = parse_peers("a=[FD00::0001]:8785/8786,b=[fd00::2],c=[fd00::3]/1")
    assert [(p.host, p.peer_port, p.dask_port) for p in cell.peers] == [
        ("fd00::1", 8785, 8786),
        ("fd00::2", 8785, 8786),
        ("fd00::3", 8785, 1),
    ]
    assert cell.identity == "a=[fd00::1]:8785,b=[fd00::2]:8785,c=[fd00::3]:8785"
    assert cell.client_address == "ha://[fd00::1]:8786,[fd00::2]:8786,[fd00::3]:1"


def test_identity_depends_neither_on_order_nor_on_dask_ports() -> None:
    one = parse_peers("b=h2:1/2,a=H1.,c=h3")
    other = parse_peers("a=h1:8785/9,c=h3:8785,b=h2:1")
    assert one.identity == other.identity == "a=h1:8785,b=h2:1,c=h3:8785"


def test_identity_can_be_parsed_again() -> None:
    for text in (THREE, "host1,host2,host3", "a=[fd00::1],b=[fd00::2],c=[fd00::3]"):
        cell = parse_peers(text)
        assert parse_peers(cell.identity).identity == cell.identity


def test_peer_ids_are_stable_and_depend_on_the_name_only() -> None:
    cell, moved = parse_peers(THREE), parse_peers("a=10.9.9.9,b=h,c=i")
    assert cell.peer_id("a") == moved.peer_id("a") == 7_128_065_739_670_391
    for name in cell.names:
        identifier = cell.peer_id(name)
        assert 0 < identifier < 2**53
        assert cell.by_id[identifier] == cell.peer(name)
    with pytest.raises(KeyError):
        cell.peer_id("d")
    with pytest.raises(KeyError):
        cell.peer("d")


def test_cells_of_the_same_peers_are_equal() -> None:
    assert parse_peers(THREE) == parse_peers(",".join(reversed(THREE.split(","))))
    assert len({parse_peers(THREE), parse_peers(THREE)}) == 1


@pytest.mark.parametrize("count", [1, 3, 5, 7])
def test_odd_numbers_of_peers_are_accepted(count: int) -> None:
    assert len(parse_peers(",".join(f"h{i}" for i in range(count))).peers) == count


def test_a_cell_that_was_changed_may_have_an_even_number_of_peers() -> None:
    assert parse_peers("a=h1,b=h2", any_count=True).names == ("a", "b")
    with pytest.raises(OperatorError, match="at most 7"):
        parse_peers(",".join(f"h{i}" for i in range(8)), any_count=True)


def test_the_text_of_a_cell_is_what_it_was_parsed_from() -> None:
    cell = parse_peers("a=[fd00::1]:1/2,b=h2:3/4,c=h3/5")
    assert parse_peers(cell.text) == cell


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "names no peer"),
        (" , ", "names no peer"),
        ("a=h1,,c=h3", "empty entry"),
        ("a=h1,b=h2,c=h3,", "empty entry"),
        ("a=h1,b=h2", "odd number .* survive no more failures than 1 .*name 1 or 3"),
        ("a,b,c,d", "4 survive no more failures than 3 .*name 3 or 5"),
        ("a,b,c,d,e,f,g,h,i", "at most 7"),
        ("a=h1,a=h2,c=h3", "'a' twice"),
        ("a=h1,A=h2,c=h3", "'A' twice"),
        ("h1,h1,h3", "'h1' twice"),
        ("a=h1,b=H1.,c=h3", "h1:8785 is the peer port of peer a and the peer port of peer b"),
        ("a=h1:1,b=h1:2,c=h3", "h1:8786 is the Dask port of peer a and the Dask port of peer b"),
        ("a=h1:1/2,b=h1:2/3,c=h3", "h1:2 is the Dask port of peer a and the peer port of peer b"),
        ("a=h1:1/1,b=h2,c=h3", "Peer a has h1:1 as its peer port and its Dask port"),
        ("a=[fd00::1],b=[FD00:0::1],c=h", r"\[fd00::1\]:8785 is the peer port of peer a"),
        ("a=h1:0,b=h2,c=h3", "peer port that is no port .'0'."),
        ("a=h1:65536,b=h2,c=h3", "peer port that is no port"),
        ("a=h1:,b=h2,c=h3", "peer port that is no port .''."),
        ("a=h1:x,b=h2,c=h3", "peer port that is no port"),
        ("a=h1:٣,b=h2,c=h3", "peer port that is no port"),
        ("a=h1:1/,b=h2,c=h3", "Dask port that is no port"),
        ("a=h1:1/-2,b=h2,c=h3", "Dask port that is no port"),
        ("a=fd00::1,b=h2,c=h3", "IPv6 address in brackets"),
        ("a=[fd00::1,b=h2,c=h3", "not of the form"),
        ("a=[nonsense],b=h2,c=h3", "no valid IPv6 address"),
        ("[fd00::1],b=h2,c=h3", "IPv6 address without a name"),
        ("a=,b=h2,c=h3", "no valid host"),
        ("a=h 1,b=h2,c=h3", "no valid host"),
        ("a=10.0.0.256,b=h2,c=h3", "no valid host"),
        ("a=-h,b=h2,c=h3", "no valid host"),
        ("=h1,b=h2,c=h3", "no name before"),
        ("a/b=h1,b=h2,c=h3", "cannot be called 'a/b'"),
        ("../a=h1,b=h2,c=h3", "cannot be called"),
        (f"{'n' * 64}=h1,b=h2,c=h3", "at most 63"),
        ("a-key=h1,b=h2,c=h3", "cannot be called 'a-key'"),
        ("a=0.0.0.0,b=h2,c=h3", "no other host can reach"),
        ("a=[::],b=h2,c=h3", "no other host can reach"),
        ("a=127.0.0.1,b=h2,c=h3", "loopback address, at which peer b"),
        ("a=h1,b=localhost,c=h3", "Peer b has a loopback address, at which peer a"),
    ],
)
def test_bad_peers_are_refused_with_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(OperatorError, match=sentence) as caught:
        parse_peers(text)
    assert isinstance(caught.value, HAError)
    assert caught.value.exit_status == 2
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")


def test_a_cell_built_by_hand_refuses_two_peers_of_one_name() -> None:
    peer = PeerAddress("a", "h", 1, 2)
    with pytest.raises(OperatorError, match="one name"):
        Cell((peer, peer))


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.3.2.1", True),
        ("::1", True),
        ("localhost", True),
        ("db.localhost", True),
        ("10.0.0.1", False),
        ("localhost.example.com", False),
    ],
)
def test_loopback_hosts(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_own_name_given() -> None:
    assert own_name(parse_peers(THREE), "b", [], []) == "b"
    with pytest.raises(OperatorError, match=r"--name d is not one of the peers \(a, b, c\)"):
        own_name(parse_peers(THREE), "d", [], [])


@pytest.mark.parametrize(
    ("peers", "names", "addresses", "expected"),
    [
        (THREE, ["node2"], ["127.0.0.1", "10.0.0.2"], "b"),
        ("node1,node2,node3", ["node3"], ["10.0.0.3"], "node3"),
        ("node1,node2,node3", ["NODE2.example.com"], [], "node2"),
        ("a=n1.example.com,b=n2.example.com,c=n3.example.com", ["n1", "n1.example.com"], [], "a"),
        ("a=[fd00::1],b=[fd00::2],c=[fd00::3]", [], ["fe80::1%eth0", "FD00::0003"], "c"),
        ("127.0.0.1", [], [], "127.0.0.1"),
    ],
)
def test_own_name_is_found_from_names_and_addresses_of_the_host(
    peers: str, names: list[str], addresses: list[str], expected: str
) -> None:
    assert own_name(parse_peers(peers), None, names, addresses) == expected


def test_own_name_not_found_says_what_this_host_is_called() -> None:
    with pytest.raises(OperatorError, match=r"None of the peers \(a, b, c\).*\(192.0.2.1, here\)"):
        own_name(parse_peers(THREE), None, ["here"], ["192.0.2.1"])


def test_own_name_is_ambiguous_for_peers_on_one_host() -> None:
    cell = parse_peers("a=127.0.0.1:1/2,b=127.0.0.1:3/4,c=127.0.0.2:5/6")
    with pytest.raises(OperatorError, match=r"Several of the peers \(a, b, c\).*--name"):
        own_name(cell, None, ["here"], ["127.0.0.1"])


def test_default_timing_is_what_the_module_says() -> None:
    timing = Timing()
    assert timing.election_s == pytest.approx((0.6, 1.2))
    assert timing.tick_s == 0.05


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"tick_ms": 4}, "--tick-ms 4 is out of range"),
        ({"tick_ms": 1001}, "--tick-ms 1001"),
        ({"heartbeat_ticks": 0}, "heartbeats are too few"),
        ({"election_ticks": 5}, r"use 6 \(3 heartbeats\) to 1200"),
        ({"election_ticks": 1201}, "--election-ticks 1201"),
    ],
)
def test_dangerous_timing_is_refused(options: dict[str, int], sentence: str) -> None:
    with pytest.raises(OperatorError, match=sentence):
        Timing(**options)


def test_settings_listen_on_loopback_only_when_the_peer_is_there(tmp_path) -> None:
    local = PeerSettings(parse_peers("a=127.0.0.3"), "a", tmp_path)
    assert local.listen_host == "127.0.0.3"
    assert local.address.dask_port == DEFAULT_DASK_PORT
    assert PeerSettings(parse_peers("a=127.0.0.3"), "a", tmp_path, host="::1").listen_host == "::1"


@pytest.mark.parametrize(
    ("peers", "options", "sentence"),
    [
        ("b=127.0.0.1", {}, "Peer a is not one"),
        (THREE, {}, "Plaintext is for cells on loopback only"),
        ("a=127.0.0.1", {"engine_watchdog_s": 1.0}, "--engine-watchdog 1 is out of range"),
        ("a=127.0.0.1", {"priority": 3}, "--priority 3 is out of range; use 0 to 2"),
        ("a=127.0.0.1", {"priority": -1}, "--priority -1"),
        ("a=127.0.0.1", {"engine_watchdog_s": float("nan")}, "--engine-watchdog nan"),
    ],
)
def test_bad_settings_are_refused(peers, options, sentence, tmp_path) -> None:
    with pytest.raises(OperatorError, match=sentence):
        PeerSettings(parse_peers(peers), "a", tmp_path, **options)


def test_the_priorities_of_the_command_line_are_those_of_the_core() -> None:
    """Repeated, because the command line does not import the core."""
    assert PRIORITY_MAX == HIGHEST_PRIORITY


@pytest.mark.parametrize("text", ["ha://a,b,c", "tls://10.0.0.1:8786", "a=tcp://h1:8786,b=h2,c=h3"])
def test_an_address_for_clients_is_named_as_such(text: str) -> None:
    with pytest.raises(OperatorError, match=r"is an address for clients; --peers lists .* without"):
        parse_peers(text)
