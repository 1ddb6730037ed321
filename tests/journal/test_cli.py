"""``dask ha journal``: what it says of journals on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from click.testing import CliRunner, Result

from client_replay.journal.file import Owner
from client_replay.journal.journal import Journal
from ha_scheduler.cli.dask_ha import ha
from tests.journal.test_conformance import cancellation, graph
from tests.journal.test_disk import ME, begin, crash, large, resume, spoil


def run(*arguments: object) -> Result:
    return CliRunner().invoke(ha, ["journal", *map(str, arguments)])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "work.journal"


@pytest.fixture
def left(path: Path) -> Path:
    """Of a process that ended: one graph that the cell has, one that it has not, and a wish."""
    journal = begin(path)
    journal.append(graph("a", "b"), 1)
    journal.append(large("c"), 2_700_001)
    journal.append(cancellation("a"), 1)
    journal.committed([1])
    journal.done_with(["a"])
    with mock.patch.object(Owner, "is_alive", return_value=False):
        crash(journal)
    return path


def loads(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


def test_journals_are_listed_with_what_is_in_them(left: Path) -> None:
    (told,) = loads(run("ls", left.parent, "--output", "json"))
    assert (told["client"], told["open"], told["wanted"]) == ("Client-1", 2, 2)
    assert told["nbytes"] == 2_700_002
    table = run("ls", left.parent)
    assert table.exit_code == 0
    assert "Client-1" in table.output


def test_one_that_cannot_be_read_is_listed_as_such(left: Path) -> None:
    (left.parent / "bad.journal").write_bytes(b"nothing" * 3000)
    bad, good = loads(run("ls", left.parent, "--output", "json"))
    assert "no journal" in bad["error"]
    assert good["open"] == 2


def test_its_requests_are_shown_and_no_secret(left: Path) -> None:
    shown = run("show", left, "--output", "json")
    told = loads(shown)
    assert [(r["number"], r["request"], r["state"]) for r in told["requests"]] == [
        (1, "graph", "in the cell"),
        (2, "update-graph", "not submitted"),
        (3, "cancel-keys", "not submitted"),
    ]
    assert told["requests"][0]["keys"] == ["b"]
    for output in (shown.output, run("show", left).output, run("ls", left.parent).output):
        assert ME.session not in output


def test_a_whole_one_is_said_to_be_whole(left: Path) -> None:
    done = run("verify", left)
    assert (done.exit_code, done.output) == (
        0, f"{left} is whole: 2 requests that no cell has, and 2 keys.\n",
    )  # fmt: skip


def test_of_a_damaged_one_is_said_what_is_lost_and_what_can_be_saved(left: Path) -> None:
    spoil(left, 2)
    done = run("verify", left)
    assert done.exit_code == 1
    assert "Request 2 is damaged" in done.output
    assert "1 requests that no cell has" in done.output
    again = run("compact", left)
    assert again.exit_code == 2
    assert "not as they were written" in again.output


def test_what_was_written_anew_has_the_same(left: Path) -> None:
    before = loads(run("show", left, "--output", "json"))["requests"]
    with mock.patch.object(Owner, "is_alive", return_value=False):
        assert run("compact", left).exit_code == 0
    after = loads(run("show", left, "--output", "json"))["requests"]
    assert [r["keys"] for r in after] == [r["keys"] for r in before]


def test_one_that_a_living_process_has_is_not_written_anew(path: Path) -> None:
    journal: Journal = begin(path)
    done = run("compact", path)
    assert done.exit_code == 2
    assert "has it" in done.output
    journal.close()


def test_all_of_it_is_exported(left: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"
    assert run("export", left, target).exit_code == 0
    first, second, third = map(json.loads, target.read_text().splitlines())
    assert (first["state"], first["keys"]) == ("in the cell", ["'b'"])
    assert second["request"] == "update-graph"
    assert len(second["expr_ser"]) == 3
    assert third["request"] == "cancel-keys"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("show", "/nowhere/x.journal"), "there is none"),
        (("ls", "/nowhere"), "is no directory"),
        (("ls",), "ha.client.journal is not set"),
    ],
)
def test_a_mistake_is_one_sentence(arguments: tuple[str, ...], sentence: str) -> None:
    done = run(*arguments)
    assert done.exit_code == 2
    assert sentence in done.output
    assert done.output.count("\n") == 1


def test_it_can_be_resumed_afterwards(left: Path) -> None:
    run("show", left)
    journal = resume(left)
    assert sorted(journal.wanted()) == ["b", "c"]
    journal.close()
