"""When certificates expire, and what is said of it beforehand.

Guarantee: each certificate is told of 30, 7 and 1 days before it expires, and when it has, once
each; a renewed one begins anew. Pure: the clock is an argument.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ha_scheduler.cell.tls_files import TlsFiles
from ha_scheduler.errors import OperatorError
from ha_scheduler.security.files import read_certificates

DAYS = (30, 7, 1, 0)  # before the end


def ends(pairs: Iterable[TlsFiles]) -> dict[Path, datetime]:
    """Until when the certificates of a process are valid, by file; of authorities the first end.

    What cannot be read just now is left out: it may be half copied.
    """
    found: dict[Path, datetime] = {}
    for files in pairs:
        for path in (files.ca_file, files.cert_file):
            try:
                certificates = read_certificates(path)
            except OperatorError:
                continue
            own = certificates if path == files.ca_file else certificates[:1]
            found[path] = min(each.not_valid_after_utc for each in own)
    return found


class Warnings:
    """What has been said already."""

    def __init__(self) -> None:
        self._said: dict[Path, tuple[datetime, int]] = {}

    def due(self, until: Mapping[Path, datetime], now: datetime) -> list[str]:
        """The sentences to log now."""
        sentences = []
        for path, end in until.items():
            left = min((days for days in DAYS if end - now <= timedelta(days=days)), default=None)
            if left is None or self._said.get(path) == (end, left):
                continue
            self._said[path] = (end, left)
            sentences.append(sentence(path, end, now))
        return sentences


def sentence(path: Path | str, end: datetime, now: datetime) -> str:
    """What an operator is told of a certificate that expires soon, or has expired."""
    when = f"{end.astimezone(UTC):%F %R} UTC"
    if now >= end:
        return f"{path} expired on {when}; renew it with `dask ha cert renew`"
    left = end - now
    days = f"{left.days} days" if left.days > 1 else f"{left // timedelta(hours=1)} hours"
    return f"{path} expires in {days}, on {when}; renew it with `dask ha cert renew`"
