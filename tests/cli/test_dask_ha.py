"""``dask ha``: Dask finds our commands, and pays nothing for them until one is called.

Method: the real ``dask`` in a process of its own. What the commands answer of a real cell stands in
``test_cli_system.py``.
"""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from ha_scheduler.cli.commands import COMMANDS, OF_CLIENTS
from ha_scheduler.cli.dask_ha import ha
from ha_scheduler.cli.main import main


def dask(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dask", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_dask_lists_the_group_and_the_group_its_commands() -> None:
    assert "  ha         Operate a replicated scheduler.\n" in dask("--help").stdout
    listed = dask("ha")
    assert (listed.returncode, listed.stderr) == (0, "")
    for name in ("history", "journal", "status"):
        assert f"\n  {name}" in listed.stdout


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_a_command_is_the_same_object_in_both_groups(name: str) -> None:
    assert ha.get_command(click.Context(ha), name) is main.get_command(click.Context(main), name)


def test_every_command_that_is_listed_is_there_under_its_name() -> None:
    context = click.Context(ha)
    commands = [ha.get_command(context, name) for name in ha.list_commands(context)]
    assert [command.name for command in commands if command] == sorted(COMMANDS | OF_CLIENTS)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--bogus"], "No such option '--bogus'"),
        (["bogus"], "No such command 'bogus'"),
        (["status"], "--peers is missing"),
        (["status", "--timeout", "never"], "Invalid value for '--timeout'"),
        (["history", "--peers", "a=127.0.0.1", "--tls-dir", "/nowhere"], "No certificate to ask"),
    ],
)
def test_a_mistake_is_one_sentence_as_with_our_own_command(
    arguments: list[str], sentence: str
) -> None:
    done = dask("ha", *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(f"Error: {sentence}")
    assert done.stderr.count("\n") == 1


def test_listing_the_group_loads_no_module_of_a_command() -> None:
    code = (
        "import ha_scheduler.cli.dask_ha, sys; "
        "heavy = ('asyncio', 'ssl', 'cryptography', 'msgpack', 'rich', 'dask', 'distributed'); "
        "sys.exit(', '.join(name for name in heavy if name in sys.modules) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, f"importing it loads {done.stderr}"
