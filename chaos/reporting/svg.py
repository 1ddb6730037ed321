"""Drawing: a panel with a time axis, and the few shapes that the reports need. Pure text.

Colours are CSS variables of the page (``style.py``), so that panels follow the reader's light or
dark mode; a panel that stands alone as a file brings the style with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 1160, 110, 16, 8, 26
TICKS = 10  # about so many on the time axis
LETTER = 6.5  # pixels, of a small one
LETTER = 6.5  # pixels, of a small one


@dataclass
class Panel:
    """``height`` of the plot alone; x is seconds from ``start`` to ``end``, y is from bottom up."""

    start: float
    end: float
    height: float
    low: float = 0.0
    high: float = 1.0
    logarithmic: bool = False
    parts: list[str] = field(default_factory=list)

    def x(self, seconds: float) -> float:
        share = (seconds - self.start) / max(1e-9, self.end - self.start)
        return LEFT + min(1.0, max(0.0, share)) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        low, high = self.low, self.high
        if self.logarithmic:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, self.low))
        share = (value - low) / max(1e-9, high - low)
        return TOP + (1 - min(1.0, max(0.0, share))) * self.height

    def rect(
        self, kind: str, start: float, end: float, top: float, height: float, title: str = ""
    ) -> None:
        """``top`` and ``height`` in pixels of the plot."""
        x, width = self.x(start), max(1.0, self.x(end) - self.x(start))
        self._add("rect", kind, title, x=x, y=TOP + top, width=width, height=height)

    def dot(self, kind: str, at: float, value: float, title: str, radius: float = 2.2) -> None:
        self._add("circle", kind, title, cx=self.x(at), cy=self.y(value), r=radius)

    def dots(self, kind: str, points: Iterable[tuple[float, float]]) -> None:
        """Many without titles, as one path."""
        path = "".join(f"M{self.x(a):.1f} {self.y(b):.1f}h.01" for a, b in points)
        if path:
            self.parts.append(f'<path class="{kind}" d="{path}"/>')

    def line(self, kind: str, points: Sequence[tuple[float, float]]) -> None:
        if points:
            path = " ".join(f"{self.x(a):.1f},{self.y(b):.1f}" for a, b in points)
            self.parts.append(f'<polyline class="{kind}" points="{path}"/>')

    def label(self, text: str, top: float, kind: str = "label") -> None:
        """On the left of the plot."""
        self.parts.append(
            f'<text class="{kind}" x="{LEFT - 8}" y="{TOP + top:.1f}" text-anchor="end">'
            f"{escape(text)}</text>"
        )

    def note(self, text: str, at: float, top: float, kind: str = "note") -> None:
        """In the plot; on the other side of its moment where there is no room."""
        x = self.x(at)
        anchor = "end" if x + LETTER * len(text) > WIDTH - RIGHT else "start"
        shift = -4 if anchor == "end" else 4
        self.parts.append(
            f'<text class="{kind}" x="{x + shift:.1f}" y="{TOP + top:.1f}" '
            f'text-anchor="{anchor}">{escape(text)}</text>'
        )

    def grid(self, values: Sequence[float], unit: str) -> None:
        """Lines across, with their values on the left."""
        for value in values:
            y = self.y(value)
            self.parts.append(
                f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
                f'<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">'
                f"{value:g}{unit}</text>"
            )

    def shade(self, spans: Iterable[tuple[float, float, str]]) -> None:
        """Faults, over the whole height."""
        for start, end, title in spans:
            self.rect("fault", start, end, 0, self.height, title)

    def render(self) -> str:
        """With the time axis below."""
        bottom = TOP + self.height
        axis = [
            f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}"/>'
        ]
        for second in ticks(self.start, self.end):
            x = self.x(second)
            axis.append(
                f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}"/>'
                f'<text class="tick" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">'
                f"{second:g} s</text>"
            )
        body = "".join((*axis, *self.parts))
        return f'<svg viewBox="0 0 {WIDTH} {bottom + BOTTOM:g}" role="img">{body}</svg>'

    def _add(self, element: str, kind: str, title: str, **attributes: float) -> None:
        words = " ".join(f'{name}="{value:.1f}"' for name, value in attributes.items())
        inside = f"<title>{escape(title)}</title>" if title else ""
        self.parts.append(f'<{element} class="{kind}" {words}>{inside}</{element}>')


def ticks(start: float, end: float, count: int = TICKS) -> list[float]:
    """Round values within, about ``count`` of them."""
    rough = max(1e-9, end - start) / count
    power = 10 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= rough)
    first = math.ceil(start / step)
    return [n * step for n in range(first, int(end / step) + 1)]


def standing_alone(svg: str, style: str) -> str:
    """As a file of its own."""
    return svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1).replace(
        ">", f"><style>{style} svg {{ background: var(--page) }}</style>", 1
    )
