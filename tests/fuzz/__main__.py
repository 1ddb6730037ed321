"""``python -m tests.fuzz TARGET [libFuzzer's options]``; needs the extra ``fuzz``."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit("usage: python -m tests.fuzz TARGET [-max_total_time=60 …]; see tests/fuzz")
    with atheris.instrument_imports(include=["ha_scheduler"]):
        from tests.fuzz.targets import TARGETS, seeds
    name, *options = sys.argv[1:]
    if name not in TARGETS:
        sys.exit(f"there is no target {name}; these are: {', '.join(TARGETS)}")
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(seeds(name)):
            (Path(corpus) / str(number)).write_bytes(seed)
        atheris.Setup([sys.argv[0], *options, corpus], TARGETS[name])
        atheris.Fuzz()


if __name__ == "__main__":
    main()
