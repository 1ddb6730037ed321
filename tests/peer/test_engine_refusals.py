"""Whom an engine refuses at its ports is in the audit log of its daemon."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ha_scheduler.audit import files
from ha_scheduler.audit.log import AuditLog
from ha_scheduler.comm.permitted import LOG_EVERY_S, Denials
from ha_scheduler.peer.operators.audited import ENGINE_LINES_MAX, ENGINE_LINES_S, RefusalAudit
from ha_scheduler.protocol.engine import CallerRefused
from ha_scheduler.security.identity import ANYBODY_LOCAL


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def audit(tmp_path: Path) -> Iterator[AuditLog]:
    log = AuditLog(tmp_path, "a")
    yield log
    log.close()


def refusals(audit: AuditLog, directory: Path) -> list[dict[str, Any]]:
    audit.settle()
    lines = [json.loads(line) for path in files.paths(directory) for line in files.lines_of(path)]
    return [line for line in lines if line["event"] == "refused"]


def test_a_refusal_is_a_line_that_says_whose_word_it_is(audit: AuditLog, tmp_path: Path) -> None:
    RefusalAudit(audit).note(CallerRefused("alice", "client", "shutdown is for an admin", 3))
    (line,) = refusals(audit, tmp_path)
    assert (line["by"], line["subject"], line["role"]) == ("engine", "alice", "client")
    assert (line["what"], line["alike"]) == ("shutdown is for an admin", 3)


def test_an_engine_cannot_fill_the_log_and_what_it_said_is_counted(
    audit: AuditLog, tmp_path: Path
) -> None:
    clock = Clock()
    told = RefusalAudit(audit, clock)
    for n in range(10 * ENGINE_LINES_MAX):
        told.note(CallerRefused("", "", f"refused {n}", 2))
    assert len(refusals(audit, tmp_path)) == ENGINE_LINES_MAX
    clock.now = ENGINE_LINES_S
    told.note(CallerRefused("", "", "later", 1))
    assert refusals(audit, tmp_path)[-1]["others"] == 9 * ENGINE_LINES_MAX * 2


def test_an_engine_tells_of_each_host_and_each_subject_once_in_a_while() -> None:
    clock, said = Clock(), []
    denials = Denials(clock)
    denials.tell = lambda *words: said.append(words)
    for port in (1, 2, 3):
        denials.note_caller(f"tls://192.0.2.7:{port}", "it showed no token")
        denials.note(ANYBODY_LOCAL, "shutdown", "no")
    assert [times for *_, times in said] == [1, 1]
    assert said[0][2] == "tls://192.0.2.7:1: it showed no token"
    clock.now = LOG_EVERY_S
    denials.note_caller("tls://192.0.2.7:4", "it showed no token")
    assert said[-1][3] == 3
