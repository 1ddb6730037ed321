"""Each program of ``examples/`` runs as its reader runs it, and says what it promises."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deadlines import SCALE

pytestmark = pytest.mark.system

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
DEADLINE_S = 100 * SCALE

#: Program -> all that it prints, as a regular expression.
SAYS = {
    "attach_workers": (
        r"workers under the next leader: 2\n"
        r"the first one is still there: True\n"
        r"the cluster is closed, the cell is there: peer [abc] leads\n"
    ),
    "fire_and_forget": (
        r"the client has left; written so far: False\n"
        r"written at last: \['the report'\]\n"
    ),
    "killed_leader": (
        rf"the sum is {sum(x * x for x in range(40))}\n"
        r"peer ([abc]) is dead, peer (?!\1)[abc] leads\n"
        r"(  +\d\.\d{3} s  \w+\n)*  +\d\.\d{3} s  serving\n(  +\d\.\d{3} s  \w+\n)*"
    ),
    "planned_transfer": (
        r"([abc]) handed over to (?!\1)[abc] in \d+ ms\n"
        r"the task ran on through it: True\n"
        r"\1 is a follower: stop it, mend it, start it again\n"
    ),
    "queue_and_lock": (
        rf"turns, in their order: {re.escape(str(list(range(30))))}\n"
        r"each once: True\n"
    ),
}


#: Each takes ten seconds and a cell; what the others show, other tests show of a cell as well.
OFTEN = {"killed_leader", "attach_workers"}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in OFTEN else pytest.mark.slow) for name in sorted(SAYS)],
)
def test_an_example_says_what_it_promises(name: str) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py")],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(SAYS[name], done.stdout), f"{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr


def test_each_example_is_run() -> None:
    assert sorted(path.stem for path in EXAMPLES.glob("*.py")) == sorted(SAYS)
