"""The form of a log line: time, level, logger, sentence, and the stable key of what happened."""

from __future__ import annotations

import json
import logging
import re
from datetime import datetime

from ha_scheduler.log_lines import ActionFormatter, JsonFormatter


def record(message: str, *args: object, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("ha_scheduler.peer", logging.INFO, "f.py", 1, message, args, None)
    made.__dict__.update(extra)
    return made


def test_a_line_has_time_level_name_sentence_and_action() -> None:
    line = ActionFormatter().format(record("peer %s leads", "a", action="leading"))
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT[\d:]{8}\.\d{3}[+-]\d\d:\d\d INFO "
        r"ha_scheduler\.peer: peer a leads \[action=leading\]",
        line,
    )


def test_a_record_without_an_action_has_none() -> None:
    assert ActionFormatter().format(record("hello")).endswith("ha_scheduler.peer: hello")


def test_a_traceback_follows_the_line() -> None:
    made = record("failed", action="failed")
    made.exc_info = (ValueError, ValueError("no"), None)
    first, *rest = ActionFormatter().format(made).splitlines()
    assert first.endswith("failed [action=failed]")
    assert rest == ["ValueError: no"]


def test_a_line_of_json_has_the_same_and_the_traceback_and_is_one_line() -> None:
    made = record("failed\nbadly: %s", 'a "b"', action="failed")
    made.exc_info = (ValueError, ValueError("no"), None)
    text = JsonFormatter("engine").format(made)
    assert "\n" not in text
    line = json.loads(text)
    assert datetime.fromisoformat(line.pop("time")).tzinfo is not None
    assert line == {
        "level": "INFO",
        "process": "engine",
        "logger": "ha_scheduler.peer",
        "message": 'failed\nbadly: a "b"',
        "action": "failed",
        "error": "ValueError: no",
    }
