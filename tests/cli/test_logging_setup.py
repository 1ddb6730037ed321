"""The form of a log line: time, level, logger, sentence, and the stable key of what happened."""

from __future__ import annotations

import logging
import re

from ha_scheduler.cli.logging_setup import ActionFormatter


def record(message: str, *args: object, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("ha_scheduler.peer", logging.INFO, "f.py", 1, message, args, None)
    made.__dict__.update(extra)
    return made


def test_a_line_has_time_level_name_sentence_and_action() -> None:
    line = ActionFormatter().format(record("peer %s leads", "a", action="leading"))
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d [\d:,]+ INFO ha_scheduler\.peer: peer a leads \[action=leading\]", line
    )


def test_a_record_without_an_action_has_none() -> None:
    assert ActionFormatter().format(record("hello")).endswith("ha_scheduler.peer: hello")


def test_a_traceback_follows_the_line() -> None:
    made = record("failed", action="failed")
    made.exc_info = (ValueError, ValueError("no"), None)
    first, *rest = ActionFormatter().format(made).splitlines()
    assert first.endswith("failed [action=failed]")
    assert rest == ["ValueError: no"]
