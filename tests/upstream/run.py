"""One run of pytest over files of upstream, with the classes that the environment names.

Started by ``tests.upstream.runner``. A process that one of the tests starts imports this module
again as ``__mp_main__`` (multiprocessing/spawn.py), so our classes take the originals' place there
too. Not named ``__main__``, which such a process would leave out.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

CLASSES = "HA_UPSTREAM_CLASSES"  # "originals", "ours", or "cell": our Client, and a whole cell
SEED = "HA_UPSTREAM_SEED"  # of the moments at which a cell loses its leader
AFTER = "HA_UPSTREAM_AFTER"  # the message after which it does, instead
PACKAGE = "HA_UPSTREAM_PACKAGE"  # the directory with copies of distributed/tests and shuffle/tests
OUTCOMES = "HA_UPSTREAM_OUTCOMES"  # the file to which outcomes go, a line each
SEVERITY = ("passed", "skipped", "xfail", "failed")  # of setup, call and teardown the worst counts
DETAIL_CHARACTERS_MAX = 4_000


def _find_tests(package: Path) -> None:
    """Let ``distributed.tests`` be found, which the installed package has not."""
    import distributed.shuffle

    distributed.__path__.append(str(package))
    distributed.shuffle.__path__.append(str(package / "shuffle"))


if PACKAGE in os.environ:
    _find_tests(Path(os.environ[PACKAGE]))

if os.environ.get(CLASSES) in ("ours", "cell"):
    from tests.upstream.substitute import substitute

    substitute()


class Outcomes:
    """A pytest plugin that writes down what was collected and what became of each test.

    A test that has an outcome already is left out: the process before this one died after it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._done: set[str] = set()
        self._worst: dict[str, tuple[str, str]] = {}
        if path.exists():
            self._done = {json.loads(line)["test"] for line in path.read_text().splitlines()}

    def _write(self, test: str, outcome: str, detail: str = "", blow: str = "") -> None:
        line = {"test": test, "outcome": outcome, "detail": detail, "blow": blow}
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def pytest_configure(self, config: Any) -> None:
        config.addinivalue_line("markers", "flaky: of pytest-rerunfailures, which is not needed")
        from distributed import utils_test

        utils_test.certs_dir = os.path.join(os.environ[PACKAGE], "tests")

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = [item for item in items if item.nodeid not in self._done]

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        # What stays the last line if this test ends the process.
        self._write(nodeid, "crashed")

    def pytest_runtest_logreport(self, report: Any) -> None:
        outcome = self._outcome(report)
        worst, _ = self._worst.get(report.nodeid, (SEVERITY[0], ""))
        if SEVERITY.index(outcome) >= SEVERITY.index(worst):
            self._worst[report.nodeid] = (outcome, self._detail(outcome, report))
        if report.when == "teardown":
            blow = dict(report.user_properties).get("blow", "")
            self._write(report.nodeid, *self._worst[report.nodeid], blow)

    @staticmethod
    def _detail(outcome: str, report: Any) -> str:
        if outcome == "failed":
            return str(report.longreprtext)[-DETAIL_CHARACTERS_MAX:]
        if outcome == "skipped" and isinstance(report.longrepr, tuple):
            return str(report.longrepr[2]).removeprefix("Skipped: ")
        return ""

    @staticmethod
    def _outcome(report: Any) -> str:
        if hasattr(report, "wasxfail"):
            return "xfail"  # or an unexpected pass: upstream allows both
        return str(report.outcome)


def main() -> int:
    """Run pytest with the arguments of the command line."""
    plugins: list[Any] = [Outcomes(Path(os.environ[OUTCOMES]))]
    if os.environ[CLASSES] == "cell":
        from tests.upstream.in_cell import InCell

        after = os.environ.get(AFTER)
        seed = int(os.environ[SEED])
        plugins.append(InCell(Path.cwd() / "cells", seed, int(after) if after else None))
    return int(pytest.main(sys.argv[1:], plugins=plugins))


if __name__ == "__main__":
    sys.exit(main())
