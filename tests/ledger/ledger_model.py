"""A second, naive statement of what the records mean, and random but plausible histories.

The model keeps Python sets and knows nothing of rows, hashes or settling. ``rebuild`` alone could
not judge the fold: what both lose, neither would miss.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st
from msgspec.structs import replace

from ha_scheduler.ledger import encoding
from ha_scheduler.ledger import records as r
from ha_scheduler.ledger.calls import DROPPED, pack_payload, unpack_payload
from ha_scheduler.ledger.sessions import Answers
from ha_scheduler.ledger.tokens import FORGET_AFTER_S
from ha_scheduler.protocol.engine import Exposure

CLIENTS = ("alice", "bob", "queue-" + "x" * 600)
SESSIONS = ("", "s1", "s2")
IMPLIED = b"what the payload of the graph says its client wants"
KEYS = (*tuple(f"key-{n}".encode() for n in range(5)), b"long" * 300)
SPACES = ("plugins", "metadata")
NAMES = (b"one", b"two")
CONTENTS = (b"a" * 16, b"b" * 16, b"c" * 16)
LONG_ANSWER = 100_000  # times the few bytes of a payload: more than is kept in a row


@dataclass
class Model:
    """The ledger as sets and dicts."""

    term: tuple[int, str] = (0, "")
    parts: dict[tuple[int, int], dict[int, bytes]] = field(default_factory=dict)
    loose: set[tuple[int, int]] = field(default_factory=set)
    graphs: dict[int, r.GraphSubmitted] = field(default_factory=dict)
    wants: dict[tuple[int, str], dict[bytes, bool]] = field(default_factory=dict)
    forgotten: dict[int, set[bytes]] = field(default_factory=dict)
    errors: dict[tuple[int, bytes], bytes] = field(default_factory=dict)
    retried: set[tuple[int, bytes]] = field(default_factory=set)
    scattered: dict[bytes, set[str]] = field(default_factory=dict)
    clients: dict[str, str] = field(default_factory=dict)
    answers: dict[str, tuple[int, set[int]]] = field(default_factory=dict)
    values: dict[tuple[str, bytes], r.ValueSet] = field(default_factory=dict)
    peers: dict[int, r.PeerNamed] = field(default_factory=dict)
    cell: r.CellFounded | None = None
    keys: list[bytes] = field(default_factory=list)
    tokens: dict[bytes, r.TokenIssued] = field(default_factory=dict)
    revoked: dict[bytes, int] = field(default_factory=dict)
    maintenance: dict[str, r.MaintenanceSet] = field(default_factory=dict)
    calls: dict[str, dict[int, tuple[int, bytes]]] = field(default_factory=dict)
    subjects: dict[str, str] = field(default_factory=dict)  # of clients
    call_owners: dict[str, tuple[str, str]] = field(default_factory=dict)
    cases: dict[bytes, dict[int, tuple[str, bool]]] = field(default_factory=dict)

    def apply(self, record: Any) -> None:
        getattr(self, "on_" + type(record).__name__)(record)

    def answered(self, session: str, sequence: int) -> bool:
        floor, numbers = self.answers.get(session, (0, set()))
        return sequence > 0 and (sequence <= floor or sequence in numbers)

    def known(self, graph: int) -> bool:
        return graph == 0 or graph in self.graphs

    def answer(self, session: str, sequence: int) -> None:
        if session and sequence:
            floor, numbers = self.answers.get(session, (0, set()))
            self.answers[session] = (floor, numbers | {sequence})

    def on_TermStarted(self, rec: r.TermStarted) -> None:
        self.term = (rec.term, rec.leader)
        for blob in [b for b in self.loose if b[0] < rec.term]:
            self.loose.discard(blob)
            self.parts.pop(blob)

    def on_BlobPart(self, rec: r.BlobPart) -> None:
        self.parts.setdefault((rec.term, rec.blob), {})[rec.number] = rec.data
        self.loose.add((rec.term, rec.blob))

    def on_GraphSubmitted(self, rec: r.GraphSubmitted) -> None:
        if rec.blob_parts:
            self.loose.discard((rec.graph >> 32, rec.blob))
        self.graphs[rec.graph] = rec
        self.wants.setdefault((rec.graph, rec.client), {})[IMPLIED] = True
        self.on_Answered(r.Answered(rec.client, rec.session, (rec.sequence,)))

    def on_Answered(self, rec: r.Answered) -> None:
        """A client that left, or has another session by now, is not answered."""
        if self.clients.get(rec.client) == rec.session:
            for sequence in rec.sequences:
                self.answer(rec.session, sequence)

    def drop_graph(self, graph: int) -> None:
        rec = self.graphs.pop(graph)
        if rec.blob_parts:
            self.parts.pop((graph >> 32, rec.blob), None)
        self.wants = {k: v for k, v in self.wants.items() if k[0] != graph}
        self.errors = {k: v for k, v in self.errors.items() if k[0] != graph}
        self.retried = {k for k in self.retried if k[0] != graph}
        self.forgotten.pop(graph, None)

    def on_GraphsRetired(self, rec: r.GraphsRetired) -> None:
        for graph in rec.graphs:
            if graph in self.graphs:
                self.drop_graph(graph)

    def on_Desired(self, rec: r.Desired) -> None:
        if self.known(rec.graph):
            wanted = self.wants.setdefault((rec.graph, rec.client), {})
            wanted.update(dict.fromkeys(rec.keys, True))

    def on_Released(self, rec: r.Released) -> None:
        """Of a graph it counts without a desire, too: the graph's payload implies some."""
        wanted = self.wants.setdefault((rec.graph, rec.client), {})
        for key in rec.keys:
            if rec.graph == 0:
                wanted.pop(key, None)
            elif self.known(rec.graph):
                wanted[key] = False

    def on_Forgotten(self, rec: r.Forgotten) -> None:
        for key in rec.keys:
            self.errors.pop((rec.graph, key), None)
            self.retried.discard((rec.graph, key))
        if rec.graph in self.graphs:
            self.forgotten.setdefault(rec.graph, set()).update(rec.keys)

    def on_Erred(self, rec: r.Erred) -> None:
        if self.known(rec.graph):
            self.errors[rec.graph, rec.key] = rec.payload
            self.retried.discard((rec.graph, rec.key))

    def on_Retried(self, rec: r.Retried) -> None:
        for key in rec.keys:
            self.errors.pop((rec.graph, key), None)
            if rec.graph in self.graphs:
                self.retried.add((rec.graph, key))

    def on_Scattered(self, rec: r.Scattered) -> None:
        for key in rec.keys:
            self.scattered.setdefault(key, set()).add(rec.client)
        self.on_Desired(r.Desired(0, rec.client, rec.keys))

    def on_ScatteredForgotten(self, rec: r.ScatteredForgotten) -> None:
        for key in rec.keys:
            self.scattered.pop(key, None)
            for (graph, _), wanted in self.wants.items():
                if graph == 0:
                    wanted.pop(key, None)

    def on_ClientJoined(self, rec: r.ClientJoined) -> None:
        former = self.clients.get(rec.client, "")
        self.clients[rec.client] = rec.session
        self.subjects[rec.client] = rec.subject
        self.drop_unused(former)

    def drop_unused(self, session: str) -> None:
        if session and session not in self.clients.values():
            self.answers.pop(session, None)
            for owned in [each for each, of in self.call_owners.items() if of[0] == session]:
                self.end_calls(owned)

    def on_ClientLeft(self, rec: r.ClientLeft) -> None:
        session = self.clients.pop(rec.client, "")
        self.subjects.pop(rec.client, None)
        self.drop_unused(session)
        self.wants = {k: v for k, v in self.wants.items() if k[1] != rec.client}

    def on_SessionAdvanced(self, rec: r.SessionAdvanced) -> None:
        floor, numbers = self.answers.get(rec.session, (0, set()))
        self.answers[rec.session] = (max(floor, rec.floor), numbers)

    def on_SessionRestored(self, rec: r.SessionRestored) -> None:
        pairs = zip(rec.answered[::2], rec.answered[1::2], strict=True)
        numbers = {n for first, last in pairs for n in range(first, last + 1)}
        self.answers[rec.session] = (rec.floor, numbers)

    def drop_value(self, space: str, name: bytes) -> None:
        former = self.values.pop((space, name), None)
        if former is not None and former.blob_parts:
            self.parts.pop((former.term, former.blob), None)

    def on_ValueSet(self, rec: r.ValueSet) -> None:
        self.drop_value(rec.space, rec.name)
        if rec.blob_parts:
            self.loose.discard((rec.term, rec.blob))
        self.values[rec.space, rec.name] = rec

    def on_ValueDeleted(self, rec: r.ValueDeleted) -> None:
        self.drop_value(rec.space, rec.name)

    def on_PeerNamed(self, rec: r.PeerNamed) -> None:
        self.peers.pop(rec.peer, None)
        self.peers[rec.peer] = rec

    def on_CellFounded(self, rec: r.CellFounded) -> None:
        self.cell = self.cell or rec

    def on_SigningKeyAdded(self, rec: r.SigningKeyAdded) -> None:
        self.keys += [rec.key] * (rec.key not in self.keys)

    def on_SigningKeyRetired(self, rec: r.SigningKeyRetired) -> None:
        self.keys = [key for key in self.keys if key != rec.key]

    def on_TokenIssued(self, rec: r.TokenIssued) -> None:
        self.tokens[rec.token] = rec
        if rec.token in self.revoked:
            self.revoked[rec.token] = max(self.revoked[rec.token], rec.expires)

    def on_TokenRevoked(self, rec: r.TokenRevoked) -> None:
        issued = self.tokens.get(rec.token)
        self.revoked[rec.token] = max(rec.expires, issued.expires if issued else 0)
        self.revoked = {
            token: expires
            for token, expires in self.revoked.items()
            if rec.at <= expires + FORGET_AFTER_S
        }

    def on_MaintenanceSet(self, rec: r.MaintenanceSet) -> None:
        self.maintenance.pop(rec.peer, None)
        if rec.active:
            self.maintenance[rec.peer] = rec

    def on_Called(self, rec: r.Called) -> None:
        payload = rec.payload
        if rec.blob_parts:
            parts = self.parts.pop((rec.term, rec.blob))
            self.loose.discard((rec.term, rec.blob))
            payload = b"".join(parts[n] for n in sorted(parts))
        changes, answer = unpack_payload(payload)
        for change in changes:
            self.apply(encoding.decode(change))
        if rec.session in self.calls:
            self.calls[rec.session][rec.slot] = (rec.sequence, answer)

    def on_CallsOpened(self, rec: r.CallsOpened) -> None:
        self.calls.setdefault(rec.session, {})
        self.call_owners[rec.session] = rec.owner, rec.subject

    def on_CallsEnded(self, rec: r.CallsEnded) -> None:
        self.end_calls(rec.session)

    def end_calls(self, session: str) -> None:
        self.calls.pop(session, None)
        self.call_owners.pop(session, None)

    def on_AnswerDropped(self, rec: r.AnswerDropped) -> None:
        slots = self.calls.get(rec.session, {})
        if rec.slot in slots:
            slots[rec.slot] = (slots[rec.slot][0], DROPPED)

    def on_EngineEnded(self, rec: r.EngineEnded) -> None:
        for exposure in rec.open:
            deaths = self.cases.pop(exposure.content, {})
            deaths.setdefault(rec.id, (rec.cause, len(rec.open) == 1))
            kept = list(deaths)[-r.DEATHS_MAX :]
            self.cases[exposure.content] = {death: deaths[death] for death in kept}

    def on_CaseRestored(self, rec: r.CaseRestored) -> None:
        deaths = {death.id: (death.cause, death.alone) for death in rec.deaths}
        self.cases[rec.exposure.content] = deaths

    def on_CaseReleased(self, rec: r.CaseReleased) -> None:
        self.cases.pop(rec.content, None)

    def on_Restarted(self, rec: r.Restarted) -> None:
        for graph in list(self.graphs):
            self.drop_graph(graph)
        self.wants, self.errors, self.scattered, self.retried = {}, {}, {}, set()

    def meaning(self) -> dict[str, Any]:
        """What two ledgers must agree on, free of how each keeps it."""
        return {
            "term": self.term,
            "parts": self.parts,
            "loose": self.loose,
            "graphs": {
                graph: (rec.client, rec.payload, rec.blob, rec.blob_parts)
                for graph, rec in self.graphs.items()
            },
            "wants": {pair: keys for pair, keys in self.wants.items() if keys},
            "forgotten": {graph: keys for graph, keys in self.forgotten.items() if keys},
            "errors": self.errors,
            "retried": self.retried,
            "scattered": self.scattered,
            "clients": self.clients,
            "subjects": self.subjects,
            "answers": {name: _answers(*known) for name, known in self.answers.items()},
            "cell": self.cell,
            "keys": self.keys,
            "tokens": self.tokens,
            "maintenance": list(self.maintenance.values()),
            "revoked": self.revoked,
            "peers": list(self.peers.values()),  # the newest of one name counts: order matters
            "calls": self.calls,
            "call owners": self.call_owners,
            "cases": list(self.cases.items()),  # the oldest goes first: order matters
            "values": {
                at: (v.value, v.blob, v.blob_parts, v.term) for at, v in self.values.items()
            },
        }


