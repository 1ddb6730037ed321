"""What is said before a certificate expires, by a clock of the test's."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from ha_scheduler.cell.peers import parse_peers
from ha_scheduler.security.authority import create_authority, peer_files
from ha_scheduler.security.expiry import Warnings, ends

END = datetime(2030, 6, 1, tzinfo=UTC)
FILE = Path("/etc/dask-ha/peer-a.pem")


def said(warnings: Warnings, days_left: float, end: datetime = END) -> list[str]:
    return warnings.due({FILE: end}, end - timedelta(days=days_left))


def test_each_limit_is_told_of_once() -> None:
    warnings = Warnings()
    days = (400, 31, 29.5, 29, 8, 6.9, 2, 0.9, 0.5, -1, -2)
    told = [left for left in days if said(warnings, left)]
    assert told == [29.5, 6.9, 0.9, -1]


def test_a_daemon_that_starts_late_says_the_nearest_limit_alone() -> None:
    (sentence,) = said(Warnings(), 0.9)
    assert sentence == (
        f"{FILE} expires in 21 hours, on 2030-06-01 00:00 UTC; renew it with `dask ha cert renew`"
    )


def test_a_renewed_certificate_begins_anew() -> None:
    warnings = Warnings()
    assert said(warnings, 6)
    renewed = END + timedelta(days=365)
    assert said(warnings, 300, renewed) == []
    assert said(warnings, 6, renewed)


def test_the_ends_are_those_in_the_files_and_unreadable_ones_are_left_out(tmp_path: Path) -> None:
    create_authority(tmp_path, parse_peers("a=127.0.0.1"))
    files = peer_files(tmp_path, "a")
    found = ends([files])
    assert set(found) == {files.ca_file, files.cert_file}
    assert timedelta(days=364) < found[files.cert_file] - datetime.now(UTC) < timedelta(days=366)
    files.cert_file.write_text("half cop")
    assert set(ends([files])) == {files.ca_file}
