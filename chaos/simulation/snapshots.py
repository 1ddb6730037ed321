"""Streams of the ledger between peers, with the ends that ``peer.snapshots`` gives them.

Guarantee: as there. One stream from a peer to another at a time; a receiver takes one and refuses
others; what was damaged on the way is noticed and installed by nobody; the core gets its message
only after all of it has come; the sender is told that it is installed, or that the stream broke
off.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec.structs import replace

from chaos.simulation.checkers import SafetyViolationError
from ha_scheduler.ledger.dump import SnapshotDamagedError, check_chunk
from ha_scheduler.raft.messages import Message, SnapshotMeta
from ha_scheduler.storage.errors import CorruptData

if TYPE_CHECKING:
    from chaos.simulation.peer import Process
    from chaos.simulation.world import World

ABANDONED_S = 1.0  # after it a broken connection is noticed


class Stream:
    """One snapshot on its way."""

    def __init__(self, world: World, sender: Process, message: Message) -> None:
        self._world = world
        self._sender = sender
        self._message = message
        self._receiver: Process | None = None
        self._chunks: Sequence[bytes] = ()
        self._meta: SnapshotMeta | None = None
        self._handed = False  # to the receiver's core
        self._done = False

    def begin(self) -> None:
        """The sender dials, and opens a view of its store."""
        world, sender, to = self._world, self._sender, self._message.to
        receiver = world.peers[to].process if to in world.peers else None
        if receiver is None or receiver.incoming is not None or not self._connected:
            self._report(False)
            return
        try:
            with sender.store.view() as view:
                self._meta = view.meta
            self._chunks = world.checker.tables(sender)
        except CorruptData as error:
            sender.on_fatal(error)
            return
        self._receiver, receiver.incoming = receiver, self
        took_s = world.rng.expovariate(1.0) * world.options.snapshot_s
        world.timeline.after(took_s, receiver.run, self._end)
        world.timeline.after(took_s + 30.0, self.broken)

    def broken(self) -> None:
        """The connection is gone, or too slow."""
        if not self._done and not (self._handed and self._receiver and self._receiver.alive):
            self._world.timeline.after(ABANDONED_S, self._report, False)
            self._release()

    def chunks_of(self, meta: SnapshotMeta) -> Sequence[bytes]:
        """What was received under ``meta``."""
        assert meta == self._meta, (meta, self._meta)
        return self._chunks

    def installed(self, meta: SnapshotMeta) -> None:
        """The receiver's store holds it; the answer that says so may be lost."""
        if meta == self._meta:
            self._release()
            world = self._world
            lost = not world.network.calm and world.rng.random() < world.options.snapshot_loss / 2
            self._report(not lost)

    @property
    def _connected(self) -> bool:
        return self._world.network.open(self._message.source, self._message.to)

    def _end(self) -> None:
        """Everything is there, or was damaged or lost on the way."""
        world, receiver = self._world, self._receiver
        assert receiver is not None
        if self._done or receiver.incoming is not self:
            return
        lost = not world.network.calm and world.rng.random() < world.options.snapshot_loss
        if lost or not self._connected or not self._sender.alive or self._damaged():
            if world.rng.random() < 0.5 and self._sender.alive:  # it goes on where it broke off
                world.timeline.after(world.options.snapshot_s, receiver.run, self._end)
            else:
                self.broken()
            return
        self._handed = True
        receiver.receive(replace(self._message, snapshot=self._meta))
        if not receiver.alive or receiver.node.first_index <= receiver.store.first_index():
            self._release()
            self._report(receiver.alive)

    def _damaged(self) -> bool:
        """A bit flips now and then, and the check sums must tell."""
        rng = self._world.rng
        if rng.random() > 0.03:
            return False
        number = rng.randrange(len(self._chunks))
        chunk = bytearray(self._chunks[number])
        chunk[rng.randrange(len(chunk))] ^= 1 << rng.randrange(8)
        try:
            check_chunk(bytes(chunk), number)
        except SnapshotDamagedError:
            return True
        raise SafetyViolationError("a damaged chunk of a snapshot passed its check")

    def _release(self) -> None:
        if self._receiver is not None and self._receiver.incoming is self:
            self._receiver.incoming = None

    def _report(self, ok: bool) -> None:
        if not self._done:
            self._done = True
            self._sender.streams.discard(self._message.to)
            self._sender.run(self._sender.driver.report_snapshot, self._message.to, ok)


class Streams:
    """What ``SnapshotSender`` is to a daemon."""

    def __init__(self, world: World) -> None:
        self._world = world

    def send(self, sender: Process, message: Message) -> None:
        """The core wants a snapshot sent."""
        if message.to not in sender.streams:
            sender.streams.add(message.to)
            stream = Stream(self._world, sender, message)
            delay_s = self._world.options.delay_s
            self._world.timeline.after(delay_s, sender.run, stream.begin)
