"""What is fuzzed: whatever bytes come, a value or a typed refusal, and nothing else.

Each target takes bytes. An exception that is not promised, a difference between peers, or memory
beyond a bound ends the fuzzer, which keeps the input.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from ha_scheduler.ledger import encoding, rejections
from ha_scheduler.ledger import records as r
from ha_scheduler.ledger.admission import check
from ha_scheduler.ledger.calls import pack_payload
from ha_scheduler.ledger.dump import SnapshotDamagedError, dump, load
from ha_scheduler.ledger.fold import fold
from ha_scheduler.ledger.rebuild import digest, rebuild
from ha_scheduler.ledger.tables import TABLES
from ha_scheduler.ledger.unfit import RejectedRecord, UnknownRecordError
from ha_scheduler.protocol import control, engine, frames, introduction, peer, watch
from ha_scheduler.protocol.codec import MessageSet, ProtocolError
from ha_scheduler.protocol.introduction import RefusedError
from ha_scheduler.raft.errors import MalformedMessageError
from ha_scheduler.raft.messages import Message
from ha_scheduler.raft.wire import message_from_wire, message_to_wire
from tests.twins.tables import MemoryTables

Target = Callable[[bytes], None]

RECORDS_MAX = 64  # in one log
FRAME_LIMIT = 4096  # bytes; the real ones are larger, and bound memory alike
GRAPH = (1 << 32) + 1

#: A ledger that holds something of each kind, before the fuzzer's records come.
LIFE: tuple[Any, ...] = (
    r.TermStarted(1, "a"),
    r.ClientJoined("c", "s"),
    r.CallsOpened("s", "o"),
    r.BlobPart(1, 1, 0, b"loose"),
    r.GraphSubmitted(GRAPH, "c", "s", 1, b"graph", 0, 0),
    r.Desired(GRAPH, "c", (b"k",)),
    r.Erred(GRAPH, b"k", b"error"),
    r.Scattered("c", (b"d",)),
    r.ValueSet("v", b"n", b"value", 0, 0, 1),
    r.Called("s", 0, 1, pack_payload((encoding.encode(r.ValueDeleted("v", b"n")),), b"a"), 0, 0, 1),
)


def record(data: bytes) -> None:
    """One record: refused by name, or encoded as it was; then committed all the same."""
    try:
        decoded = encoding.decode(data)
    except (RejectedRecord, UnknownRecordError):
        pass
    else:
        assert encoding.decode(encoding.encode(decoded)) == decoded
    try:
        check(data)
    except (RejectedRecord, UnknownRecordError):
        pass
    _committed([data])


def log(data: bytes) -> None:
    """Many records in one log, each behind its length."""
    _committed(list(_split(data)))


def _committed(found: list[bytes]) -> None:
    tables, twin = _LIVED.copy(), _LIVED.copy()
    rejected = _fold(tables, found)
    assert _fold(twin, found) == rejected
    rebuilt = list(rebuild(tables))
    again = MemoryTables()
    assert _fold(again, rebuilt) == 0, "a rebuild holds nothing that cannot be applied"
    assert rejections.scan(again) == rejections.scan(tables)
    loaded = MemoryTables()
    load(dump(tables), loaded)
    assert _rows(loaded) == _rows(tables) == _rows(twin)
    assert digest(loaded) == digest(tables)


def _fold(tables: MemoryTables, found: list[bytes]) -> int:
    """Until a record of a newer release stops this peer; how many were rejected."""
    rejected = 0
    for index, data in enumerate(found, len(LIFE) + 1):
        try:
            rejected += fold(tables, index, 1, data) is not None
        except UnknownRecordError:
            break
    return rejected


_LIVED = MemoryTables()
for _index, _record in enumerate(LIFE, 1):
    fold(_LIVED, _index, 1, encoding.encode(_record))


def _rows(tables: MemoryTables) -> dict[str, list[tuple[bytes, bytes]]]:
    return {table: list(tables.scan(table)) for table in TABLES}


def _split(data: bytes) -> Iterator[bytes]:
    at = 0
    for _ in range(RECORDS_MAX):
        if at >= len(data):
            return
        size = data[at]
        yield data[at + 1 : at + 1 + size]
        at += 1 + size


def snapshot(data: bytes) -> None:
    """A ledger's stream: taken in, or refused as damaged."""
    try:
        load(list(_split(data)), MemoryTables())
    except SnapshotDamagedError:
        pass


