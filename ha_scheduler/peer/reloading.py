"""SIGHUP: what of new settings a running peer takes, and what waits for its next start. Pure.

Guarantee: a value that is not taken changes nothing, and is named. What other peers must have, too,
or what was bound or opened at the start, is never taken.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from ha_scheduler.peer.settings import PeerSettings

#: Fields of ``PeerSettings``, and keys of its engine's options, that may change.
TAKEN = frozenset({"priority", "engine_watchdog_s"})
TAKEN_OF_ENGINE = frozenset({"log_level"})  # by the next engine


@dataclass(frozen=True, slots=True)
class Changes:
    """Names of settings, each with its former and its new value."""

    taken: dict[str, tuple[object, object]]
    waiting: dict[str, tuple[object, object]]


def compare(old: PeerSettings, new: PeerSettings) -> Changes:
    """What differs."""
    taken: dict[str, tuple[object, object]] = {}
    waiting: dict[str, tuple[object, object]] = {}
    for each in fields(old):
        if each.name == "engine_options":
            continue
        before, now = getattr(old, each.name), getattr(new, each.name)
        if before != now:
            (taken if each.name in TAKEN else waiting)[each.name] = (before, now)
    for name, now in new.engine_options.items():
        before = old.engine_options.get(name)
        if before != now:
            (taken if name in TAKEN_OF_ENGINE else waiting)[name] = (before, now)
    return Changes(taken, waiting)


def in_words(changes: dict[str, tuple[object, object]]) -> str:
    """``priority 2 → 1``, as the options are named; a value may be a command with a secret."""
    shown = TAKEN | TAKEN_OF_ENGINE
    return ", ".join(
        f"{_option(name)} {before} → {now}" if name in shown else _option(name)
        for name, (before, now) in sorted(changes.items())
    )


def _option(name: str) -> str:
    return name.removesuffix("_s").replace("_", "-")
