"""Each target for some seconds; ``python -m tests.fuzz`` goes on for as long as it is told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS, seeds

ROOT = Path(__file__).resolve().parent.parent.parent
SECONDS = 20


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_takes_its_seeds_and_what_is_left_of_them(target: str) -> None:
    for seed in seeds(target):
        for size in range(len(seed) + 1):
            TARGETS[target](seed[:size])


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_nothing_that_a_fuzzer_finds_is_more_than_refused(target: str, tmp_path: Path) -> None:
    pytest.importorskip("atheris")
    options = [f"-max_total_time={SECONDS}", f"-artifact_prefix={tmp_path}/", "-verbosity=0"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", target, *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS + 60,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