def core(data: bytes) -> None:
    """A message of the consensus core."""
    try:
        message = message_from_wire(data)
    except MalformedMessageError:
        return
    assert message_from_wire(message_to_wire(message)) == message


def _introduction(data: bytes) -> None:
    for take in (introduction.introduced, introduction.accepted):
        try:
            take(data)
        except (ProtocolError, RefusedError):
            pass


def wire(kinds: MessageSet[Any]) -> Target:
    """A stream of frames: the first byte says in what pieces it comes."""

    def target(data: bytes) -> None:
        if not data:
            return
        decoder, step = frames.Decoder(FRAME_LIMIT), 1 + data[0]
        try:
            for start in range(1, len(data), step):
                for body in decoder.feed(data[start : start + step]):
                    assert len(body) <= FRAME_LIMIT
                    _message(kinds, body)
                assert len(decoder._rest) <= FRAME_LIMIT + struct.calcsize(">I")
        except ProtocolError:
            pass
        _message(kinds, data[1:])

    return target


def _message(kinds: MessageSet[Any], body: bytes) -> None:
    try:
        message = kinds.decode(body)
    except ProtocolError:
        return
    assert kinds.decode(msgspec.msgpack.encode(message)) is not None


#: Whose messages a target of the wire takes.
_SETS: dict[str, MessageSet[Any]] = {
    "to-engine": engine.TO_ENGINE,
    "to-daemon": engine.TO_DAEMON,
    "peer-hello": peer.HELLO,
    "peer-stream": peer.ON_A_STREAM,
    "snapshot-sender": peer.OF_A_SENDER,
    "snapshot-receiver": peer.OF_A_RECEIVER,
    "watch": watch.WATCH,
    "control-request": control.REQUESTS,
    "control-answer": control.ANSWERS,
}

TARGETS: dict[str, Target] = {
    "record": record,
    "log": log,
    "snapshot": snapshot,
    "core": core,
    "introduction": _introduction,
    **{name: wire(kinds) for name, kinds in _SETS.items()},
}


def seeds(name: str) -> list[bytes]:
    """Sound inputs to begin with: whatever is known, with a plain value in each field."""
    if name == "record":
        return [*map(encoding.encode, LIFE), *_bodies(r.Record)]
    if name == "log":
        known = [*map(encoding.encode, LIFE), *_bodies(r.Record)]
        return [_joined(known), *(_joined([each]) for each in known)]
    if name == "snapshot":
        return [_joined(dump(_LIVED))]
    if name == "core":
        return _bodies(Message)
    if name == "introduction":
        return _bodies(
            introduction._INTRODUCTIONS._decoder.type | introduction._ANSWERS._decoder.type
        )
    bodies = _bodies(_SETS[name]._decoder.type)
    return [b"\x10" + len(body).to_bytes(4, "big") + body for body in bodies]


def _joined(parts: Iterable[bytes]) -> bytes:
    return b"".join(bytes([len(part)]) + part for part in parts if len(part) < 256)


def _bodies(kinds: Any) -> list[bytes]:
    found = msgspec.inspect.type_info(kinds)
    each = found.types if isinstance(found, msgspec.inspect.UnionType) else (found,)
    return [bytes(msgspec.msgpack.encode(_plain(kind))) for kind in each]


def _plain(kind: Any) -> Any:
    """A value of this type, as msgpack has it."""
    types = msgspec.inspect
    match kind:
        case types.StructType(cls=cls, fields=fields, array_like=array, tag_field=field, tag=tag):
            values = {each.encode_name: _plain(each.type) for each in fields}
            if array:
                return [*([] if tag is None else [tag]), *values.values()]
            return values if field is None else {field: tag, **values}
        case types.IntType(ge=least):
            return least or 1
        case types.StrType(pattern=pattern):
            return "" if pattern is None or "http" in pattern else "0" * 32
        case types.BytesType(min_length=least):
            return b"x" * (least or 0)
        case types.FloatType():
            return 1.0
        case types.BoolType():
            return True
        case types.VarTupleType(item_type=item) | types.ListType(item_type=item):
            return [_plain(item)]
        case types.TupleType(item_types=items):
            return [_plain(item) for item in items]
        case types.UnionType(types=several):
            return _plain(several[0])
        case types.EnumType(cls=cls):
            return next(iter(cls)).value
        case types.DictType():
            return {}
        case _:
            return None
