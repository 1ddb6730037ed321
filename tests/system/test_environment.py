"""Packages and directories that a plugin puts in place on workers, while leaders die.

pip is real and installs a wheel that the test has made; it asks no index. Conda is not there, and
nothing takes its place: what a user is told of that is tested. (A stand-in would have to be a
module, ``conda.cli.python_api``, that does what we say it does.)

How often a plugin was set up is what the processes of a worker say of it as they do it.
"""

from __future__ import annotations

import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from distributed import get_worker
from distributed.diagnostics.plugin import CondaInstall, PipInstall, UploadDirectory

from tests.system.conftest import DEADLINE_S, Scene, wait_until

pytestmark = pytest.mark.system

WHEEL = {
    "WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "METADATA": "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n",
    "RECORD": "",
}


def tiny_wheel(directory: Path) -> Path:
    path = directory / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("tiny.py", "ANSWER = 42\n")
        for name, text in WHEEL.items():
            wheel.writestr(f"tiny-1.0.dist-info/{name}", text)
    return path


def set_ups(scene: Scene, name: str) -> dict[str, int]:
    """How often each worker, or its nanny, began to set the plugin up."""
    said = re.compile(rf"Starting (?:Worker|Nanny) plugin {re.escape(name)}")
    return {
        w.name: len(said.findall(w.log_path.read_text())) for w in scene.cluster.workers.values()
    }


def of_module(name: str, path: str) -> Any:
    """Inside of a task: what the module says, and from where it was imported."""
    if path not in sys.path:
        sys.path.insert(0, path)
    module = __import__(name)
    return module.ANSWER, module.__file__


def uploaded_to_here(directory: str) -> Any:
    """Inside of a task: what the module says that is in the nanny's directory."""
    nanny = Path(get_worker().local_directory).parent
    (path,) = {*nanny.glob(directory), *nanny.glob(f"*/{directory}")}
    return of_module("bundled", str(path))[0]


def addresses(scene: Scene) -> list[str]:
    """All workers, when those that were restarted are back and those of before are gone."""
    names = sorted(scene.cluster.workers)

    def workers() -> dict[str, Any]:
        return dict(scene.client.scheduler_info(n_workers=-1)["workers"])

    def settled() -> bool:
        each = workers().values()
        running = all(worker["status"] == "running" for worker in each)
        return running and sorted(str(worker["name"]) for worker in each) == names

    wait_until(settled, "all workers are there")
    return list(workers())


def add_a_worker(scene: Scene) -> None:
    scene.cluster.scale(len(scene.cluster.workers) + 1)


@pytest.mark.parametrize(
    ("op", "moment"),
    [
        ("semaphore_acquire", "committed"),  # a worker is about to set it up
        pytest.param("register_worker_plugin", "arrived", marks=pytest.mark.slow),
        pytest.param("register_worker_plugin", "done", marks=pytest.mark.slow),
        pytest.param("register_worker_plugin", "committed", marks=pytest.mark.slow),
        # all is done, the client was not told
        pytest.param("register_scheduler_plugin", "committed", marks=pytest.mark.slow),
    ],
)
def test_a_package_is_installed_once_on_each_worker(
    scene: Scene, tmp_path: Path, op: str, moment: str
) -> None:
    target = tmp_path / "packages"
    options = ["--no-index", "--no-deps", "--no-compile", "--upgrade", "--target", str(target)]
    plugin = PipInstall([str(tiny_wheel(tmp_path))], pip_options=options)
    scene.through_a_death(op, moment, lambda: scene.client.register_plugin(plugin))
    assert set(set_ups(scene, plugin.name).values()) == {1}
    add_a_worker(scene)
    assert set(set_ups(scene, plugin.name).values()) == {1}
    for address in addresses(scene):
        asked = scene.client.submit(of_module, "tiny", str(target), workers=[address], pure=False)
        assert asked.result(timeout=DEADLINE_S)[0] == 42


@pytest.mark.parametrize(
    "restart",
    [
        pytest.param(True, id="workers restart"),
        pytest.param(False, id="workers stay", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(
    ("op", "moment"),
    [
        pytest.param("register_nanny_plugin", "arrived", marks=pytest.mark.slow),
        ("register_nanny_plugin", "done"),
        pytest.param("register_nanny_plugin", "committed", marks=pytest.mark.slow),
        pytest.param("register_scheduler_plugin", "committed", marks=pytest.mark.slow),
    ],
)
def test_a_directory_is_uploaded_once_to_each_worker(
    scene: Scene, tmp_path: Path, op: str, moment: str, restart: bool
) -> None:
    source = tmp_path / f"bundle-{op}-{moment}-{restart}"
    source.mkdir()
    (source / "bundled.py").write_text("ANSWER = 42\n")
    plugin = UploadDirectory(str(source), restart_workers=restart)
    before = set(addresses(scene))
    scene.through_a_death(op, moment, lambda: scene.client.register_plugin(plugin))
    assert set(set_ups(scene, plugin.name).values()) == {1}
    add_a_worker(scene)
    assert set(set_ups(scene, plugin.name).values()) == {1}
    for address in addresses(scene):
        asked = scene.client.submit(uploaded_to_here, source.name, workers=[address], pure=False)
        assert asked.result(timeout=DEADLINE_S) == 42
    assert (before & set(addresses(scene))) == (set() if restart else before)


def test_an_installer_that_is_missing_is_told_to_the_user_by_the_next_leader(scene: Scene) -> None:
    plugin = CondaInstall(["tiny"])

    def install() -> None:
        with pytest.raises(RuntimeError, match="conda could not be found"):
            scene.client.register_plugin(plugin)

    install()
    scene.through_a_death("register_scheduler_plugin", "arrived", install)
    assert not any(set_ups(scene, plugin.name).values())
