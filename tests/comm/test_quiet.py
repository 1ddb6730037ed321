"""What is handled is logged as one sentence, and what is not as ever."""

from __future__ import annotations

import logging
import ssl

import pytest
from distributed.comm import CommClosedError

import ha_scheduler.comm  # noqa: F401 - it is what quiets


def said(caplog: pytest.LogCaptureFixture) -> tuple[int, bool]:
    (record,) = caplog.records
    return record.levelno, bool(record.exc_info)


@pytest.mark.parametrize(
    ("error", "traceback"), [(CommClosedError("gone"), False), (ValueError("a defect"), True)]
)
def test_the_end_of_a_connection_has_no_traceback_and_a_defect_has(
    error: Exception, traceback: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "distributed.batched"):
        try:
            raise error
        except Exception:
            logging.getLogger("distributed.batched").info(
                "Batched Comm Closed %r", 1, exc_info=True
            )
    assert said(caplog) == (logging.INFO, traceback)


@pytest.mark.parametrize(
    ("error", "level"),
    [
        (ssl.SSLEOFError("EOF occurred in violation of protocol"), logging.INFO),
        (ssl.SSLCertVerificationError("certificate verify failed"), logging.WARNING),
    ],
)
def test_a_caller_that_hung_up_is_no_warning_and_a_refused_certificate_is(
    error: Exception, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "distributed.comm.tcp"):
        logging.getLogger("distributed.comm.tcp").warning(
            "Listener on %r: TLS handshake failed with remote %r: %s", "here", "there", error
        )
    assert said(caplog) == (level, False)


def test_an_attempt_that_was_given_up_is_not_shown_where_warnings_are(
    caplog: pytest.LogCaptureFixture,
) -> None:
    logger = logging.getLogger("distributed.comm.tcp")
    level = logger.level
    logger.setLevel(logging.WARNING)  # as distributed has it in a notebook
    try:
        logger.warning("Closing dangling stream in <TCP>")
    finally:
        logger.setLevel(level)
    assert not caplog.records
