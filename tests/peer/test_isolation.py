"""What a daemon decides that its engine is kept from, and what it says of it."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import pwd
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ha_scheduler.cell.peers import parse_peers
from ha_scheduler.confinement import mounts
from ha_scheduler.confinement.mounts import Namespace
from ha_scheduler.confinement.plan import Plan
from ha_scheduler.errors import OperatorError
from ha_scheduler.peer.engine import isolation
from ha_scheduler.peer.settings import PeerSettings
from ha_scheduler.security.authority import create_authority, engine_files, peer_files

CELL = parse_peers("a=10.0.0.1,b=10.0.0.2,c=10.0.0.3")
NOBODY = 65534
PR_GET_DUMPABLE = 3

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def settings(directory: Path, tls: Path | None = None, **more: Any) -> PeerSettings:
    tls = tls or directory / "data" / "tls"
    return PeerSettings(
        cell=CELL,
        name="a",
        data_dir=directory / "data",
        tls=peer_files(tls, "a"),
        engine_tls=engine_files(tls, "a"),
        **more,
    )


def in_a_child(act: Callable[[], Any]) -> Any:
    """The result of ``act`` in a fork, since what it does to its process is for ever."""
    reading, writing = os.pipe()
    if not (child := os.fork()):
        try:
            answer = act()
        except OperatorError as error:
            answer = str(error)
        os.write(writing, json.dumps(answer).encode())
        os._exit(0)
    os.close(writing)
    with open(reading) as pipe:
        answer = json.load(pipe)
    os.waitpid(child, 0)
    return answer


def decided(given: PeerSettings) -> tuple[str, int]:
    plan = isolation.isolate(given)
    return plan.to_text(), ctypes.CDLL(None).prctl(PR_GET_DUMPABLE, 0, 0, 0, 0)


def plan_of(given: PeerSettings) -> Plan:
    text, dumpable = in_a_child(lambda: decided(given))
    assert dumpable == 0, "nobody looks into the daemon from then on"
    return Plan.from_text(text)


def test_keys_beside_the_data_are_hidden_and_the_engines_own_is_not(tmp_path: Path) -> None:
    tls = tmp_path / "tls"
    create_authority(tls, CELL)
    plan = plan_of(settings(tmp_path, tls))
    keys = {f"peer-{name}-key.pem" for name in "abc"} | {"peers-ca-key.pem", "issuing-ca-key.pem"}
    assert plan.hidden[0] == str(tmp_path / "data")
    assert {Path(path).name for path in plan.hidden[1:]} == keys
    assert plan.shown == ()


def test_the_engines_pair_within_the_data_is_shown(tmp_path: Path) -> None:
    tls = tmp_path / "data" / "tls"
    create_authority(tls, CELL)
    plan = plan_of(settings(tmp_path))
    assert plan.hidden == (str(tmp_path / "data"),)
    assert {Path(path).name for path in plan.shown} == {
        "ca.pem",
        "engine-a.pem",
        "engine-a-key.pem",
    }


def test_a_key_is_hidden_where_it_is_and_not_where_a_link_says(tmp_path: Path) -> None:
    create_authority(tmp_path / "real", CELL)
    (tmp_path / "tls").symlink_to(tmp_path / "real")
    plan = plan_of(settings(tmp_path, tmp_path / "tls"))
    assert str(tmp_path / "real" / "peer-a-key.pem") in plan.hidden


@as_root
def test_any_user_has_the_namespace_that_the_kernel_gives(tmp_path: Path) -> None:
    def as_nobody(act: Callable[[], Any]) -> Any:
        def become() -> Any:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            return act()

        return in_a_child(become)

    given = PeerSettings(cell=parse_peers("a=127.0.0.1"), name="a", data_dir=tmp_path / "data")
    wanted = as_nobody(lambda: mounts.available(Namespace.ROOT, Namespace.USER).value)
    text, dumpable = as_nobody(lambda: decided(given))
    assert (Plan.from_text(text).namespace, dumpable) == (wanted, 0)


def test_an_engine_gets_of_the_environment_what_is_listed(tmp_path: Path) -> None:
    own = {
        "PATH": "/bin",
        "DASK_CONFIG": "/etc/dask",
        "OMP_NUM_THREADS": "1",
        "LC_ALL": "C",
        "PYTHONHASHSEED": "random",
        "AWS_SECRET_ACCESS_KEY": "x",
        "DATABASE_URL": "x",
        "DASK_HA_TOKEN": "x",
        "DASK_GATEWAY__AUTH__PASSWORD": "x",
        "CONDA_API_KEY": "x",
        "WANTED": "x",
    }
    given = settings(tmp_path, engine_env=("WANTED", "ABSENT"))
    plan = Plan((str(tmp_path),), (), (), (), Namespace.NONE, 7)
    got = isolation.environment(given, plan, own)
    listed = {"PATH", "DASK_CONFIG", "OMP_NUM_THREADS", "LC_ALL", "PYTHONHASHSEED", "WANTED"}
    assert set(got) == {*listed, "DASK_HA_LOG_FORMAT"}, "and how the daemon writes its lines"
    assert got["PYTHONHASHSEED"] == "0"


def test_what_the_engine_needs_is_not_in_the_data_directory(tmp_path: Path) -> None:
    preload = tmp_path / "data" / "plugin.py"
    given = settings(tmp_path, engine_options={"preload": [str(preload)]})
    refused = in_a_child(lambda: decided(given))
    assert f"holds {preload}, which the Dask scheduler of this peer needs" in refused


@as_root
@pytest.mark.parametrize(
    ("name", "why"),
    [("no-such-user", "there is no such user"), ("root", "fewer rights than root")],
)
def test_a_user_that_is_none_for_an_engine_is_refused(tmp_path: Path, name: str, why: str) -> None:
    given = settings(tmp_path, engine_user=name)
    assert why in in_a_child(lambda: decided(given))


@as_root
def test_a_user_that_cannot_read_the_pair_of_its_engine_is_refused(tmp_path: Path) -> None:
    create_authority(tmp_path / "tls", CELL)
    given = settings(tmp_path, tmp_path / "tls", engine_user=pwd.getpwuid(NOBODY).pw_name)
    refused = in_a_child(lambda: decided(given))
    assert "this user cannot read" in refused


def test_another_user_takes_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    name = pwd.getpwuid(NOBODY).pw_name
    with pytest.raises(OperatorError, match="takes a daemon that runs as root"):
        isolation.isolate(settings(tmp_path, engine_user=name))


@pytest.mark.parametrize("abi", [0, 5])
def test_what_a_kernel_cannot_do_is_told_once_with_what_to_do(
    abi: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(isolation.landlock, "abi", lambda: abi)
    monkeypatch.setattr(isolation.kernel, "set_dumpable", lambda dumpable: None)
    with caplog.at_level(logging.WARNING):
        plan = isolation.isolate(settings(tmp_path))
    (record,) = caplog.records
    assert plan.summary == ("without signals" if abi else "without files and signals")
    assert " and ".join(plan.lacks) in record.getMessage()
    assert "--engine-user" in record.getMessage()
    assert record.__dict__["action"] == "engine_isolation"
