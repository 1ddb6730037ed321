"""A world shrinks limits of the store (``store.shrink``); the tests after it must not notice."""

from __future__ import annotations

import pytest

from ha_scheduler.storage import log_table, staging, transactional


@pytest.fixture(autouse=True)
def _limits_of_the_product(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in (
        (transactional, "TAIL_BYTES"),
        (staging, "STAGE_BYTES"),
        (log_table, "TRIM_ROWS"),
    ):
        monkeypatch.setattr(module, name, getattr(module, name))
