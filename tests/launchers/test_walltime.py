"""The lifetime of a worker, of the walltime of its job."""

from __future__ import annotations

import pytest

from ha_scheduler.deploy.walltime import lifetime_options, seconds


@pytest.mark.parametrize(
    ("walltime", "expected"),
    [
        ("01:00:00", 3600),
        ("2-01:00:00", 49 * 3600),
        ("1-12", 36 * 3600),
        ("30:15", 30 * 60 + 15),
        ("90", 90 * 60),
        ("00:10:00", 600),
        (" 00:10:00 ", 600),
    ],
)
def test_a_walltime_is_read(walltime: str, expected: int) -> None:
    assert seconds(walltime) == expected


def test_lsf_has_hours_and_minutes() -> None:
    assert seconds("04:00", hours_first=True) == 4 * 3600


@pytest.mark.parametrize("odd", ["", "infinite", "1:2:3:4", "-1", "1h", "00:-1:00", "٣:00:00"])
def test_any_other_form_gives_no_lifetime(odd: str) -> None:
    assert seconds(odd) is None
    assert lifetime_options(odd) == []


def test_a_worker_ends_before_its_job_and_jobs_that_began_together_do_not_end_together() -> None:
    assert lifetime_options("00:01:00") == ["--lifetime", "45s", "--lifetime-stagger", "3s"]
    assert lifetime_options("24:00:00") == ["--lifetime", "86100s", "--lifetime-stagger", "75s"]
    assert lifetime_options(None) == lifetime_options("00:00:00") == []
