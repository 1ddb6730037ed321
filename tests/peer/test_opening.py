"""A disk that a newer release has written is left alone."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from ha_scheduler.errors import OperatorError
from ha_scheduler.ledger import fold
from ha_scheduler.ledger.encoding import encode
from ha_scheduler.ledger.records import FORMAT, TermStarted
from ha_scheduler.ledger.tables import META
from ha_scheduler.peer.opening import check_format
from tests.twins.tables import MemoryTables


def test_a_ledger_that_a_newer_release_has_led_is_refused_with_what_to_do() -> None:
    tables = MemoryTables()
    check_format(Path("/d"), tables)
    fold.fold(tables, 1, 7, encode(TermStarted(7, "a")))
    check_format(Path("/d"), tables)
    ((row, _),) = tables.scan(META)
    tables.put(META, row, msgspec.msgpack.encode([1, 8, "b", FORMAT + 1]))
    with pytest.raises(
        OperatorError, match=r"^/d: all of term 8, .* newer .* upgrade this peer\.$"
    ):
        check_format(Path("/d"), tables)
