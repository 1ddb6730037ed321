"""Workers and their tokens: with an engine that asks for them, in one process, over TLS."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from operator import add
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from distributed.comm import CommClosedError
from distributed.core import Status

from client_replay import Client
from ha_scheduler.comm.directory import forget_directories
from ha_scheduler.comm.preamble import IntroductionRefused
from ha_scheduler.deploy.ports import free_ports
from ha_scheduler.engine.workers import expiry
from ha_scheduler.protocol.ring import Ring
from ha_scheduler.security.authority import client_files, engine_files
from ha_scheduler.security.identity import TokenRole
from ha_scheduler.security.key_ring import raw
from ha_scheduler.security.token import LEEWAY_S, Claims
from ha_scheduler.security.token import issue as sign
from ha_scheduler.worker.worker import Worker
from tests.certificates import issue, security_of
from tests.deadlines import SCALE
from tests.standalone import Scheduler

pytestmark = pytest.mark.filterwarnings("default")

CELL = "1" * 32
KEY = Ed25519PrivateKey.generate()
HOUR = 3600


def ring(version: int = 1, revoked: tuple[bytes, ...] = ()) -> Ring:
    return Ring(CELL, version=version, keys=(raw(KEY.public_key()),), revoked=revoked)


def shows(files: Path, role: TokenRole, lifetime_s: int = HOUR, token_id: str = "a" * 32) -> None:
    now = int(time.time())
    claims = Claims(CELL, role.value, role, token_id, now, now + lifetime_s)
    (files / f"{role}.token").write_text(sign(claims, KEY))


async def until(met: Any) -> None:
    async with asyncio.timeout(20 * SCALE):
        while not met():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@asynccontextmanager
async def engine_with_tokens(files: Path) -> AsyncIterator[Scheduler]:
    forget_directories()
    (port,) = free_ports("127.0.0.1", 1)
    scheduler = Scheduler(
        host="127.0.0.1",
        port=port,
        protocol="tls://",
        dashboard=False,
        security=security_of(engine_files(files, "a")),
    )
    scheduler.take_ring(ring())
    async with scheduler:
        yield scheduler


@pytest.fixture
def files(tmp_path: Path) -> Path:
    shows(issue(tmp_path, "a"), TokenRole.CLIENT)
    shows(tmp_path, TokenRole.WORKER, token_id="b" * 32)
    return tmp_path


def address_of(scheduler: Scheduler) -> str:
    return f"ha://{scheduler.address.removeprefix('tls://')}"


async def test_a_worker_whose_token_ran_out_gets_no_new_work_and_keeps_its_results(
    files: Path,
) -> None:
    security = security_of(client_files(files))
    async with (
        engine_with_tokens(files) as scheduler,
        Worker(address_of(scheduler), security=security) as worker,
        Client(address_of(scheduler), security=security, asynchronous=True) as client,
    ):
        kept = client.submit(sum, [1, 2], key="kept")
        assert await kept == 3
        expiry.check(scheduler, time.time() + HOUR + LEEWAY_S + 1)
        ws = scheduler.workers[worker.address]
        assert ws.status is Status.paused
        new = client.submit(sum, [3, 4], key="new")
        await until(lambda: "new" in scheduler.tasks)
        assert scheduler.tasks["new"].state in ("no-worker", "queued")
        assert await client.gather(kept) == 3
        runs = worker.state.tasks["kept"]

        shows(files, TokenRole.WORKER, 2 * HOUR, "b" * 32)
        worker.link.look_at_token()
        assert await asyncio.wait_for(new.result(), 20 * SCALE) == 7
        assert worker.state.tasks["kept"] is runs  # nobody computed it again


async def test_a_client_whose_token_ran_out_comes_back_with_the_renewed_one_and_loses_nothing(
    files: Path,
) -> None:
    security = security_of(client_files(files))
    shows(files, TokenRole.WORKER, 9 * HOUR, "b" * 32)
    async with (
        engine_with_tokens(files) as scheduler,
        Worker(address_of(scheduler), security=security),
        Client(address_of(scheduler), security=security, asynchronous=True) as client,
    ):
        kept = client.submit(sum, [1, 2], key="kept")
        assert await kept == 3
        former = scheduler.client_comms[client.id].comm
        expiry.check(scheduler, time.time() + HOUR + LEEWAY_S + 1)
        assert not former.closed()  # it is given some minutes
        shows(files, TokenRole.CLIENT, 2 * HOUR)
        expiry.check(scheduler, time.time() + HOUR + LEEWAY_S + expiry.CUT_AFTER_S + 1)
        assert former.closed()
        assert await asyncio.wait_for(client.submit(add, kept, 1).result(), 20 * SCALE) == 4


async def test_a_revoked_worker_is_cut_off_and_one_with_another_token_works_on(
    files: Path,
) -> None:
    security = security_of(client_files(files))
    async with (
        engine_with_tokens(files) as scheduler,
        Client(address_of(scheduler), security=security, asynchronous=True) as client,
        Worker(address_of(scheduler), security=security, name="good"),
    ):
        shows(files, TokenRole.WORKER, token_id="c" * 32)
        async with Worker(address_of(scheduler), security=security, name="bad") as bad:
            assert bad.key_ring is not None
            scheduler.take_ring(ring(2, (b"\xcc" * 16,)))
            await until(lambda: bad.address not in scheduler.workers)
            assert await client.submit(sum, [1, 2]) == 3


async def test_who_is_revoked_between_a_worker_and_a_client_is_cut_at_the_worker(
    files: Path,
) -> None:
    security = security_of(client_files(files))
    async with (
        engine_with_tokens(files) as scheduler,
        Worker(address_of(scheduler), security=security) as worker,
        Client(address_of(scheduler), security=security, asynchronous=True) as client,
    ):
        assert await client.gather(client.submit(sum, [1, 2]), direct=True) == 3
        worker.callers.take(ring(2, (b"\xaa" * 16,)))
        with pytest.raises(CommClosedError):  # the one in use
            await client.rpc(worker.address).identity()
        with pytest.raises(IntroductionRefused, match="revoked"):  # and another one
            await client.rpc(worker.address).identity()


async def test_a_client_without_a_token_gets_one_error_at_once(files: Path) -> None:
    (files / "client.token").unlink()
    (files / "worker.token").unlink()
    security = security_of(client_files(files))
    async with engine_with_tokens(files) as scheduler:
        began = time.monotonic()
        with pytest.raises(OSError) as refused:
            await Client(address_of(scheduler), security=security, asynchronous=True)
        assert time.monotonic() - began < 5 * SCALE
        said: BaseException | None = refused.value
        while said is not None and "no token was shown" not in str(said):
            said = said.__cause__
        assert said is not None
