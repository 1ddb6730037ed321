"""The gate on real sockets: nothing is begun with before its first words are whole."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import resource
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from ha_scheduler.gate.admission import Limits
from ha_scheduler.gate.gate import First, Gate
from tests.deadlines import SCALE

ROOT = Path(__file__).resolve().parents[2]


class Port:
    """A gate, and who has passed it."""

    def __init__(self, gate: Gate, sock: socket.socket) -> None:
        self.gate = gate
        self.address = sock.getsockname()
        self.begun: list[tuple[socket.socket, Any, Callable[[], None]]] = []
        self.passed = asyncio.Event()

    def begin(self, sock: socket.socket, address: Any, over: Callable[[], None]) -> None:
        self.begun.append((sock, address, over))
        self.passed.set()

    async def until(self, count: int) -> None:
        while len(self.begun) < count:
            self.passed.clear()
            await self.passed.wait()


@asynccontextmanager
async def port(first: First, limits: Limits | None = None) -> AsyncIterator[Port]:
    sock = socket.create_server(("127.0.0.1", 0), backlog=512)
    sock.setblocking(False)
    made: list[Port] = []
    gate = Gate(sock, first, lambda *begun: made[0].begin(*begun), limits)
    made.append(Port(gate, sock))
    try:
        yield made[0]
    finally:
        gate.close()
        sock.close()
        for begun, _, _ in made[0].begun:
            begun.close()


@contextmanager
def callers(port: Port, count: int, said: bytes, host: str = "127.0.0.1") -> Iterator[list[Any]]:
    with contextlib.ExitStack() as stack:
        made = []
        for _ in range(count):
            caller = stack.enter_context(socket.socket())
            caller.bind((host, 0))
            caller.connect(port.address)
            caller.sendall(said)
            made.append(caller)
        yield made


def client_hello() -> bytes:
    context = ssl.create_default_context()
    coming, going = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(coming, going, server_hostname="x").do_handshake()
    return going.read()


async def hung_up(caller: socket.socket) -> None:
    caller.setblocking(False)
    with contextlib.suppress(ConnectionError):
        assert await asyncio.get_running_loop().sock_recv(caller, 1) == b""


async def test_a_caller_passes_when_its_client_hello_is_whole_and_it_is_left_to_be_read() -> None:
    hello = client_hello()
    async with port(First.TLS) as gate:
        with callers(gate, 3, hello[:3]) as (first, second, third):
            with callers(gate, 1, hello, "127.0.0.2"):
                await gate.until(1)
            second.sendall(hello[3:200])
            third.sendall(hello[3:])
            await gate.until(2)
            first.sendall(hello[3:])
            await gate.until(3)
            sock = gate.begun[2][0]
            assert await asyncio.get_running_loop().sock_recv(sock, 65536) == hello
            # No more is waited for than what comes next.
            first.sendall(b"x")
            assert await asyncio.get_running_loop().sock_recv(sock, 65536) == b"x"
        assert [address[0] for _, address, _ in gate.begun] == ["127.0.0.2"] + ["127.0.0.1"] * 2


@pytest.mark.parametrize(
    "said", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff1234", b"\0" * 9]
)
async def test_who_begins_with_something_else_than_tls_is_hung_up_on(said: bytes) -> None:
    async with port(First.TLS) as gate:
        with callers(gate, 1, said) as (caller,):
            await hung_up(caller)
        assert gate.begun == []


async def test_silent_callers_are_let_go_in_time_and_others_pass_meanwhile() -> None:
    async with port(First.BYTES, Limits(waiting=20, silence_s=1.0)) as gate:
        with callers(gate, 15, b"") as silent, callers(gate, 1, b"hello, how are you") as _:
            await gate.until(1)
            for caller in silent:
                await hung_up(caller)
        assert len(gate.begun) == 1


async def test_more_silent_callers_than_there_is_room_for_keep_nobody_out() -> None:
    async with port(First.BYTES, Limits(waiting=20, silence_s=60.0)) as gate:
        with callers(gate, 200, b"") as silent, callers(gate, 1, b"hello, how are you"):
            await gate.until(1)
            await hung_up(silent[0])
        assert len(gate.begun) == 1


async def test_a_caller_that_goes_before_its_words_are_whole_is_forgotten() -> None:
    async with port(First.TLS, Limits(silence_s=600.0)) as gate:
        with callers(gate, 5, client_hello()[:100]):
            pass
        while not gate.gate._admission.is_idle:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
        assert gate.begun == []


async def test_where_the_server_speaks_first_nothing_is_waited_for() -> None:
    async with port(First.NOTHING) as gate:
        with callers(gate, 3, b""):
            await gate.until(3)


async def test_handshakes_that_stall_give_way_to_one_from_elsewhere() -> None:
    async with port(First.BYTES, Limits(handshakes=5, handshake_s=0.5)) as gate:
        with callers(gate, 100, b"somebody who stalls"):
            await gate.until(5)
            with callers(gate, 1, b"somebody honest here", "127.0.0.2"):
                while "127.0.0.2" not in [address[0] for _, address, _ in gate.begun]:
                    await gate.until(len(gate.begun) + 1)
        assert len(gate.begun) < 30


EXHAUSTED = """
import asyncio, json, resource, socket, sys, time
from ha_scheduler.gate.gate import First, Gate

