"""Tokens on real sockets: at a server of a cell, before distributed reads a byte.

The server is one that a worker or an engine is as far as callers go: it has a key ring.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask.config
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from distributed import Security
from distributed.comm import CommClosedError, connect
from distributed.core import Server

from ha_scheduler.comm.callers import Callers
from ha_scheduler.comm.preamble import CHECK_SERVER, INTRODUCTION, IntroductionRefused
from ha_scheduler.comm.roles import check_leader, identity_of
from ha_scheduler.protocol.introduction import Kind, introduce
from ha_scheduler.protocol.ring import Ring
from ha_scheduler.security.authority import client_files, engine_files
from ha_scheduler.security.identity import TokenRole
from ha_scheduler.security.key_ring import raw
from ha_scheduler.security.tls import Role
from ha_scheduler.security.token import Claims, thumbprint_of
from ha_scheduler.security.token import issue as sign
from tests.certificates import issue, security_of
from tests.deadlines import SCALE

pytestmark = pytest.mark.filterwarnings("default")

CELL = "1" * 32
KEY = Ed25519PrivateKey.generate()
RING = Ring(CELL, version=1, keys=(raw(KEY.public_key()),))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    return issue(tmp_path, "a")


def token(**changes: Any) -> str:
    now = int(time.time())
    claims = Claims(CELL, "alice", TokenRole.CLIENT, "a" * 32, now, now + 3600)
    return sign(replace(claims, **changes), KEY)


def shows(files: Path, text: str, name: str = "client") -> None:
    (files / f"{name}.token").write_text(text)


def calling(files: Path) -> dict[str, Any]:
    arguments: dict[str, Any] = security_of(client_files(files)).get_connection_args("client")
    return arguments


class Cell(Server):
    """Says to a caller who that is."""

    serves_a_cell = True

    def __init__(self, security: Security, ring: Ring | None) -> None:
        self.callers = Callers(self)
        super().__init__({"who": self.who}, connection_args=security.get_connection_args("worker"))
        if ring is not None:
            self.callers.take(ring)

    def who(self, comm: Any) -> tuple[str, str]:
        return identity_of(comm).subject, str(identity_of(comm).role)


@asynccontextmanager
async def serving(files: Path, ring: Ring | None = RING) -> AsyncIterator[Cell]:
    security = security_of(engine_files(files, "a"))
    server = Cell(security, ring)
    await server.listen("tls://127.0.0.1:0", **security.get_listen_args("scheduler"))
    try:
        yield server
    finally:
        await server.close()


async def who_am_i(address: str, arguments: dict[str, Any]) -> Any:
    comm = await connect(address, timeout=10 * SCALE, **arguments)
    try:
        await comm.write({"op": "who", "reply": True})
        return await comm.read()
    finally:
        comm.abort()


async def test_who_shows_a_token_is_known_by_it(files: Path) -> None:
    shows(files, token())
    async with serving(files) as server:
        assert await who_am_i(server.address, calling(files)) == ("alice", "client")


async def test_a_renewed_file_is_in_force_with_the_next_connection(files: Path) -> None:
    arguments = calling(files)
    async with serving(files) as server:
        with pytest.raises(IntroductionRefused, match=r"no token was shown.*docs/tokens\.md"):
            await who_am_i(server.address, arguments)
        shows(files, token(subject="bob"))
        assert await who_am_i(server.address, arguments) == ("bob", "client")


async def test_the_kind_of_a_process_chooses_its_token(files: Path) -> None:
    shows(files, token())
    shows(files, token(subject="node1", role=TokenRole.WORKER), "worker")
    arguments = {**calling(files), INTRODUCTION: introduce(Kind.WORKER)}
    async with serving(files) as server:
        assert await who_am_i(server.address, arguments) == ("node1", "worker")


async def test_the_configuration_may_name_the_file(files: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text(token(subject="carol"))
    async with serving(files) as server:
        with dask.config.set({"ha.token-file": str(tmp_path / "mine")}):
            assert await who_am_i(server.address, calling(files)) == ("carol", "client")
        missing = {"ha.token-file": str(tmp_path / "gone")}
        with dask.config.set(missing), pytest.raises(IntroductionRefused, match="does not exist"):
            await who_am_i(server.address, calling(files))


REFUSED = {
    "garbled": "x.y.z",
    "of the future": token(issued=int(time.time()) + 5000),
    "of another cell": token(cell_id="2" * 32),
    "revoked": token(token_id="b" * 32),
    "of another certificate": token(thumbprint=b"x" * 32),
    "of a key that nobody knows": sign(
        Claims(CELL, "eve", TokenRole.ADMIN, "c" * 32, 1, 2**33), Ed25519PrivateKey.generate()
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
async def test_a_token_is_refused_before_distributed_reads_anything(
    kind: str, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ha_scheduler.comm.callers.RING_S_MAX", 0.05)
    shows(files, REFUSED[kind])
    ring = Ring(CELL, version=2, keys=RING.keys, revoked=(b"\xbb" * 16,))
    async with serving(files, ring) as server:
        with pytest.raises(IntroductionRefused) as refused:
            await who_am_i(server.address, calling(files))
        assert not server._comms
        assert REFUSED[kind] not in str(refused.value)


async def test_an_expired_token_is_waited_for_since_its_file_may_be_renewed(files: Path) -> None:
    shows(files, token(issued=1000, expires=2000))
    async with serving(files) as server:
        with pytest.raises(OSError, match=r"after 0\.5 s"):
            await connect(server.address, timeout=0.5, **calling(files))
        asking = asyncio.ensure_future(who_am_i(server.address, calling(files)))
        await asyncio.sleep(0)
        shows(files, token())
        assert await asking == ("alice", "client")


async def test_a_bound_token_holds_under_its_certificate_alone(files: Path) -> None:
    certificate = x509.load_pem_x509_certificate(client_files(files).cert_file.read_bytes())
    shows(files, token(thumbprint=thumbprint_of(certificate.public_bytes(Encoding.DER))))
    async with serving(files) as server:
        assert await who_am_i(server.address, calling(files)) == ("alice", "client")


async def test_an_engine_is_known_by_its_certificate(files: Path) -> None:
    arguments = security_of(engine_files(files, "a")).get_connection_args("client")
    async with serving(files) as server:
        assert await who_am_i(server.address, arguments) == ("a", Role.ENGINE)


async def test_an_engine_that_stands_alone_asks_nobody(files: Path) -> None:
    async with serving(files, ring=None) as server:
        subject, _ = await who_am_i(server.address, calling(files))
        assert subject == ""


async def test_a_key_that_comes_while_its_first_token_is_shown_is_waited_for(files: Path) -> None:
    shows(files, token())
    async with serving(files, Ring(CELL, version=1)) as server:
        asking = asyncio.ensure_future(who_am_i(server.address, calling(files)))
        while server.callers._learning is None:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        server.callers.take(Ring(CELL, version=2, keys=RING.keys))
        assert await asking == ("alice", "client")


async def test_a_refusal_is_not_remembered(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ha_scheduler.comm.callers.RING_S_MAX", 0.05)
    shows(files, token())
    async with serving(files, Ring(CELL, version=1)) as server:
        with pytest.raises(IntroductionRefused, match="none of this cell"):
            await who_am_i(server.address, calling(files))
        server.callers.take(Ring(CELL, version=2, keys=RING.keys))
        assert await who_am_i(server.address, calling(files)) == ("alice", "client")


async def test_a_revocation_cuts_the_connections_of_that_token_at_once(files: Path) -> None:
    shows(files, token())
    arguments = calling(files)
    async with serving(files) as server:
        revoked = await connect(server.address, **arguments)
        shows(files, token(token_id="d" * 32))
        other = await connect(server.address, **arguments)
        await revoked.write({"op": "who"})
        assert await revoked.read() == ("alice", "client")
        server.callers.take(Ring(CELL, version=2, keys=RING.keys, revoked=(b"\xaa" * 16,)))
        with pytest.raises(CommClosedError):
            await revoked.read()
        await other.write({"op": "who"})
        assert await other.read() == ("alice", "client")
        (kept,) = server._comms
        assert (files / "client.token").read_text() not in repr(kept.extra_info)
        other.abort()


async def test_an_older_ring_does_not_take_a_revocation_back(files: Path) -> None:
    shows(files, token())
    async with serving(files, Ring(CELL, version=7, keys=RING.keys, revoked=(b"\xaa" * 16,))) as s:
        s.callers.take(RING)
        with pytest.raises(IntroductionRefused, match="revoked"):
            await who_am_i(s.address, calling(files))


async def test_on_ha_no_token_leaves_before_an_engine_or_a_peer_is_there(files: Path) -> None:
    """Who has a client's certificate listens where a leader was, and learns nothing."""
    shows(files, token())
    server, said = Cell(security_of(client_files(files)), RING), []
    identify = server.callers.identify

    async def hear(sock: Any, token: bytes | None) -> Any:
        said.append(token)
        return await identify(sock, token)

    server.callers.identify = hear  # type: ignore[method-assign]
    arguments = security_of(client_files(files)).get_listen_args("scheduler")
    await server.listen("tls://127.0.0.1:0", **arguments)
    try:
        checked = {**calling(files), CHECK_SERVER: check_leader}
        with pytest.raises(OSError):
            await connect(server.address, timeout=1, **checked)
        assert not said
        assert await who_am_i(server.address, calling(files)) == ("alice", "client")
    finally:
        await server.close()


