"""The tutorial pages: their code is run as it stands, with the address and the file of the test."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.engine.conftest import Pair, pair
from tests.tables import DOCS

PAGE = DOCS / "tutorial" / "losing-the-notebook.md"


def blocks(both: Pair, path: Path) -> list[str]:
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    own = {"ha://node-a,node-b,node-c": both.address, "~/work.journal": str(path)}
    for theirs, ours in own.items():
        code = [block.replace(theirs, ours) for block in code]
    return code


async def python(code: str) -> Any:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip


async def test_the_notebook_that_is_lost_is_resumed(tmp_path: Path) -> None:
    path = tmp_path / "work.journal"
    async with pair() as both:
        first, second = blocks(both, path)
        notebook = await python(f"{first}\ninput()")
        assert await notebook.stdout.readline() == b"fetched 4\n"
        assert await notebook.stdout.readline() == b"submitted 3\n"
        notebook.kill()
        await notebook.wait()
        another = await python(second)
        said, _ = await another.communicate()
        assert said.decode().splitlines() == [
            "resumed ['five', 'four', 'three']",
            "results [9, 16, 25]",
        ]
        assert not path.exists()