def _answers(floor: int, numbers: set[int]) -> Answers:
    answers = Answers(floor)
    for number in sorted(numbers):
        answers = answers.record(number)
    return answers


def model_of(history: list[Any]) -> Model:
    model = Model()
    for record in history:
        model.apply(record)
    return model


def whole(history: list[Any]) -> Iterator[Any]:
    """The records as an engine applies them: a call's payload in one piece."""
    parts: dict[tuple[int, int], list[bytes]] = {}
    for record in history:
        if isinstance(record, r.BlobPart):
            parts.setdefault((record.term, record.blob), []).append(record.data)
        if isinstance(record, r.Called) and record.blob_parts:
            yield replace(record, payload=b"".join(parts.pop((record.term, record.blob))))
        else:
            yield record


_keys = st.lists(st.sampled_from(KEYS), min_size=1, max_size=4, unique=True).map(tuple)
_client = st.sampled_from(CLIENTS)
_session = st.sampled_from(SESSIONS)
_subject = st.sampled_from(["", "alice", "bob"])
_sequence = st.integers(0, 9)
_payload = st.binary(max_size=4)
_key = st.sampled_from((b"k" * 32, b"l" * 32))
_token = st.sampled_from((b"t" * 16, b"u" * 16))
_date = st.sampled_from((1, 2, FORGET_AFTER_S, 2 * FORGET_AFTER_S))


