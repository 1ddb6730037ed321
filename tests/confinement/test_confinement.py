"""A confined process reaches nothing of its daemon's, and can do what programs of users do."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ha_scheduler.confinement import landlock, mounts
from ha_scheduler.confinement.mounts import Namespace
from ha_scheduler.confinement.plan import Plan
from tests.confinement import attempts

NOBODY = 65534
ROOT = Path(__file__).resolve().parent.parent.parent

needs_landlock = pytest.mark.skipif(
    landlock.abi() < landlock.SIGNALS_ABI, reason="needs Linux 6.12"
)


@pytest.fixture
def base() -> Iterator[Path]:
    """Where any user may look; pytest's own directory is for root alone."""
    directory = Path(tempfile.mkdtemp(prefix="dask-ha-confined-", dir="/tmp"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


def furnish(base: Path, uid: int) -> Plan:
    """Secrets of user ``uid``, and the plan without a namespace."""
    names = ("peer-a-key", "peer-b-key", "ca-key", "client-key", "ca")
    for directory in ("tls", "data/tls", "work", "code"):
        (base / directory).mkdir(parents=True)
    for name in names:
        (base / "tls" / f"{name}.pem").write_text(name)
    (base / "data" / "data.mdb").write_text("ledger")
    (base / "data" / "tls" / "engine-a-key.pem").write_text("own")
    (base / "work" / "program").write_text("x")
    (base / "code" / "daemon.py").write_text("x")
    if uid:
        for path in (base, *base.rglob("*")):
            os.chown(path, uid, uid)
    hidden = [base / "data", *(base / "tls" / f"{name}.pem" for name in names[:3])]
    return Plan(
        hidden=tuple(map(str, hidden)),
        shown=(str(base / "data" / "tls" / "engine-a-key.pem"),),
        sockets=(),
        fixed=(str(base / "code"),),
        namespace=Namespace.NONE,
        landlock=landlock.abi(),
    )


def run(base: Path, plan: Plan, uid: int, *, bare: bool = False) -> dict[str, Any]:
    orders = {"base": str(base), "plan": plan.to_text(), "uid": uid, "bare": bare}
    command = [sys.executable, "-m", "tests.confinement.attempts", json.dumps(orders)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    answer: dict[str, Any] = json.loads(ended.stdout)
    return answer


def users() -> list[int]:
    """Root and another one, or only the one that runs this."""
    return [0, NOBODY] if os.geteuid() == 0 else [os.geteuid()]


@needs_landlock
@pytest.mark.parametrize("uid", users())
@pytest.mark.parametrize("namespace", list(Namespace))
def test_nothing_of_the_daemon_is_reached(base: Path, namespace: Namespace, uid: int) -> None:
    if namespace is Namespace.ROOT and uid:
        pytest.skip("only root makes one")
    if namespace is not Namespace.NONE and mounts.available(namespace) is Namespace.NONE:
        pytest.skip("this kernel gives no such namespace")
    bare = furnish(base, uid)
    plan = Plan(
        bare.hidden, bare.shown, bare.sockets, bare.fixed, namespace, bare.landlock, bare.user
    )
    answer = run(base, plan, uid)
    code = ["the program of the daemon"]  # fixed in a namespace alone
    assert answer["forbidden"] == (code if namespace is Namespace.NONE else [])
    without = {"beside", "temporary files"} if namespace is Namespace.NONE else set()
    assert set(answer["uses"]) == set(attempts.uses(base)) - without
    status = answer["status"]
    if uid:  # no user may shorten the list of what could be gained, and nothing can be gained
        del status["CapBnd"]
    assert {status[name] for name in status if name.startswith("Cap")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"
    assert status["Uid"] == str(uid)


@pytest.mark.parametrize("uid", users())
def test_all_of_it_is_reached_without_a_plan(base: Path, uid: int) -> None:
    """What is tried above can be done: the test would notice."""
    plan = furnish(base, uid)
    answer = run(base, plan, uid, bare=True)
    assert set(answer["forbidden"]) == set(attempts.HARMLESS)
    assert set(answer["uses"]) == set(attempts.uses(base))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts a process as another user")
def test_another_user_reaches_nothing_where_the_kernel_has_no_landlock(base: Path) -> None:
    from ha_scheduler.confinement.plan import User

    bare = furnish(base, 0)
    for path in (base / "tls").glob("*-key.pem"):
        path.chmod(0o600)
    for directory in ("data", "data/tls"):
        (base / directory).chmod(0o700)
    with contextlib.suppress(OSError):
        os.chown(base / "work", NOBODY, NOBODY)
        os.chown(base / "tls" / "client-key.pem", NOBODY, NOBODY)
    user = User("nobody", NOBODY, NOBODY, (NOBODY,), "/nonexistent")
    plan = Plan(bare.hidden, bare.shown, (), bare.fixed, Namespace.ROOT, 0, user)
    assert plan.summary == "full"
    answer = run(base, plan, 0)
    assert answer["forbidden"] == []
    assert set(answer["uses"]) == set(attempts.uses(base)) - {
        *("beside", "the limits of others, to read")  # of another user
    }
    assert answer["status"]["Uid"] == str(NOBODY)
    assert answer["status"]["CapBnd"] == "0" * 16


@pytest.mark.parametrize(
    ("abi", "summary"),
    [(0, "without files and signals"), (5, "without signals"), (6, "full"), (7, "full")],
)
def test_what_a_kernel_cannot_do_is_said(abi: int, summary: str) -> None:
    plan = Plan(("/data",), (), (), (), Namespace.NONE, abi)
    assert plan.summary == summary
    assert Plan.from_text(plan.to_text()) == plan


@needs_landlock
@pytest.mark.parametrize("abi", range(1, 8))
def test_an_older_kernel_is_asked_for_what_it_has(base: Path, abi: int) -> None:
    bare = furnish(base, 0)
    plan = Plan(bare.hidden, bare.shown, (), (), Namespace.NONE, abi)
    forbidden = set(run(base, plan, 0)["forbidden"]) - {"the program of the daemon"}
    signals = {"a signal", "a signal by a descriptor"}
    assert forbidden == (signals if abi < landlock.SIGNALS_ABI else set())
