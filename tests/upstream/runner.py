"""Runs files of upstream's tests in processes of their own and gathers the outcomes.

Guarantee: every collected test gets an outcome. A test that ends its process, or keeps it longer
than ``PROCESS_SECONDS_MAX``, counts as failed, and the tests after it run in a new process.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.upstream.run import AFTER, CLASSES, OUTCOMES, PACKAGE, SEED

ROOT = Path(__file__).parents[2]
TEST_SECONDS_MAX = 120  # of a test; upstream's own limit for most is 30 s
PROCESS_SECONDS_MAX = 5400.0  # of a file; the longest takes 4 minutes, in a cell 40
PROCESSES_PER_FILE_MAX = 20  # of them, one less may be ended by a test
FOLDERS = (
    "tests",
    "shuffle/tests",
    "deploy/tests",
    "diagnostics/tests",
    "http/scheduler/tests",
)
PACKAGE_FOLDER = "package"
IGNORED_WARNINGS = (
    ":pytest.PytestAssertRewriteWarning",  # utils_test loads pytest_timeout before pytest does
    # as upstream ignores it of its own class, PooledRPCCall
    "coroutine 'SchedulerRPC.__getattr__.<locals>.call' was never awaited:RuntimeWarning",
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """``passed``, ``failed``, ``skipped`` or ``xfail``; what pytest said of it; what was killed."""

    word: str
    detail: str = ""
    blow: str = ""


Results = dict[str, Outcome]


class Workshop:
    """A directory with copies of upstream's tests, in which they find the installed distributed.

    Copies, because pytest puts the directory of ``conftest.py`` on the path, and a process that a
    test starts would import the checkout's distributed from there.
    """

    def __init__(self, checkout: Path, directory: Path, seed: int = 0) -> None:
        self._seed = seed
        self.directory = directory
        source = checkout / "distributed"
        for folder in FOLDERS:
            shutil.copytree(source / folder, directory / PACKAGE_FOLDER / folder)
            (directory / PACKAGE_FOLDER / folder / "__init__.py").unlink(missing_ok=True)
        for name in ("conftest.py", "pyproject.toml"):
            shutil.copy(checkout / name, directory / name)
        self._runs = 0

    def path_of(self, name: str) -> str:
        """The copy of a test file, relative to the directory."""
        for folder in FOLDERS:
            path = f"{PACKAGE_FOLDER}/{folder}/{name}"
            if (self.directory / path).exists():
                return path
        raise FileNotFoundError(f"this checkout of upstream has no {name}")

    def run(self, classes: str, arguments: list[str], after: int | None = None) -> Results:
        """Run pytest with these arguments. Tests are named as pytest names them.

        In a cell the leader dies after the message ``after``, if that is given; 0: it does not.
        """
        self._runs += 1
        outcomes = self.directory / f"outcomes-{self._runs}.jsonl"
        log = self.directory / f"pytest-{self._runs}-{classes}.log"
        for _ in range(PROCESSES_PER_FILE_MAX):
            if self._process(self._environment(classes, outcomes, after), arguments, log):
                break
        results: Results = {}
        for line in outcomes.read_text().splitlines() if outcomes.exists() else ():
            entry = json.loads(line)
            crashed = entry["outcome"] == "crashed"
            detail = "the process ended during this test" if crashed else entry["detail"]
            word = "failed" if crashed else entry["outcome"]
            results[entry["test"]] = Outcome(word, detail, entry["blow"])
        if not results:
            raise RuntimeError(f"no test ran; {log} says why")
        return results

    def _environment(self, classes: str, outcomes: Path, after: int | None) -> dict[str, str]:
        package = self.directory / PACKAGE_FOLDER
        # Peers and workers unpickle functions of the tests' modules.
        modules = [str(package / folder) for folder in FOLDERS] if classes == "cell" else []
        path = [str(ROOT), *modules, os.environ.get("PYTHONPATH", "")]
        return os.environ | {
            CLASSES: classes,
            OUTCOMES: str(outcomes),
            SEED: str(self._seed),
            AFTER: "" if after is None else str(after),
            PACKAGE: str(package),
            "PYTHONPATH": os.pathsep.join(path),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def _process(self, environment: dict[str, str], arguments: list[str], log: Path) -> bool:
        """One process; whether it came to its end by itself."""
        command = [sys.executable, "-m", "tests.upstream.run", *arguments]
        command += [f"--timeout={TEST_SECONDS_MAX}", "--timeout-method=signal", "--color=no"]
        for ignored in IGNORED_WARNINGS:
            command += ["-W", f"ignore:{ignored}"]
        with log.open("a") as file:
            process = subprocess.Popen(
                command, cwd=self.directory, env=environment, stdout=file, stderr=file
            )
            try:
                status = process.wait(PROCESS_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                return False
        return status in (0, 1, 5)  # all passed, some failed, none left to run
