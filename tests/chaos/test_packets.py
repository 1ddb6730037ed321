"""What a spoiling wire does to packets: as rules, and between real hosts."""

from __future__ import annotations

import socket
import subprocess
import time
from itertools import permutations
from random import Random
from typing import Any

import pytest

from chaos.faults.base import parse
from chaos.faults.registry import FAULTS
from chaos.wire.spoil import ETHERNET_BYTES, Rules, Spoiler
from tests.chaos.hosts import HOSTS
from tests.deadlines import SCALE

FRAME = bytes(range(100))


def carried(rules: Rules, frames: int = 2000) -> tuple[Spoiler, list[tuple[float, bytes]]]:
    spoiler = Spoiler(Random(1))
    spoiler.rules = rules
    return spoiler, [each for n in range(frames) for each in spoiler.carry(FRAME, float(n))]


def test_without_rules_every_frame_arrives_at_once_and_whole() -> None:
    _, arrived = carried(Rules(), 10)
    assert arrived == [(float(n), FRAME) for n in range(10)]


@pytest.mark.parametrize(("what", "factor"), [("loss", 0.7), ("duplicate", 1.3)])
def test_a_share_of_frames_is_lost_or_repeated(what: str, factor: float) -> None:
    spoiler, arrived = carried(Rules(**{what: 0.3}))  # type: ignore[arg-type]
    assert len(arrived) == pytest.approx(2000 * factor, rel=0.05)
    assert spoiler.counts[what] == abs(2000 - len(arrived))


def test_a_damaged_frame_has_one_bit_flipped_behind_its_addresses() -> None:
    spoiler, arrived = carried(Rules(corrupt=0.5))
    damaged = [frame for _, frame in arrived if frame != FRAME]
    assert len(damaged) == spoiler.counts["corrupt"] == pytest.approx(1000, rel=0.1)
    for frame in damaged:
        assert frame[:ETHERNET_BYTES] == FRAME[:ETHERNET_BYTES]
        assert sum((a ^ b).bit_count() for a, b in zip(frame, FRAME, strict=True)) == 1


def test_a_slow_line_carries_no_more_than_its_rate() -> None:
    spoiler = Spoiler(Random(1))
    spoiler.rules = Rules(rate=1000.0)
    arrived = [each for _ in range(50) for each in spoiler.carry(FRAME, 0.0)]
    assert arrived[-1][0] == pytest.approx(50 * len(FRAME) / 1000)


def test_the_frame_behind_overtakes() -> None:
    spoiler = Spoiler(Random(1))
    spoiler.rules = Rules(reorder=0.5)
    due = [when for n in range(100) for when, _ in spoiler.carry(FRAME, n / 1000)]
    assert due != sorted(due)


def test_jitter_stays_within_its_bounds() -> None:
    _, arrived = carried(Rules(delay_s=0.05, jitter_s=0.02))
    late = [when - n for n, (when, _) in enumerate(arrived)]
    assert 0.03 <= min(late) < 0.035
    assert 0.065 < max(late) <= 0.07


def inject(target: Any, text: str) -> Any:
    call = parse(text)
    return FAULTS.of(call).inject(target, call.arguments, Random(3))


def test_packets_of_a_host_are_late_until_the_heal(hosts: Any) -> None:
    active = inject(hosts, "packets:delay:a")
    began = time.monotonic()
    with hosts.network.inside("a"):
        sent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    got = hosts.receiver("b")
    got.settimeout(5 * SCALE)
    with sent:
        sent.sendto(b"late", (hosts.network.addresses["b"], got.getsockname()[1]))
        while got.recv(100) != b"late":
            pass
    assert time.monotonic() - began > 0.05
    assert "a:" in active.proof()
    active.heal()
    active.heal()
    assert "a:" in active.proof()
    hosts.settles(set())


def test_a_host_whose_wire_was_left_behind_is_connected_again_by_its_will(hosts: Any) -> None:
    active = inject(hosts, "packets:loss:50%:b")
    active.lines[0]._process.kill()  # as with its harness
    hosts.settles({link for link in permutations(HOSTS, 2) if "b" in link})
    for command in active.will:
        subprocess.run(command, check=True)
    hosts.settles(set())
    active.lines[0]._process.wait()
    active.lines[0]._process.stdin.close()
    active.lines[0]._process.stdout.close()
    active.healed = True


def test_a_cut_holds_for_a_host_behind_a_wire(hosts: Any) -> None:
    wire = inject(hosts, "packets:duplicate:10%:b")
    cut = inject(hosts, "partition:client-side:b")
    hosts.settles({("b", "client"), ("client", "b")})
    cut.heal()
    hosts.settles(set())
    assert "client→b" in cut.proof()
    wire.heal()


def talk(connection: socket.socket) -> None:
    connection.settimeout(5 * SCALE)
    connection.sendall(b"x")
    connection.recv(10)


def test_connections_of_a_host_are_reset_and_new_ones_work_after_the_heal(hosts: Any) -> None:
    with hosts.network.inside("b"):
        server = socket.create_server((hosts.network.addresses["b"], 0))

    def connect() -> socket.socket:
        with hosts.network.inside("a"):
            return socket.create_connection(server.getsockname(), timeout=5 * SCALE)

    with server, connect() as caller:
        answerer, _ = server.accept()
        active = inject(hosts, "reset:b")
        with answerer, pytest.raises(ConnectionError):
            talk(answerer)
        with pytest.raises(ConnectionError):
            talk(caller)
        with pytest.raises(ConnectionError):
            connect()
        active.heal()
        connect().close()
    assert "RST" in active.proof()