PLAIN = """
import asyncio, sys
from distributed import Security
from distributed.core import rpc
async def main(address, ca, cert, key):
    security = Security(tls_ca_file=ca, tls_client_cert=cert, tls_client_key=key)
    asked = rpc(address, connection_args=security.get_connection_args("client"))
    try:
        print(await asked.who())
    except Exception as error:
        print(type(error).__name__, error)
    assert "ha_scheduler" not in sys.modules
asyncio.run(main(*sys.argv[1:]))
"""


async def plain(address: str, files: Path) -> str:
    """What a process without this package is answered."""
    pair = client_files(files)
    command = [sys.executable, "-c", PLAIN, address]
    command += map(str, (pair.ca_file, pair.cert_file, pair.key_file))
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=60 * SCALE, check=False
    )
    return done.stdout.strip() or done.stderr


async def test_a_process_without_the_package_is_told_so_by_its_own_distributed(files: Path) -> None:
    async with serving(files) as server:
        said = await plain(server.address, files)
    assert said.startswith("PermissionError This is a cell of dask-ha-scheduler")
    assert "--certificate-alone" in said


async def test_by_configuration_it_is_served_as_what_its_certificate_says(files: Path) -> None:
    async with serving(files, Ring(CELL, version=1, certificate_alone=True)) as server:
        assert await plain(server.address, files) == "('client', 'client')"
