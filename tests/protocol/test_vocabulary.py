"""The rule of ``ha_scheduler/protocol``: what was agreed on stays, what is new is announced.

``vocabulary.toml`` is what processes of this ``VERSION`` say to each other without a feature, and
what ledgers of this ``FORMAT`` hold. ``python -m tests.protocol.test_vocabulary`` writes it anew,
which is right only for what was never released.
"""

from __future__ import annotations

import inspect
import json
import sys
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from chaos.faults.lies import said
from ha_scheduler.ledger.records import FORMAT, KINDS
from ha_scheduler.ledger.tables import TABLES
from ha_scheduler.protocol import FEATURES, VERSION
from ha_scheduler.protocol.codec import Message, MessageSet
from tests.engine.test_tables import ROWS

FILE = Path(__file__).with_name("vocabulary.toml")
HOW = "see docs/how-to/add-a-message.md"


def fields_of(kind: type[Any]) -> list[str]:
    """Each field with its type; ``?`` behind the name: it may be missing."""
    optional = {field.name for field in msgspec.structs.fields(kind) if not field.required}
    hints: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        hints |= inspect.get_annotations(base)
    names = kind.__struct_fields__
    return [f"{name}{'?' * (name in optional)}: {hints[name]}" for name in names]


def today() -> dict[str, Any]:
    return {
        "messages": {name: fields_of(kind) for name, kind in said()},
        "records": {f"kind {tag}": fields_of(kind) for tag, kind in KINDS.items()},
        "ledger": {"tables": list(TABLES), "replicated tables": sorted(ROWS)},
    }


AGREED: dict[str, Any] = tomllib.loads(FILE.read_text()) if FILE.exists() else {}


def test_the_version_and_the_format_are_those_of_the_file() -> None:
    assert (AGREED["version"], AGREED["format"]) == (VERSION, FORMAT)


def test_every_feature_has_its_list_and_every_list_its_feature() -> None:
    assert set(AGREED.get("features", {})) == set(FEATURES)


@pytest.mark.parametrize("name", AGREED.get("messages", {}))
def test_what_was_agreed_on_is_said_as_it_was(name: str) -> None:
    now = today()["messages"].get(name)
    assert now is not None, f"{name} was part of version {VERSION}; {HOW}"
    missing = [field for field in AGREED["messages"][name] if field not in now]
    assert not missing, f"{name} has lost or changed {missing} within version {VERSION}; {HOW}"


def test_what_is_new_may_be_missing_and_is_announced_by_a_feature() -> None:
    for name, fields in today()["messages"].items():
        known = AGREED["messages"].get(name, ())
        lists = [f[name] for f in AGREED.get("features", {}).values() if name in f]
        assert name in AGREED["messages"] or lists, f"{name} belongs to no feature; {HOW}"
        for field in set(fields) - set(known):
            assert any(field in announced for announced in lists), f"{name}: {field}: {HOW}"
            assert not known or "?" in field, f"{name}: {field} has no default; {HOW}"


def test_parts_have_what_is_new_at_their_end() -> None:
    kinds = dict(said())
    for name, fields in AGREED["messages"].items():
        if kinds[name].__struct_config__.array_like:
            assert fields_of(kinds[name])[: len(fields)] == fields, HOW


def test_whatever_changes_the_ledger_raises_its_format() -> None:
    now = today()
    for what in ("records", "ledger"):
        assert now[what] == AGREED[what], (
            "raise FORMAT in ha_scheduler/ledger/records.py, then write the file anew"
        )


def test_tags_are_unique_among_what_may_come_from_one_side() -> None:
    """msgspec asks for it when a ``MessageSet`` is made; this is how it looks when they are not."""

    class One(Message, tag="same"):
        pass

    class Two(Message, tag="same"):
        pass

    with pytest.raises(TypeError, match="unique"):
        MessageSet(One | Two)


def _written() -> str:
    lines = [f"version = {VERSION}", f"format = {FORMAT}"]
    for table, entries in today().items():
        lines += ["", f"[{table}]"]
        for name, fields in entries.items():
            lines.append(f'"{name}" = {json.dumps(fields)}')
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    FILE.write_text(_written())
    sys.stdout.write(f"{FILE} is written\n")
