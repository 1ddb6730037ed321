"""Releases side by side: what all members understand, and which do not fit. Pure.

Guarantee: a leader writes in no format of the ledger that a member may not read. The format of a
cell is raised when every member has said that it reads the newer one, at the next change of leader,
and never lowered: what was written once has to be read.

``distributed`` itself comes in releases named by year and month. Two that are one month apart are
served side by side, as an upgrade needs it; others may take a graph apart differently.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version

from ha_scheduler.ledger.records import FORMAT

MONTHS_APART_MAX = 1

_DATED = re.compile(r"(\d{4})\.(\d{1,2})\.")


def format_of_cell(written: int | None, members: Iterable[int], read: Mapping[int, int]) -> int:
    """The format that a leader may write.

    ``written``: that of the latest leader in the ledger; None: there was none. ``read``: by each
    member that has said so, what it can read, this peer included.
    """
    listed = list(members)
    known = [read[peer] for peer in listed if peer in read]
    common = min([FORMAT, *known])
    if written is None:
        return common
    return max(written, common) if len(known) == len(listed) else written


def distributed_release() -> str:
    """That of the installed package; empty: none is."""
    try:
        return version("distributed")
    except PackageNotFoundError:
        return ""


def misfit(ours: str, theirs: str) -> str:
    """Why two peers with these releases of ``distributed`` do not fit; empty: they do."""
    months = [_months(text) for text in (ours, theirs)]
    if None in months or abs(months[0] - months[1]) <= MONTHS_APART_MAX:  # type: ignore[operator]
        return ""
    older, newer = sorted((ours, theirs), key=lambda text: _months(text) or 0)
    return (
        f"one of the two runs distributed {older} and the other {newer}, which are more than one "
        f"release apart; upgrade the peers with {older} step by step, one peer after the other"
    )


def _months(text: str) -> int | None:
    match = _DATED.match(text)
    return int(match[1]) * 12 + int(match[2]) if match else None
