"""What the demo shows while it runs: a live picture on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

REFRESH_PER_S = 8
PLAIN_EVERY_S = 5.0  # seconds between two lines of progress without a terminal
EVENTS_SHOWN = 12

_STYLES = {"leader": "bold green", "follower": "green", "dead": "bold red"}


@dataclass(slots=True)
class Picture:
    """What there is to show at one moment."""

    peers: dict[str, str] = field(default_factory=dict)  # name -> status
    progress: dict[str, tuple[int, int]] = field(default_factory=dict)  # what -> done, of
    question: str = ""


class Display(Protocol):
    """Where the demo says what happens."""

    def event(self, text: str) -> None:
        """Something happened that is to stay readable."""

    def show(self, picture: Picture) -> None:
        """The state now; may be called often."""


class PlainDisplay:
    """Lines for a log file."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started = time.monotonic()
        self._shown = 0.0

    def event(self, text: str) -> None:
        self._line(text)

    def show(self, picture: Picture) -> None:
        if time.monotonic() - self._shown < PLAIN_EVERY_S:
            return
        self._shown = time.monotonic()
        peers = " ".join(f"{name}:{status}" for name, status in picture.peers.items())
        done = ", ".join(f"{what} {n}/{of}" for what, (n, of) in picture.progress.items())
        self._line(f"  {done}; {peers}")

    def _line(self, text: str) -> None:
        seconds = time.monotonic() - self._started
        self._console.print(f"{seconds:6.1f} s  {text}", soft_wrap=True, highlight=False)


class LiveDisplay:
    """One picture that is drawn again and again."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._started = time.monotonic()
        self._events: list[tuple[float, str]] = []
        self._picture = Picture()

    def event(self, text: str) -> None:
        self._events.append((time.monotonic() - self._started, text))
        self._draw()

    def show(self, picture: Picture) -> None:
        self._picture = picture
        self._draw()

    def _draw(self) -> None:
        self._live.update(Panel(Group(self._peers(), Text(), self._bars(), Text(), self._story())))

    def _peers(self) -> Text:
        line = Text("peers    ")
        for name, status in self._picture.peers.items():
            line.append(f" {name} {status} ", style=_STYLES.get(status, "yellow"))
            line.append("  ")
        return line

    def _bars(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for what, (done, of) in self._picture.progress.items():
            table.add_row(what, ProgressBar(of, done, width=40), f"{done}/{of}")
        table.add_row("now", self._picture.question or "-", "")
        return table

    def _story(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for seconds, text in self._events[-EVENTS_SHOWN:]:
            table.add_row(Text(f"{seconds:6.1f} s", style="dim"), text)
        return table


@contextmanager
def display(console: Console) -> Iterator[Display]:
    """A display that suits where the output goes."""
    if not console.is_terminal:
        yield PlainDisplay(console)
        return
    with Live(console=console, refresh_per_second=REFRESH_PER_S) as live:
        yield LiveDisplay(live)
