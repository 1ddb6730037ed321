"""What the consensus core costs by itself: ``python -m benchmarks.raft_core``.

Three nodes in one thread, storage in memory, a leader that always has proposals: so one core of
the machine does the work of three peers, and nothing waits for a disk or a network. ``objects``
hands messages over as they are, ``wire`` packs and unpacks each as the peer links do. The seconds
are of the processor, so that other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import random
import time
from collections import deque

from ha_scheduler.raft.config import Config
from ha_scheduler.raft.messages import Membership, Message
from ha_scheduler.raft.node import RawNode
from ha_scheduler.raft.ready import Ready
from ha_scheduler.raft.wire import message_from_wire, message_to_wire
from tests.twins.log import MemoryLog

SECONDS = 3.0
BATCHES = ((200, 1), (200, 16), (200, 256), (10_000, 16))  # bytes of an entry, entries at once
KEPT = 5_000  # applied entries before the log is compacted, as a daemon does
TICKS = {
    "election_ticks": 12,
    "heartbeat_ticks": 2,
    "promotion_lag_ticks": 12,
    "disk_patience_ticks": 60,
}
WINDOW = 4  # batches proposed and not committed


class Trio:
    """Three nodes and a perfect network."""

    def __init__(self, *, wire: bool) -> None:
        members = Membership((1, 2, 3))
        self.logs = {peer: MemoryLog(members) for peer in members.voters}
        self.nodes = {
            peer: RawNode(Config(peer, **TICKS), log, random.Random(peer))
            for peer, log in self.logs.items()
        }
        self.wire = wire
        self.queue: deque[Message | bytes] = deque()
        self.nodes[1].campaign()
        self.settle()
        assert self.nodes[1].leader == 1

    def settle(self) -> None:
        """Until nothing is left to do."""
        busy = True
        while busy:
            busy = False
            for peer, node in self.nodes.items():
                while node.has_ready():
                    busy = True
                    self._carry_out(peer, node, node.ready())
            while self.queue:
                busy = True
                self._deliver(self.queue.popleft())

    def _deliver(self, item: Message | bytes) -> None:
        if isinstance(item, bytes):
            item = message_from_wire(item)
        self.nodes[item.to].step(item)

    def _send(self, messages: tuple[Message, ...]) -> None:
        for message in messages:
            self.queue.append(message_to_wire(message) if self.wire else message)

    def _carry_out(self, peer: int, node: RawNode, ready: Ready) -> None:
        log = self.logs[peer]
        self._send(ready.messages)
        if ready.hard_state is not None:
            log.set_hard_state(ready.hard_state)
        if ready.entries:
            log.append(ready.entries)
        node.persisted(ready.number)
        self._send(ready.messages_after_persist)
        if ready.committed:
            index = ready.committed[-1].index
            log.record_applied(index, node.membership)
            node.applied_to(index)
            if index - log.first_index() > KEPT:
                log.compact(index - KEPT // 2)


def entries_per_second(size: int, batch: int, *, wire: bool, seconds: float) -> float:
    """Committed by all three, with ``WINDOW`` batches under way."""
    trio = Trio(wire=wire)
    leader, data, done = trio.nodes[1], [b"x" * size] * batch, 0
    started = time.process_time()
    while time.process_time() - started < seconds:
        for _ in range(WINDOW):
            leader.propose_batch(data)
        trio.settle()
        done += WINDOW * batch
    took = time.process_time() - started
    assert trio.nodes[3].commit >= done - WINDOW * batch
    return done / took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="per figure")
    parser.add_argument("--profile", action="store_true", help="where the time goes, at batch 1")
    options = parser.parse_args()
    if options.profile:
        profiler = cProfile.Profile()
        profiler.runcall(entries_per_second, 200, 1, wire=False, seconds=options.seconds)
        pstats.Stats(profiler).sort_stats("tottime").print_stats(30)
        return
    for size, batch in BATCHES:
        objects = entries_per_second(size, batch, wire=False, seconds=options.seconds)
        wire = entries_per_second(size, batch, wire=True, seconds=options.seconds)
        print(f"{size:6} B x {batch:3}: objects {objects:9,.0f}/s, wire {wire:9,.0f}/s")


if __name__ == "__main__":
    main()