async def main():
    sock = socket.create_server(("127.0.0.1", 0), backlog=512)
    sock.setblocking(False)
    begun = []
    gate = Gate(sock, First.BYTES, lambda *b: begun.append(b))
    print(sock.getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    cpu = time.process_time()
    await asyncio.sleep(1)
    spent = time.process_time() - cpu
    with open("/dev/null"):  # there is a reserve
        pass
    begun.clear()
    print("held", spent, flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    while not begun:
        await asyncio.sleep(0.01)
    print("passed", flush=True)

resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
asyncio.run(main())
"""


def test_when_descriptors_run_out_it_waits_without_burning_a_core_and_goes_on() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", EXHAUSTED],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    number = int(process.stdout.readline())
    held = [socket.create_connection(("127.0.0.1", number)) for _ in range(300)]
    for caller in held:
        caller.send(b"I stay here for ever")
    process.stdin.write("\n")
    process.stdin.flush()
    word, spent = process.stdout.readline().split()
    assert word == "held"
    assert float(spent) < 0.5
    for caller in held:
        caller.close()
    with socket.create_connection(("127.0.0.1", number)) as honest:
        honest.send(b"hello, how are you")
        said, errors = process.communicate("\n", timeout=20 * SCALE)
    assert said == "passed\n"
    assert "nearly used up" in errors


def test_the_limit_of_descriptors_is_raised_and_a_low_one_is_told() -> None:
    program = (
        "import resource, logging; logging.basicConfig();"
        "from ha_scheduler.gate.nofile import raise_limit, is_reserved;"
        "import json; raise_limit();"
        "print(json.dumps([*resource.getrlimit(resource.RLIMIT_NOFILE),"
        " is_reserved(100), is_reserved(290), is_reserved(299)]))"
    )

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 300))

    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        preexec_fn=limited,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == [300, 300, False, True, True]
    assert "may have 300 files" in done.stderr


async def test_a_crowd_that_speaks_at_once_begins_in_steps_and_other_work_goes_on() -> None:
    loop, begun = asyncio.get_running_loop(), []

    def look() -> None:
        begun.append(len(gate.begun))
        if begun[-1] < 50:
            loop.call_soon(look)

    async with port(First.BYTES, Limits(begins=4)) as gate:
        with callers(gate, 50, b"hello, how are you"):
            look()
            await gate.until(50)
    steps = [after - before for before, after in itertools.pairwise(begun)]
    assert max(steps) <= 4
