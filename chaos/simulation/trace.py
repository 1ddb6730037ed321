"""What happened, in lines a person can read; the last of them are shown with a violation.

Guarantee: tracing changes nothing of what happens. Lines are kept as values and become text only
when they are shown.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from chaos.simulation.clock import Timeline
from ha_scheduler.raft.messages import Message, MessageKind
from ha_scheduler.raft.ready import Ready

if TYPE_CHECKING:
    from chaos.simulation.peer import Process

KEPT_MAX = 5_000  # lines; a violation shows the last of them

Show = Callable[[str], None]


class Trace:
    """The newest lines, and all of them to ``show`` if there is one."""

    def __init__(self, timeline: Timeline, show: Show | None = None) -> None:
        self._timeline = timeline
        self._show = show
        self._lines: deque[tuple[float, str, tuple[object, ...]]] = deque(maxlen=KEPT_MAX)

    def note(self, text: str, *values: object) -> None:
        """``text`` is a %-format of ``values``, which must never change."""
        line = (self._timeline.now, text, values)
        self._lines.append(line)
        if self._show is not None:
            self._show(_text(line))

    def arrived(self, message: Message) -> None:
        self.note("%s", message)

    def ready(self, process: Process, ready: Ready) -> None:
        if ready.soft_state is not None:
            state = ready.soft_state
            self.note(
                "%d is %s in term %d, led by %d",
                process.id,
                state.role.value,
                state.term,
                state.leader,
            )
        if ready.hard_state is not None and ready.must_sync:
            self.note("%d writes %s", process.id, ready.hard_state)
        if ready.entries:
            first, last = ready.entries[0], ready.entries[-1]
            self.note(
                "%d writes entries %d/%d to %d/%d",
                process.id,
                first.term,
                first.index,
                last.term,
                last.index,
            )

    def tail(self, lines: int) -> list[str]:
        """The newest lines as text."""
        return [_text(line) for line in list(self._lines)[-lines:]]


def _text(line: tuple[float, str, tuple[object, ...]]) -> str:
    at, text, values = line
    shown = tuple(describe(v) if isinstance(v, Message) else v for v in values)
    return f"{at:10.4f}  {text % shown}"


def describe(message: Message) -> str:
    """One message in a line."""
    parts = [f"{message.source} → {message.to} {message.kind.name} t{message.term}"]
    if message.kind is MessageKind.APPEND:
        terms = ",".join(str(entry.term) for entry in message.entries)
        parts.append(f"after {message.log_term}/{message.index} [{terms}] commit {message.commit}")
    elif message.kind in (MessageKind.VOTE, MessageKind.PRE_VOTE):
        parts.append(f"log ends {message.log_term}/{message.index}{' forced' * message.force}")
    elif message.kind is MessageKind.APPEND_RESPONSE:
        parts.append(f"at {message.index}")
    elif message.kind is MessageKind.HEARTBEAT:
        parts.append(f"commit {message.commit}")
    elif message.snapshot is not None:
        parts.append(f"of {message.snapshot.term}/{message.snapshot.index}")
    if message.reject:
        parts.append(f"rejected, hint {message.log_term}/{message.reject_hint}")
    return " ".join(parts)
