"""Who hears whom in each shape of partition, on real hosts, and what each cut counts."""

from __future__ import annotations

import os
import subprocess
from itertools import permutations
from pathlib import Path
from random import Random
from typing import Any

import pytest

from chaos.faults.base import parse
from chaos.faults.network import shape, take_away
from chaos.faults.registry import FAULTS
from tests.chaos.hosts import HOSTS
from tests.deadlines import SCALE


def inject(target: Any, text: str) -> Any:
    call = parse(text)
    return FAULTS.of(call).inject(target, call.arguments, Random(3))


ALL = [host for host in HOSTS if host != "b"]


@pytest.mark.parametrize(
    ("kind", "deaf"),
    [
        ("one", {*((h, "b") for h in ALL), *(("b", h) for h in ALL)}),
        ("one-way-in", {(h, "b") for h in ALL}),
        ("one-way-out", {("b", h) for h in ALL}),
        ("client-side", {("b", "client"), ("client", "b")}),
        ("worker-side", {("b", "w0"), ("w0", "b")}),
        ("majority", {("b", "a"), ("b", "c"), ("a", "b"), ("c", "b")}),
    ],
)
def test_a_partition_cuts_these_links_and_no_other(
    hosts: Any, kind: str, deaf: set[tuple[str, str]]
) -> None:
    active = inject(hosts, f"partition:{kind}")
    try:
        hosts.settles(deaf)
    finally:
        active.heal()
        active.heal()
    hosts.settles(set())
    assert "frames dropped" in str(active.proof())


@pytest.mark.parametrize("kind", ["halves", "bridge", "majorities-ring", "majority"])
@pytest.mark.parametrize("n", [3, 5, 7])
def test_each_shape_of_many_leaves_a_majority_that_one_peer_hears(kind: str, n: int) -> None:
    peers = [f"p{number}" for number in range(n)]
    links = shape(kind, peers, (), "p0", Random(n))
    assert {(b, a) for a, b in links} == set(links), "both ways"
    assert links
    hears = {p: {p} | {q for q in peers if q != p and (q, p) not in set(links)} for p in peers}
    assert any(len(heard) > n // 2 for heard in hears.values())
    if kind == "majorities-ring" and n > 3:
        assert all(len(heard) > n // 2 for heard in hears.values())
        assert len({frozenset(heard) for heard in hears.values()}) == n


def test_a_swizzle_ends_with_all_links_whole(hosts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chaos.faults.network.SWIZZLE_S", 0.02)
    active = inject(hosts, "partition:swizzle")
    active._thread.join(10 * SCALE)
    active.heal()
    hosts.settles(set())


def test_who_is_unplugged_has_no_carrier(hosts: Any) -> None:
    active = inject(hosts, "unplug:c")
    assert active.proof() is not None
    hosts.settles({link for link in permutations(HOSTS, 2) if "c" in link})
    active.heal()
    hosts.settles(set())


def test_arp_alone_can_be_taken(hosts: Any) -> None:
    active = take_away(hosts.network, "without_arp", ["c"])
    hosts.settles(set())
    assert active.proof() is None
    with hosts.network.inside("a"):
        subprocess.run(["ip", "neigh", "flush", "all"], check=True)
    hosts.settles({("a", "c")})
    active.heal()
    assert "c:" in str(active.proof())


@pytest.mark.parametrize("text", ["partition:one", "partition:halves"])
def test_a_will_heals_what_a_harness_left_behind(hosts: Any, text: str) -> None:
    active = inject(hosts, text)
    for command in active.will:
        subprocess.run(command, check=True)
    hosts.settles(set())
    active.heal()


def test_a_target_without_hosts_has_no_partitions(tmp_path: Path) -> None:
    class Loopback:
        name, abilities = "loopback", frozenset({"processes"})

    fault = FAULTS.of(parse("partition:halves"))
    target: Any = Loopback()
    assert fault.unavailable(target) == "the target loopback has no network"


def test_no_namespace_of_this_process_is_left(hosts: Any) -> None:
    mine = f"dask-ha-{os.getpid()}-"
    assert {path.name for path in Path("/run/netns").glob(f"{mine}*")} == {
        f"{mine}{host}" for host in (*HOSTS, "switch")
    }
