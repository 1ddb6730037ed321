"""What bytes of a Dask connection may become, and what they may not."""

from __future__ import annotations

import asyncio
import struct
import zlib
from collections.abc import Callable
from typing import Any, NoReturn

import msgpack
import pytest
from distributed import Security
from distributed.comm import CommClosedError, connect, listen
from distributed.comm.registry import get_backend
from distributed.protocol import dumps
from distributed.protocol.serialize import ToPickle
from distributed.protocol.utils import pack_frames_prelude

from ha_scheduler.comm import decoding, preamble
from ha_scheduler.comm.decoding import UNREADABLE, ExpandsTooMuch, decompress, loads

SECURITY = Security.temporary()
ran: list[str] = []


class Ran:
    """Says so when it is unpickled."""

    def __reduce__(self) -> Any:
        return ran.append, ("unpickled",)


def fail() -> NoReturn:
    raise ValueError("not here")


class Unreadable:
    def __reduce__(self) -> Any:
        return fail, ()


def frame(*frames: bytes) -> bytes:
    """As ``tcp.TCP.write``."""
    prelude = pack_frames_prelude(list(frames))
    body = prelude + b"".join(frames)
    return struct.pack("Q", len(body)) + body


HANDSHAKE = {"compression": None, "python": (3, 11), "pickle-protocol": 5}
GARBLED = {
    "a pickle": lambda: frame(*map(bytes, dumps({**HANDSHAKE, "x": ToPickle(Ran())}))),
    "no map": lambda: frame(msgpack.packb([1, 2])),
    "a map without strings": lambda: frame(msgpack.packb({1: 2})),
    "no msgpack": lambda: frame(b"\xc1"),
    "deep nesting": lambda: frame(b"\x91" * 60_000 + b"\xc0"),
    "many frames": lambda: struct.pack("QQ", 8, 1 << 40),
    "a long one": lambda: struct.pack("Q", 1 << 40),
    "an enumeration": lambda: frame(
        msgpack.packb({**HANDSHAKE, "x": {"__Enum__": 1, "__module__": "os", "__name__": "_exit"}})
    ),
}


@pytest.fixture(autouse=True)
def _ours(monkeypatch: pytest.MonkeyPatch) -> None:
    preamble.register()
    ran.clear()


async def raw(scheme: str, address: str) -> Any:
    """A connection after TLS and the preamble, before distributed's handshake."""
    arguments = SECURITY.get_connection_args("client") if scheme == "tls" else {}
    return await get_backend(scheme).get_connector().connect(address, **arguments)


@pytest.mark.parametrize("scheme", ["tcp", "tls"])
@pytest.mark.parametrize("said", GARBLED.values(), ids=list(GARBLED))
async def test_a_caller_that_begins_with_something_else_is_hung_up_on(
    scheme: str, said: Callable[[], bytes]
) -> None:
    async def handle(comm: Any) -> None:
        served.append(comm)
        comm.abort()

    served: list[Any] = []
    tls = scheme == "tls"
    arguments = SECURITY.get_listen_args("scheduler") if tls else {}
    async with listen(f"{scheme}://127.0.0.1:0", handle, deserialize=False, **arguments) as port:
        comm = await raw(scheme, port.contact_address.partition("://")[2])
        await comm.stream.write(said())
        await comm.read()  # the other's handshake
        if b"__Enum__" not in said():  # which is text, as long as nothing looks it up
            with pytest.raises(CommClosedError):
                await comm.read()
            assert served == []
        comm.abort()
        arguments = SECURITY.get_connection_args("client") if tls else {}
        honest = await connect(port.contact_address, **arguments)
        await honest.close()
    assert ran == []


async def test_a_server_that_begins_with_a_pickle_is_left() -> None:
    over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(GARBLED["a pickle"]())
        await reader.read()
        writer.close()
        await writer.wait_closed()
        over.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(CommClosedError, match="no handshake"):
        await connect(f"tcp://127.0.0.1:{port}", timeout=5)
    await over.wait()
    server.close()
    assert ran == []


def test_a_batch_loses_the_message_that_cannot_be_read() -> None:
    batch = [{"op": "a", "x": 1}, {"op": "b", "x": [ToPickle(Unreadable())]}, {"op": "c"}]
    first, second, third = loads(list(dumps(batch)), deserialize=False)
    assert (first, third) == ({"op": "a", "x": 1}, {"op": "c"})
    assert second["op"] == "b"
    assert repr(second[UNREADABLE]) == repr(ValueError("not here"))


def test_a_message_alone_that_cannot_be_read_is_an_error() -> None:
    with pytest.raises(ValueError, match="not here"):
        loads(list(dumps({"op": "b", "x": ToPickle(Unreadable())})))


def test_what_is_compressed_expands_to_no_more_than_it_may() -> None:
    bomb = zlib.compress(bytes(64 << 20), 9)
    assert len(decompress(["zlib", None], [bomb, b"x"], 65 << 20)[0]) == 64 << 20
    for limit in (1 << 20, 100 << 20):  # two of them are over the second
        with pytest.raises(ExpandsTooMuch):
            decompress(["zlib"] * 2, [bomb] * 2, limit)
    declares = struct.pack("<I", 1 << 31) + b"few bytes"
    with pytest.raises(ExpandsTooMuch, match="lz4"):
        decompress(["lz4"], [declares], 1 << 30)
    with pytest.raises(ExpandsTooMuch, match="snappy"):
        decompress(["snappy"], [b"\xff\xff\xff\xff\x07few"], 1 << 30)
    with pytest.raises(ValueError, match="cut off"):
        decompress(["zlib"], [bomb[:100]], 100 << 20)


def test_a_bomb_in_a_pickle_of_a_call_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "EXPANDED_BYTES_MAX", 1 << 20)
    bomb = zlib.compress(bytes(64 << 20), 9)
    header = msgpack.packb({"pickled-obj": b"", "num-sub-frames": 1, "compression": ["zlib"]})
    message = msgpack.packb({"op": "x", "x": {"__Pickled__": 1}})
    read = loads([message, header, bomb], deserialize=False)
    assert isinstance(read[UNREADABLE], ExpandsTooMuch)
