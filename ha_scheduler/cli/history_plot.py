"""A picture of the changes of leader: a bar for each, a colour for each phase. Pure; SVG 1.1.

Some lines of SVG, and no plotting library: a browser shows it, and nothing more is installed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from html import escape

from ha_scheduler.protocol.peer import Failover

WIDTH, LEFT, RIGHT = 1000, 220, 60  # pixels
ROW, TOP, BOTTOM = 26, 70, 40
_COLOURS = (
    "#4e79a7", "#f28e2b", "#e15759", "#76b7b2", "#59a14f",
    "#edc948", "#b07aa1", "#ff9da7", "#9c755f", "#bab0ac",
)  # fmt: skip
_TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300, 3600)
_GRID_MAX = 10


def drawing(entries: Sequence[Failover]) -> str:
    """The newest above. A bar's parts end at a phase, which the legend names."""
    phases = sorted({phase for entry in entries for phase in entry.phases})
    colours = {phase: _COLOURS[n % len(_COLOURS)] for n, phase in enumerate(phases)}
    longest = max((max(entry.phases.values(), default=0.0) for entry in entries), default=0.0)
    scale = (WIDTH - LEFT - RIGHT) / (longest or 1.0)
    height = TOP + ROW * len(entries) + BOTTOM
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        '<text x="10" y="22" font-size="16">Changes of leader: seconds since the loss was '
        "detected</text>",
        *_legend(colours),
        *_grid(longest, scale, height),
    ]
    for row, entry in enumerate(reversed(entries)):
        lines += _bar(entry, TOP + row * ROW, scale, colours)
    if not entries:
        lines.append(f'<text x="10" y="{TOP}">No change of leader is known.</text>')
    return "\n".join([*lines, "</svg>", ""])


def _bar(entry: Failover, y: float, scale: float, colours: dict[str, str]) -> Iterator[str]:
    when = datetime.fromtimestamp(entry.started, UTC)
    label = escape(f"{when:%F %T}  term {entry.term}, {entry.leader}")
    yield f'<text x="10" y="{y + 16}">{label}</text>'
    begin = 0.0
    for phase, end in sorted(entry.phases.items(), key=lambda item: item[1]):
        title = escape(f"{phase}: {end:.3f} s")
        yield (
            f'<rect x="{LEFT + begin * scale:.1f}" y="{y + 4}" height="{ROW - 10}" '
            f'width="{(end - begin) * scale:.1f}" fill="{colours[phase]}">'
            f"<title>{title}</title></rect>"
        )
        begin = end
    yield f'<text x="{LEFT + begin * scale + 4:.1f}" y="{y + 16}">{begin:.2f}</text>'


def _legend(colours: dict[str, str]) -> Iterator[str]:
    x = 10.0
    for phase, colour in colours.items():
        yield f'<rect x="{x:.0f}" y="36" width="12" height="12" fill="{colour}"/>'
        yield f'<text x="{x + 16:.0f}" y="46">{escape(phase)}</text>'
        x += 30 + 7 * len(phase)


def _grid(longest: float, scale: float, height: int) -> Iterator[str]:
    step = next((tick for tick in _TICKS if longest / tick <= _GRID_MAX), longest)
    for n in range(int(longest / step) + 1 if longest else 0):
        x = LEFT + n * step * scale
        yield (
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 8}" y2="{height - BOTTOM + 8}" '
            f'stroke="#dddddd"/>'
        )
        yield f'<text x="{x:.1f}" y="{height - BOTTOM + 24}">{n * step:g} s</text>'