@st.composite
def histories(draw: st.DrawFn, max_size: int = 60) -> list[Any]:
    """Records that leaders might have written: ids are fresh, terms rise, blobs belong together."""
    writer = _Writer(draw)
    for _ in range(draw(st.integers(0, max_size))):
        writer.step()
    return writer.history


class _Writer:
    """One leader after another, each with its own numbers."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.history: list[Any] = []
        self.term = 0
        self.fresh = 0
        self.graphs: list[int] = []
        self.next_term()

    def next_term(self) -> None:
        self.term += 1
        self.history.append(r.TermStarted(self.term, f"peer-{self.term}"))

    def number(self) -> int:
        self.fresh += 1
        return self.fresh

    def blob(self) -> tuple[int, int]:
        """A new blob's id and its number of parts; it may stay without any."""
        count = self.draw(st.integers(0, 2))
        blob = self.number() if count else 0
        self.history.extend(r.BlobPart(self.term, blob, n, b"p%d" % n) for n in range(count))
        return blob, count

    def graph(self) -> int:
        return self.draw(st.sampled_from((0, *self.graphs[-4:])))

    def step(self) -> None:
        draw = self.draw
        kind = draw(st.sampled_from(KINDS))
        if kind is r.TermStarted:
            return self.next_term()
        if kind is r.BlobPart:
            return void(self.blob())
        if kind is r.GraphSubmitted:
            blob, count = self.blob()
            graph = (self.term << 32) | self.number()
            self.graphs.append(graph)
            data = b"" if count else draw(_payload)
            who = (draw(_client), draw(_session), draw(_sequence))
            return self.history.append(r.GraphSubmitted(graph, *who, data, blob, count))
        if kind is r.ValueSet:
            blob, count = self.blob()
            where = (draw(st.sampled_from(SPACES)), draw(st.sampled_from(NAMES)))
            data = b"" if count else draw(_payload)
            return self.history.append(r.ValueSet(*where, data, blob, count, self.term))
        if kind is r.Called:
            return self.history.append(self.called())
        return self.history.append(self.plain(kind))

    def called(self) -> r.Called:
        """A call with some changes; now and then its payload is long, and travels as parts."""
        draw = self.draw
        changes: list[Any] = []
        for _ in range(draw(st.integers(0, 2))):
            where = (draw(st.sampled_from(SPACES)), draw(st.sampled_from(NAMES)))
            if draw(st.booleans()):
                blob, count = self.blob()
                data = b"" if count else draw(_payload)
                changes.append(r.ValueSet(*where, data, blob, count, self.term))
            else:
                changes.append(r.ValueDeleted(*where))
        answer = draw(_payload) * draw(st.sampled_from((1, 1, LONG_ANSWER)))
        payload = pack_payload(tuple(map(encoding.encode, changes)), answer)
        who = (draw(_session), draw(st.integers(0, 2)), draw(_sequence))
        if not draw(st.booleans()):
            return r.Called(*who, payload, 0, 0, self.term)
        blob = self.number()
        halves = (payload[: len(payload) // 2], payload[len(payload) // 2 :])
        self.history.extend(r.BlobPart(self.term, blob, n, half) for n, half in enumerate(halves))
        return r.Called(*who, b"", blob, 2, self.term)

    def plain(self, kind: type[Any]) -> Any:
        draw = self.draw
        build: dict[type[Any], Any] = {
            r.GraphsRetired: lambda: (tuple({self.graph(), self.graph()}),),
            r.Desired: lambda: (self.graph(), draw(_client), draw(_keys)),
            r.Released: lambda: (self.graph(), draw(_client), draw(_keys)),
            r.Forgotten: lambda: (self.graph(), draw(_keys)),
            r.Erred: lambda: (self.graph(), draw(st.sampled_from(KEYS)), draw(_payload)),
            r.Retried: lambda: (self.graph(), draw(_keys)),
            r.Scattered: lambda: (draw(_client), draw(_keys)),
            r.ScatteredForgotten: lambda: (draw(_keys),),
            r.ClientJoined: lambda: (draw(_client), draw(_session), draw(_subject), b""),
            r.ClientLeft: lambda: (draw(_client),),
            r.SessionAdvanced: lambda: (draw(st.sampled_from(SESSIONS[1:])), draw(_sequence)),
            r.ValueDeleted: lambda: (draw(st.sampled_from(SPACES)), draw(st.sampled_from(NAMES))),
            r.CallsOpened: lambda: (
                draw(st.sampled_from(SESSIONS[1:])),
                draw(_session),
                draw(_subject),
            ),
            r.CallsEnded: lambda: (draw(st.sampled_from(SESSIONS[1:])),),
            r.AnswerDropped: lambda: (draw(_session), draw(st.integers(0, 2))),
            r.Answered: lambda: (draw(_client), draw(_session), (draw(_sequence),)),
            r.Restarted: lambda: (),
            r.EngineEnded: lambda: (
                draw(st.integers(1, 9)),
                "a",
                self.term,
                True,
                draw(st.sampled_from(("SIGSEGV", "exit status 7"))),
                1,
                tuple(map(_exposure, draw(st.sets(st.sampled_from(CONTENTS), min_size=1)))),
            ),
            r.CaseReleased: lambda: (draw(st.sampled_from(CONTENTS)),),
            r.CellFounded: lambda: (draw(st.sampled_from("ab")) * 32, "", "a"),
            r.SigningKeyAdded: lambda: (draw(_key), "a", 1),
            r.SigningKeyRetired: lambda: (draw(_key),),
            r.TokenIssued: lambda: (draw(_token), "alice", "client", 1, draw(_date), "", ""),
            r.TokenRevoked: lambda: (draw(_token), draw(_date), draw(_date), ""),
            r.MaintenanceSet: lambda: (
                draw(st.sampled_from(("", "a", "b"))),
                draw(st.booleans()),
                draw(_date),
                "",
                1,
            ),
            r.PeerNamed: lambda: (
                draw(st.integers(1, 4)),
                draw(st.integers(1, 2)),
                draw(st.sampled_from("abc")),
                "h",
                1,
                2,
                draw(st.booleans()),
                draw(st.sampled_from(("", "was removed"))),
            ),
        }
        return kind(*build[kind]())


def _exposure(content: bytes) -> Exposure:
    return Exposure(content, "graph", "of x")


def void(_: object) -> None:
    return None


_COMMON = (r.Desired, r.Released, r.GraphSubmitted, r.ValueSet, r.Erred, r.Forgotten)
KINDS = (
    *_COMMON * 2,
    r.TermStarted,
    r.BlobPart,
    r.GraphsRetired,
    r.Retried,
    r.Scattered,
    r.ScatteredForgotten,
    r.ClientJoined,
    r.ClientLeft,
    r.SessionAdvanced,
    r.ValueDeleted,
    r.Called,
    r.Called,
    r.CallsOpened,
    r.CallsEnded,
    r.AnswerDropped,
    r.Answered,
    r.Restarted,
    r.PeerNamed,
    r.EngineEnded,
    r.EngineEnded,
    r.CaseReleased,
    r.CellFounded,
    r.SigningKeyAdded,
    r.SigningKeyRetired,
    r.TokenIssued,
    r.TokenRevoked,
    r.MaintenanceSet,
)
