"""A wire that spoils packets: ``python -m chaos.wire.spoil NEAR FAR SEED``, within the switch.

It makes two network interfaces (TAP) and carries every frame from one to the other, as the rules
say: late, irregularly late, not at all, twice, after the one behind it, with a bit flipped, or no
faster than a rate. Kernels without netem can do it no other way.

Each line of its input is a set of rules (``Rules`` as JSON), in force from then on; each is
answered with how many frames were carried and spoiled so far. It ends with its input, and its
interfaces with it.

``Spoiler`` is pure: a frame and the time in, frames and when they are due out.
"""

from __future__ import annotations

import fcntl
import heapq
import json
import os
import select
import struct
import sys
import time
from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import Annotated

import msgspec
from msgspec import Meta

FRAME_BYTES_MAX = 65_536
QUEUE_MAX = 10_000  # frames that wait; beyond it they are lost, as at any switch
REORDERED_S = 0.005  # by which the frame behind overtakes
ETHERNET_BYTES = 14  # addresses and type, which stay whole: the frame arrives

_TUNSETIFF = 0x400454CA  # linux/if_tun.h
_IFF_TAP, _IFF_NO_PI = 0x0002, 0x1000

Share = Annotated[float, Meta(ge=0, le=1)]


class Rules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What happens to frames, each way. Seconds, shares of all frames, and bytes per second."""

    delay_s: float = 0.0
    jitter_s: float = 0.0  # more or less
    loss: Share = 0.0
    duplicate: Share = 0.0
    reorder: Share = 0.0
    corrupt: Share = 0.0
    rate: float = 0.0  # no limit


class Spoiler:
    """One direction."""

    def __init__(self, random: Random) -> None:
        self.rules = Rules()
        self.counts: Counter[str] = Counter()
        self._random = random
        self._free_at = 0.0  # when the line has carried all that it was given

    def carry(self, frame: bytes, now: float) -> Iterator[tuple[float, bytes]]:
        """What arrives of the frame, and when."""
        rules = self.rules
        self.counts["carried"] += 1
        if self._happens("loss"):
            return
        due = now + max(0.0, rules.delay_s + self._random.uniform(-1, 1) * rules.jitter_s)
        if rules.delay_s or rules.jitter_s:
            self.counts["delayed"] += 1
        if rules.rate:
            self._free_at = max(self._free_at, now) + len(frame) / rules.rate
            due = max(due, self._free_at)
            self.counts["paced"] += 1
        if self._happens("reorder"):
            due += REORDERED_S
        if self._happens("corrupt"):
            frame = self._flipped(frame)
        yield due, frame
        if self._happens("duplicate"):
            yield due, frame

    def _happens(self, what: str) -> bool:
        happens: bool = self._random.random() < getattr(self.rules, what)
        self.counts[what] += happens
        return happens

    def _flipped(self, frame: bytes) -> bytes:
        changed = bytearray(frame)
        position = self._random.randrange(min(ETHERNET_BYTES, len(frame) - 1), len(frame))
        changed[position] ^= 1 << self._random.randrange(8)
        return bytes(changed)


class Wire:
    """Two interfaces, and what is under way between them."""

    def __init__(self, near: int, far: int, seed: str) -> None:
        self._ways = {
            near: (far, Spoiler(Random(f"{seed} out"))),
            far: (near, Spoiler(Random(f"{seed} in"))),
        }
        self._waiting: list[tuple[float, int, int, bytes]] = []
        self._number = 0  # frames that are due at once go in order

    def run(self, orders: int) -> None:
        """Until the end of ``orders``."""
        pending = b""
        while True:
            ready, _, _ = select.select([orders, *self._ways], [], [], self._until_due())
            for fd in ready:
                if fd != orders:
                    self._take(fd)
                    continue
                read = os.read(orders, FRAME_BYTES_MAX)
                if not read:
                    return
                *lines, pending = (pending + read).split(b"\n")
                for line in lines:
                    self._obey(line)
            self._deliver()

    def _obey(self, line: bytes) -> None:
        rules = msgspec.json.decode(line, type=Rules)
        total: Counter[str] = Counter()
        for _, spoiler in self._ways.values():
            spoiler.rules = rules
            total += spoiler.counts
        sys.stdout.write(json.dumps(total) + "\n")
        sys.stdout.flush()

    def _take(self, fd: int) -> None:
        target, spoiler = self._ways[fd]
        for due, frame in spoiler.carry(os.read(fd, FRAME_BYTES_MAX), time.monotonic()):
            if len(self._waiting) < QUEUE_MAX:
                self._number += 1
                heapq.heappush(self._waiting, (due, self._number, target, frame))

    def _until_due(self) -> float | None:
        return max(0.0, self._waiting[0][0] - time.monotonic()) if self._waiting else None

    def _deliver(self) -> None:
        while self._waiting and self._waiting[0][0] <= time.monotonic():
            _, _, target, frame = heapq.heappop(self._waiting)
            try:
                os.write(target, frame)
            except OSError:  # the interface is down: nobody is there to hear it
                continue


def _tap(name: str) -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH", name.encode(), _IFF_TAP | _IFF_NO_PI))
    return fd


def main() -> None:
    near, far, seed = sys.argv[1:]
    wire = Wire(_tap(near), _tap(far), seed)
    sys.stdout.write("{}\n")  # the interfaces are there
    sys.stdout.flush()
    wire.run(sys.stdin.fileno())


if __name__ == "__main__":
    main()
