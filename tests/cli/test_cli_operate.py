"""``init``, ``status``, ``history`` and ``transfer`` against peers that answer as real ones do.

Method: a stand-in for the peer port speaks its protocol over mutual TLS on loopback: introduction,
answer, request, answer. So the client's side is tested down to its bytes without starting a daemon.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from ha_scheduler.cell.peers import Cell
from ha_scheduler.cli.control import ControlClient
from ha_scheduler.cli.main import main
from ha_scheduler.errors import ControlError
from ha_scheduler.protocol import frames
from ha_scheduler.protocol.control import (
    REQUESTS,
    Declined,
    EngineStatus,
    History,
    HistoryRequest,
    Member,
    RemoveRequest,
    Request,
    Status,
    StatusRequest,
    Taken,
    Transferred,
    TransferRequest,
)
from ha_scheduler.protocol.introduction import Kind, Refused, accept, introduced
from ha_scheduler.protocol.peer import Failover, PeerAddress
from ha_scheduler.security.authority import client_files, create_authority, peer_files
from ha_scheduler.security.checks import check_files
from ha_scheduler.security.contexts import server_context
from ha_scheduler.security.tls import Role, role_of

LENGTH = struct.Struct(">I")
Answer = Callable[[Request], Any]


def send(link: socket.socket, value: Any) -> None:
    link.sendall(frames.pack(value))


def receive(link: socket.socket) -> Any:
    def exactly(size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = link.recv(size - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    return exactly(int.from_bytes(exactly(4), "big"))


def status(name: str, role: str, term: int, leader: str, **more: Any) -> Status:
    """What such a peer says of itself."""
    engine = EngineStatus("active" if role == "leader" else "hot", 1, "", 9, 0.0)
    usual = {
        "cell": "",
        "witness": False,
        "serving": role == "leader",
        "address": "",
        "peers": (),
        "commit": 9,
        "applied": 8,
        "first_index": 1,
        "last_index": 9,
        "lease_s": 0.0,
        "members": (),
        "change": "",
        "watchers": 0,
        "tick_gap_s_max": 0.0,
        "leader_gap_s_max": 0.0,
        "history_tail": (),
    }
    return Status(
        name=name, role=role, term=term, leader=leader, engine=engine, **{**usual, **more}
    )


def member(name: str, role: str = "voter", lag: int = 0, *, leaving: bool = False) -> Member:
    return Member(1, name, role, leaving, 9, lag, True, True, 8, 0.0)


class StandIn:
    """A peer port that answers each request with ``answer(request)``; bytes are sent as is."""

    def __init__(self, name: str, identity: Callable[[], str]) -> None:
        self.name = name
        self.context: ssl.SSLContext | None = None
        self.answer: Answer = lambda request: Declined("no answer was set")
        self.seen: list[tuple[str, Request]] = []
        self._identity = identity
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                link, _ = self._socket.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(link,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, plain: socket.socket) -> None:
        plain.settimeout(10)
        with plain, contextlib.suppress(OSError, EOFError):
            link: socket.socket = plain
            role = "plain"
            if self.context is not None:
                link = self.context.wrap_socket(plain, server_side=True)
                role = role_of(link)  # type: ignore[arg-type]
            with link:
                caller = introduced(receive(link))
                assert caller.kind == Kind.CONTROL
                if caller.cell != self._identity():
                    send(link, Refused("this peer belongs to another cell"))
                    return
                send(link, accept())
                request = REQUESTS.decode(receive(link))
                self.seen.append((role, request))
                answer = self.answer(request)
                if isinstance(answer, bytes):
                    link.sendall(answer)
                elif answer is not None:
                    send(link, answer)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for thread in self._threads:
            thread.join(10)


class StandInCell:
    """Three peers on loopback with certificates in ``directory``."""

    def __init__(self, directory: Path) -> None:
        self.peers = {name: StandIn(name, lambda: self.cell.identity) for name in "abc"}
        self.cell = Cell(
            tuple(PeerAddress(p.name, "127.0.0.1", p.port, i + 1) for i, p in enumerate(self))
        )
        self.directory = directory
        create_authority(directory, self.cell)
        for peer in self:
            peer.context = server_context(peer_files(directory, peer.name))

    def __iter__(self) -> Iterator[StandIn]:
        return iter(self.peers.values())

    def lead(self, leader: str, term: int) -> None:
        """``leader`` says that it leads; transfers go through."""
        for peer in self:
            peer.answer = lambda request, name=peer.name: self._answer(request, name, leader, term)

    def _answer(self, request: Request, name: str, leader: str, term: int) -> Any:
        match request:
            case StatusRequest():
                role = "leader" if name == leader else "follower"
                peers, cell = self.cell.peers, self.cell.identity
                return status(name, role, term, leader, peers=peers, cell=cell)
            case HistoryRequest():
                phases = {"elected": 0.25, "detected": 0.0}
                return History((Failover(term, leader, 0.0, phases, {}),))
            case TransferRequest(to):
                return Transferred(to or "b", term + 1)
        return Declined("no such request")

    def today(self, **more: Any) -> Status:
        """What peer a, which leads, says in a cell whose peer b has left, or is not there yet."""
        left = tuple(peer for peer in self.cell.peers if peer.name != "b")
        usual = {"cell": self.cell.identity, "peers": left}
        usual["members"] = tuple(member(peer.name) for peer in left)
        return status("a", "leader", 4, "a", **{**usual, **more})

    def run(self, command: str, *arguments: str, peers: str = "") -> Result:
        peers = peers or self.cell.text
        tls = ["--tls-dir", str(self.directory), "--timeout", "5"]
        return CliRunner().invoke(main, [*command.split(), "--peers", peers, *tls, *arguments])


@pytest.fixture
def standin(tmp_path: Path) -> Iterator[StandInCell]:
    cell = StandInCell(tmp_path / "tls")
    try:
        yield cell
    finally:
        for peer in cell:
            with contextlib.suppress(OSError):
                peer.close()


def test_status_as_json(standin: StandInCell) -> None:
    standin.lead("b", 4)
    result = standin.run("status", "--format", "json")
    assert result.exit_code == 0, result.stderr
    answer = json.loads(result.stdout)
    assert answer["cell"] == standin.cell.identity
    assert answer["leader"] == "b"
    assert [(p["name"], p["role"], p["term"]) for p in answer["peers"]] == [
        ("a", "follower", 4),
        ("b", "leader", 4),
        ("c", "follower", 4),
    ]


def test_status_as_a_table_names_an_unreachable_peer(standin: StandInCell) -> None:
    standin.lead("b", 4)
    standin.peers["c"].close()
    result = standin.run("status")
    assert result.exit_code == 0
    rows = [line.split() for line in result.stdout.splitlines()]
    assert any({"b", "leader", "4", "9/8", "active"} <= set(row) for row in rows)
    assert any({"c", "unreachable"} <= set(row) for row in rows)
    assert "Peer c (127.0.0.1:" in result.stderr
    assert "cannot be reached: Connection refused" in result.stderr


def test_status_shows_what_the_leader_knows_of_members_and_of_a_change(
    standin: StandInCell,
) -> None:
    members = (member("a"), member("c", lag=7, leaving=True), member("c", "learner", 400))
    change = "peer c catches up; it is 400 entries behind"
    standin.peers["a"].answer = lambda request: standin.today(members=members, change=change)
    standin.peers["c"].close()
    result = standin.run("status")
    assert "voter, leaving, 7 behind; learner, 400 behind" in result.stdout
    assert "A change is under way: peer c catches up; it is 400 entries behind." in result.stdout


def test_status_says_what_a_kernel_cannot_keep_an_engine_from(standin: StandInCell) -> None:
    standin.lead("b", 4)
    assert "isolated" not in standin.run("status").stdout
    less = EngineStatus("hot", 1, "", 9, 0.0, isolation="without signals")
    full = msgspec.structs.replace(less, isolation="full")
    for name, engine in (("a", less), ("c", full)):
        said = status(name, "follower", 4, "b", peers=standin.cell.peers)
        answer = msgspec.structs.replace(said, engine=engine)
        standin.peers[name].answer = lambda request, said=answer: said
    lines = standin.run("status").stdout.splitlines()
    assert [line for line in lines if "isolated" in line] == [
        "The engine of a is isolated without signals; see the log of its peer."
    ]
    peers = json.loads(standin.run("status", "--format", "json").stdout)["peers"]
    assert [p["engine"]["isolation"] for p in peers] == ["without signals", "", "full"]


def test_while_no_engine_is_ready_the_status_names_the_nearest(standin: StandInCell) -> None:
    away = [
        msgspec.structs.replace(member(name), engine_ready=False, replayed=read)
        for name, read in (("a", 2), ("c", 6))
    ]
    leads = status("a", "leader", 4, "a", peers=standin.cell.peers, members=(*away,), heir="c")
    standin.peers["a"].answer = lambda request: leads
    said = "No engine is ready to lead next. The nearest is that of c, which has 3 entries of the"
    assert said in standin.run("status").stdout
    ready = tuple(msgspec.structs.replace(m, engine_ready=True) for m in away)
    leads = msgspec.structs.replace(leads, members=ready)
    assert "nearest" not in standin.run("status").stdout


def test_an_old_list_leads_to_the_peers_of_today(standin: StandInCell) -> None:
    standin.peers["a"].answer = lambda request: standin.today()
    standin.peers["c"].answer = lambda request: msgspec.structs.replace(standin.today(), name="c")
    # The founders were a, b and c, and b has left; it is not even asked in the end.
    answer = json.loads(standin.run("status", "--format", "json").stdout)
    assert [peer["name"] for peer in answer["peers"]] == ["a", "c"]


def test_remove_asks_the_leader_and_waits_until_the_peer_is_no_member(standin: StandInCell) -> None:
    full = standin.today(members=tuple(map(member, "abc")), peers=standin.cell.peers)
    asked: list[str] = []

    def answer(request: Request) -> Any:
        if isinstance(request, RemoveRequest):
            asked.append(request.peer)
            return Taken()
        return standin.today() if asked else full

    standin.peers["a"].answer = answer
    result = standin.run("members remove", "b")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == "b was removed; the cell is a, c.\n"
    assert asked == ["b"]
    assert standin.peers["a"].seen[-1][0] == "peer", "it showed a peer's certificate"


def test_a_refused_removal_says_why(standin: StandInCell) -> None:
    refusal = Declined("there is no peer z in the cell")
    standin.peers["a"].answer = lambda r: (
        standin.today() if isinstance(r, StatusRequest) else refusal
    )
    result = standin.run("members remove", "z")
    assert result.exit_code == 1
    assert "refused: there is no peer z in the cell" in result.stderr


def test_status_of_a_cell_without_a_leader_fails(standin: StandInCell) -> None:
    standin.lead("nobody", 4)
    assert standin.run("status").exit_code == 1


def test_status_believes_the_leader_of_the_newest_term(standin: StandInCell) -> None:
    standin.lead("a", 5)
    old = status("c", "leader", 4, "c", commit=8)
    standin.peers["c"].answer = lambda request: old
    answer = json.loads(standin.run("status", "--format", "json").stdout)
    assert answer["leader"] == "a"


def test_history_merges_what_the_peers_know(standin: StandInCell) -> None:
    standin.lead("a", 5)
    older = Failover(3, "c", 0.0, {"detected": 0.0}, {})
    fuller = Failover(5, "a", 0.0, {"detected": 0.0, "elected": 0.25, "serving": 0.5}, {})
    usual = standin.peers["c"].answer
    standin.peers["c"].answer = lambda request: (
        History((older, fuller)) if isinstance(request, HistoryRequest) else usual(request)
    )
    standin.peers["b"].close()
    result = standin.run("history", "--format", "json")
    assert result.exit_code == 0
    assert [(e["term"], len(e["phases"])) for e in json.loads(result.stdout)] == [(3, 1), (5, 3)]
    table = standin.run("history").stdout
    assert table.index("detected") < table.index("elected") < table.index("0.500  serving")


def test_history_that_is_empty_says_so(standin: StandInCell) -> None:
    for peer in standin:
        peer.answer = lambda request: (
            History(()) if isinstance(request, HistoryRequest) else standin.today()
        )
    result = standin.run("history")
    assert (result.exit_code, result.stdout) == (0, "No change of leader is known.\n")


def test_transfer_asks_the_leader_with_a_peers_certificate(standin: StandInCell) -> None:
    standin.lead("a", 5)
    result = standin.run("transfer", "--to", "c")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("c leads in term 6, after ")
    assert standin.peers["a"].seen[-1] == ("peer", TransferRequest("c"))
    assert [request for _, request in standin.peers["c"].seen] == [StatusRequest()]


def test_transfer_to_any_other_peer(standin: StandInCell) -> None:
    standin.lead("a", 5)
    assert standin.run("transfer").stdout.startswith("b leads in term 6")


def test_transfer_to_the_leader_changes_nothing(standin: StandInCell) -> None:
    standin.lead("a", 5)
    result = standin.run("transfer", "--to", "a")
    assert (result.exit_code, result.stdout) == (0, "a leads already.\n")
    assert [request for _, request in standin.peers["a"].seen] == [StatusRequest()]


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (Declined("peer c is behind"), "refused: peer c is behind."),
        (Declined("peer c is behind."), "refused: peer c is behind."),
        (Transferred("b", 6), "Leadership went to b in term 6, not to c."),
    ],
)
def test_a_transfer_that_failed_exits_with_1(
    answer: Declined | Transferred, sentence: str, standin: StandInCell
) -> None:
    standin.lead("a", 5)
    usual = standin.peers["a"].answer
    standin.peers["a"].answer = lambda r: answer if isinstance(r, TransferRequest) else usual(r)
    result = standin.run("transfer", "--to", "c")
    assert result.exit_code == 1
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_transfer_without_a_leader_or_without_peers_fails(standin: StandInCell) -> None:
    standin.lead("nobody", 5)
    assert "no peer leads at the moment" in standin.run("transfer").stderr
    for peer in standin:
        peer.close()
    for command in ("transfer", "history"):
        result = standin.run(command)
        assert result.exit_code == 1
        assert "one of the peers answered" in result.stderr
        assert result.stderr.count("\n") == 1


def client(standin: StandInCell, timeout_s: float = 5.0) -> ControlClient:
    return ControlClient(standin.cell, client_files(standin.directory), timeout_s)


def test_a_clients_certificate_is_enough_to_ask(standin: StandInCell) -> None:
    standin.lead("a", 1)
    assert client(standin).status("a").role == "leader"
    assert standin.peers["a"].seen[-1][0] == "client"


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (b"", "closed the connection without an answer"),
        (b"\x00\x00", "closed the connection without an answer"),
        (LENGTH.pack(2**31), "a frame of 2147483648 bytes"),
        (LENGTH.pack(1) + b"\xc1", "sent what is no answer"),
        (LENGTH.pack(1) + b"\x01", "sent what is no answer"),
        ({"op": "status-answer"}, "missing required field"),
        ({"op": "of-tomorrow"}, "there is no message 'of-tomorrow' here"),
        (Taken(), "answered with Taken, not Status"),
    ],
)
def test_an_answer_that_is_none_is_a_control_error(
    answer: Any, sentence: str, standin: StandInCell
) -> None:
    standin.peers["a"].answer = lambda request: answer
    with pytest.raises(ControlError, match=sentence):
        client(standin).status("a")


def test_a_peer_that_does_not_answer_is_given_up_in_time(standin: StandInCell) -> None:
    release = threading.Event()
    standin.peers["a"].answer = lambda request: release.wait(10) and None
    started = time.monotonic()
    with pytest.raises(ControlError, match=r"did not answer within 0\.2 s"):
        client(standin, 0.2).status("a")
    assert time.monotonic() - started < 2.0
    release.set()


def test_a_peer_of_another_name_at_the_address_is_not_asked(standin: StandInCell) -> None:
    standin.lead("a", 1)
    standin.peers["a"].context = server_context(peer_files(standin.directory, "b"))
    with pytest.raises(ControlError, match="certificate there is for peer b"):
        client(standin).status("a")
    standin.peers["a"].context = server_context(client_files(standin.directory))
    with pytest.raises(ControlError, match="certificate there is for client client"):
        client(standin).status("a")
    assert standin.peers["a"].seen == []


def test_a_peer_of_another_authority_is_not_asked(standin: StandInCell, tmp_path: Path) -> None:
    create_authority(tmp_path / "foreign", standin.cell)
    standin.peers["a"].context = server_context(peer_files(tmp_path / "foreign", "a"))
    with pytest.raises(ControlError, match=r"refused the TLS connection .CERTIFICATE_VERIFY"):
        client(standin).status("a")


def test_a_peer_of_another_cell_refuses(standin: StandInCell) -> None:
    one = Cell((standin.cell.peer("a"),))
    asking = ControlClient(one, client_files(standin.directory), 5.0)
    with pytest.raises(ControlError, match="refused: this peer belongs to another cell"):
        asking.status("a")


def test_plaintext_when_the_cell_uses_it(standin: StandInCell) -> None:
    standin.lead("a", 1)
    standin.peers["a"].context = None
    assert ControlClient(standin.cell, None).status("a").term == 1


def test_init_makes_certificates_and_says_what_to_copy_where(tmp_path: Path) -> None:
    directory = tmp_path / "tls"
    arguments = ["init", "--peers", "a=10.0.0.1,b=10.0.0.2,c=n3", "--dir", str(directory)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.stderr
    assert (
        "  a (10.0.0.1): ca.pem issuing-ca.pem issuing-ca-key.pem "
        "peer-a.pem peer-a-key.pem engine-a.pem engine-a-key.pem\n" in result.stdout
    )
    assert "  ca.pem client.pem client-key.pem dask.yaml\n" in result.stdout
    assert f"export DASK_CONFIG={directory}/dask.yaml\n" in result.stdout
    assert "dask worker ha://10.0.0.1:8786,10.0.0.2:8786,n3:8786\n" in result.stdout
    assert "Keep peers-ca-key.pem offline" in result.stdout
    check_files(peer_files(directory, "b"), role=Role.PEER, name="b")

    before = {path: path.read_bytes() for path in directory.iterdir()}
    again = CliRunner().invoke(main, arguments)
    assert again.exit_code == 2
    assert "never overwritten; add --reissue" in again.stderr
    assert {path: path.read_bytes() for path in directory.iterdir()} == before

    renewed = CliRunner().invoke(main, [*arguments, "--reissue"])
    assert renewed.exit_code == 0
    assert "Renewed the certificates of 3 peers" in renewed.stdout
    assert (directory / "ca.pem").read_bytes() == before[directory / "ca.pem"]
    assert (directory / "peer-a.pem").read_bytes() != before[directory / "peer-a.pem"]
