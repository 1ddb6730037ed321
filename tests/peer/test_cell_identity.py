"""Which cell, which disk, which term: what real daemons make of a peer's key in wrong hands."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Raw
from msgspec.structs import replace
from toy_cell import Connection, ToyCell, within

from ha_scheduler.peer.members import founding
from ha_scheduler.protocol import frames
from ha_scheduler.protocol.introduction import Refused
from ha_scheduler.protocol.peer import Gossip, PeerHello, RaftMessage
from ha_scheduler.raft.messages import MAX_TERM, Message, MessageKind
from ha_scheduler.raft.wire import message_to_wire
from ha_scheduler.security.authority import peer_files
from ha_scheduler.security.contexts import server_context

LAST = 2**63 - 1


class Thief:
    """Has the key of one peer, and what is told to every peer: its disk and the ids of all."""

    def __init__(self, cell: ToyCell, key_of: str) -> None:
        self._cell, self.name = cell, key_of
        known = founding.load(cell.data(key_of))
        assert known is not None
        self.disk, self.id = known.disk, known.peer_id
        self.ids = {name: cell.cell.peer_id(name) for name in cell.names}

    def hello(self, to: str, **other: Any) -> PeerHello:
        own = self._cell.cell.peer(self.name)
        fields = {"peer": self.id, "disk": self.disk, "name": self.name, "witness": False}
        fields |= {"host": own.host, "peer_port": own.peer_port, "dask_port": own.dask_port}
        said = {"to": to, "to_id": self.ids[to], "purpose": "control", "fresh": False}
        said |= {"promise_ms": self._promise_ms(), "own": list(fields.values())}
        own_fields = ("peer", "disk", "name", "host", "peer_port", "dask_port", "witness")
        fields |= {name: other.pop(name) for name in list(other) if name in own_fields}
        said["own"] = [fields[name] for name in own_fields]
        return msgspec.convert({**said, **other, "op": "peer-hello"}, PeerHello)

    def _promise_ms(self) -> int:
        timing = {"tick_ms": 50, "election_ticks": 12, **self._cell.given}
        return int(timing["tick_ms"] * timing["election_ticks"])

    def call(self, to: str, **other: Any) -> Connection:
        return self._cell.connect(to, "peer", self.hello(to, **other), as_peer=self.name)

    def tell(self, to: str, *messages: Message) -> Connection:
        stream = self.call(to)
        assert stream.answer["ok"], stream.answer
        for message in messages:
            stream.send(RaftMessage(Raw(message_to_wire(message))))
        return stream

    def lies(self, to: str, term: int) -> Iterator[Message]:
        """A message of each kind that may come on a stream."""
        plain = Message(MessageKind.HEARTBEAT, self.ids[to], self.id, term, tick=1, round=1)
        for kind in MessageKind:
            if kind is not MessageKind.SNAPSHOT:
                yield replace(plain, kind=kind)
        yield replace(plain, kind=MessageKind.VOTE, force=True, log_term=term, index=10**6)
        yield replace(plain, kind=MessageKind.PRE_VOTE_RESPONSE, reject=True)


def states(cell: ToyCell) -> dict[str, dict[str, Any]]:
    return {name: status for name in cell.daemons if (status := cell.status(name))}


def elects(cell: ToyCell) -> str:
    """A leader, and nobody is in a term that it should not be in."""
    leader = cell.settled()
    assert all(status["term"] < 1000 for status in states(cell).values())
    return leader


def test_a_stolen_key_and_a_huge_term_stop_no_cell_nor_its_restart(tmp_path: Path) -> None:
    with ToyCell(tmp_path) as cell:
        leader = elects(cell)
        thief = Thief(cell, leader)
        others = [name for name in cell.names if name != leader]
        before = states(cell)[leader]["term"]
        for to in others:
            for lie in thief.lies(to, MAX_TERM):
                thief.tell(to, lie).close()
            for lie in thief.lies(to, LAST):  # the core's bytes, whatever its types say
                stream = thief.tell(to)
                stream.send(RaftMessage(Raw(msgspec.msgpack.encode(lie))))
                with pytest.raises((EOFError, OSError)):
                    stream.receive()
        gossip = Gossip(True, 10**9, (MAX_TERM, leader, "tls://127.0.0.1:1"), (), ())
        for to in others:
            stream = thief.tell(to)
            for _ in range(20):
                stream.send(gossip)
        assert elects(cell) == leader
        assert states(cell)[leader]["term"] == before, "nobody was disturbed"
        assert cell.ask(leader, as_peer=leader, op="transfer", to=None)["ok"]
        led = elects(cell)
        assert all(s["leader"] == led and s["serving"] for s in states(cell).values())
        for name in cell.names:
            cell.kill(name)
        for name in cell.names:
            cell.start(name)
        elects(cell)


def test_a_disk_is_believed_to_be_that_of_its_peer_and_of_its_cell_alone(tmp_path: Path) -> None:
    with ToyCell(tmp_path) as cell:
        leader = elects(cell)
        ids = {status["cell_id"] for status in states(cell).values()}
        assert [len(cell_id) for cell_id in ids] == [32]
        one, other = (name for name in cell.names if name != leader)
        thief = Thief(cell, one)
        as_other = thief.call(leader, peer=thief.ids[other])
        assert f"is that of peer {other}" in as_other.answer["reason"]
        of_another = thief.call(leader, cell_id="0" * 32)
        assert "founded apart" in of_another.answer["reason"]
        disk = [thief.ids[other], 5, one, "127.0.0.1", 1, 2, False]
        taken = cell.ask(leader, as_peer=one, op="join", disk=disk, replacing=True)
        assert "is that of peer" in taken["reason"]
        assert elects(cell) == leader


def test_one_peer_cannot_send_another_out_of_the_cell(tmp_path: Path) -> None:
    """Its word that a disk is gone counts when most of the others say so."""
    with ToyCell(tmp_path) as cell:
        leader = elects(cell)
        one, other = (name for name in cell.names if name != leader)
        cell.kill(one)
        with refusing(cell, one):
            within(20, lambda: "refuses us" in cell.log(other), every=0.05)
            assert cell.status(other) is not None
            assert cell.daemons[other].poll() is None
        cell.start(one)
        elects(cell)


@contextmanager
def refusing(cell: ToyCell, name: str) -> Iterator[None]:
    """A process with the key of ``name``, on its port, that calls everybody's disk gone."""
    context = server_context(peer_files(cell.base / "certs", name))
    listener = socket.create_server(("127.0.0.1", cell.ports[name]))

    def serve() -> None:
        with suppress(OSError):
            while True:
                sock, _ = listener.accept()
                with suppress(OSError), context.wrap_socket(sock, server_side=True) as link:
                    link.recv(1 << 16)
                    link.sendall(frames.pack(Refused("this disk has left the cell", gone=True)))
                    link.recv(1 << 16)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def test_a_cell_founded_anew_is_another_one_and_the_old_disk_is_refused(tmp_path: Path) -> None:
    with ToyCell(tmp_path) as cell:
        elects(cell)
        first = states(cell)["a"]["cell_id"]
        for name in cell.names:
            cell.kill(name)
        for name in cell.names:
            cell.start(name)
        elects(cell)
        assert {s["cell_id"] for s in states(cell).values()} == {first}
        for name in cell.names:
            cell.kill(name)
        for name in ("b", "c"):
            cell.data(name).rename(tmp_path / f"old-{name}")
            cell.start(name)
        within(20, cell.leader, every=0.05)
        (second,) = {s["cell_id"] for s in states(cell).values()}
        assert second != first
        cell.start("a")
        within(20, lambda: f"of the cell {second}" in cell.log("a"), every=0.05)
        assert "founded apart" in cell.log("a")
        assert "--replace" in cell.log("a")
        assert states(cell)["a"]["cell_id"] == first
        assert states(cell)["b"]["cell_id"] == second
