"""Each fault on a whole cell: it is made, proves itself, is healed, and the cell is whole after it.

Slow, for there are two cells: ``make test PYTEST_ARGS="-m slow tests/chaos/test_cell_faults.py"``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

import pytest

from chaos.faults import clock
from chaos.faults.base import parse
from chaos.faults.registry import FAULTS
from chaos.record import CLIENTS
from chaos.targets.loopback import Loopback
from chaos.targets.namespaces import Namespaces
from chaos.wire.network import NoNamespaces, check_permitted
from tests.deadlines import SCALE

pytestmark = [pytest.mark.slow, pytest.mark.system, pytest.mark.timeout(240 * SCALE)]

WHOLE_S = 90 * SCALE
LASTS_S = 3.0
ANYWHERE = (
    *("kill:leader", "kill:leader:engine", "terminate:leader", "pause:leader:2s", "storm:2:b"),
    *("disk:slow-fsync:leader", "disk:eio-fsync:follower", "disk-full:follower", "power:follower"),
    *("damage:bitflip:follower", "damage:rot:follower", "damage:torn-tail:follower"),
    *("damage:truncate:follower", "damage:lost:follower", "failpoint:store.durable"),
    *("failpoint:store.arrived:500ms", "member:remove:follower", "member:replace:follower"),
    *("member:transfer", "member:remove:leader", "kill-worker:one", "kill-worker:all:nanny"),
    *("pause-worker:half", "visit:poison-task", "visit:poison-graph", "visit:unpicklable"),
    *("visit:giant:500", "kill-client:2000", "malformed", "trespass:no-token"),
    *("trespass:wrong-token", "trespass:expired-token", "trespass:revoked-token"),
    *("trespass:wrong-authority", "trespass:expired-certificate", "rotate-keys"),
    *("clock:forward:leader", "clock:back:leader", "clock:fast:follower", "clock:slow:leader"),
    *("clock:asleep:leader", "clock:halted:leader", "orphan:leader", "upgrade:mixed:follower"),
)
ON_HOSTS = (
    *("partition:one:leader", "partition:one-way-in:leader", "partition:one-way-out:leader"),
    *("partition:halves", "partition:majority", "partition:bridge", "partition:majorities-ring"),
    *("partition:client-side", "partition:worker-side", "partition:swizzle", "unplug:leader"),
    *("packets:delay:leader", "packets:loss:leader", "packets:all:follower"),
    *("packets:rate:follower", "packets:corrupt:leader", "reset:leader", "half-open:leader"),
    *("vip:steal", "vip:duplicate", "vip:lost-arp", "member:apart:follower"),
)
WITHOUT_TRAFFIC = ("partition:client-side", "partition:worker-side", "failpoint", "vip:lost-arp")


#: Work for the faults to disturb.
TRAFFIC = """
import sys, time, client_replay
with client_replay.Client(sys.argv[1], timeout="120s") as client:
    while True:
        try:
            client.submit(time.sleep, 0.01, pure=False).result(60)
        except Exception:
            time.sleep(0.1)
"""


@contextmanager
def _work(target: Any) -> Iterator[Any]:
    log = target.root.parent / "traffic.log"
    client = target.spawn_client(["-c", TRAFFIC, target.address], log)
    try:
        yield target
    finally:
        client.kill()
        client.wait()
        client.stdin.close()


def _try(target: Any, text: str) -> None:
    call = parse(text)
    fault = FAULTS.of(call)
    if (why := fault.unavailable(target)) is not None:
        pytest.skip(why)
    active = fault.inject(target, call.arguments, Random(text))
    time.sleep(fault.lasts(call.arguments) or LASTS_S)
    proofs = [active.proof()]
    active.heal()
    proofs.append(active.proof())
    deadline = time.monotonic() + WHOLE_S
    while not target.ready():
        assert time.monotonic() < deadline, f"after {text} the cell is not whole"
        time.sleep(0.1)
    if not text.startswith(WITHOUT_TRAFFIC):
        assert any(proofs), f"{text} has not fired"
    trespassed = [proof for proof in proofs if proof and "trespass" in proof]
    assert all("refused" in proof and "key file" not in proof for proof in trespassed), proofs


@pytest.fixture(scope="module")
def loopback(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    directory = tmp_path_factory.mktemp("run")
    (directory / CLIENTS).mkdir()
    target = Loopback(directory / "cell")
    clock.prepare(target)
    target.start()
    with _work(target):
        yield target
    target.stop()


@pytest.fixture(scope="module")
def namespaces(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    try:
        check_permitted()
    except NoNamespaces as error:
        pytest.skip(f"no network namespaces: {error}")
    directory = tmp_path_factory.mktemp("run")
    (directory / CLIENTS).mkdir()
    target = Namespaces(directory / "cell", vip=True)
    target.start()
    with _work(target):
        yield target
    target.stop()


@pytest.mark.parametrize("text", ANYWHERE)
def test_a_fault_of_a_cell_on_loopback(loopback: Any, text: str) -> None:
    _try(loopback, text)


@pytest.mark.parametrize("text", ON_HOSTS)
def test_a_fault_of_a_cell_on_hosts(namespaces: Any, text: str) -> None:
    _try(namespaces, text)
