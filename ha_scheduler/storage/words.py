"""A log in words: what each entry is, and what became of it.

Guarantee: describes any bytes, and shows no value of a user beyond its size.
"""

from __future__ import annotations

from typing import Any

from ha_scheduler.ledger.encoding import decode
from ha_scheduler.ledger.unfit import RejectedRecord, UnknownRecordError
from ha_scheduler.raft.membership import decode_membership
from ha_scheduler.raft.messages import Entry, EntryKind

SHOWN_CHARS = 40  # of a name
SHOWN_ITEMS = 4  # of a list

#: Fields that hold users' data, of which the size is shown.
_OPAQUE = ("payload", "data", "value")


def kind_and_detail(entry: Entry) -> tuple[str, str]:
    """The kind of an entry, and its fields or the reason why there are none."""
    if entry.kind is EntryKind.CONF_CHANGE:
        membership, _ = decode_membership(entry.data)
        return "membership", f"voters={membership.voters} learners={membership.learners}"
    if not entry.data:
        return "no-op", ""
    try:
        record = decode(entry.data)
    except UnknownRecordError as error:
        return "UNKNOWN", f"stops this peer: {error}"
    except RejectedRecord as error:
        return "no record", f"every peer passes over it: {error}"
    fields = (f"{name}={_short(name, getattr(record, name))}" for name in record.__struct_fields__)
    return type(record).__name__, " ".join(fields)


def _short(name: str, value: Any) -> str:
    if name in _OPAQUE and isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    if name == "graph":
        return f"{value:#x}"
    if isinstance(value, tuple):
        more = f", … {len(value)} in all" if len(value) > SHOWN_ITEMS else ""
        return f"({', '.join(_short('', item) for item in value[:SHOWN_ITEMS])}{more})"
    text = repr(value)
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}…"
