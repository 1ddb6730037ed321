"""How the benchmarks print failovers: a line each, then percentiles, then what must be 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

MUST_BE_ZERO = ("wrong", "lost", "repeated")


def percentile(values: Sequence[float], share: float) -> float:
    """The value that ``share`` of the sorted values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]


def print_phases(number: int, names: Sequence[str], phases: Mapping[str, float], done: int) -> None:
    """One failover: seconds to each phase, printed as milliseconds."""
    times = "  ".join(f"{name} {phases[name] * 1e3:7.0f}" for name in names if name in phases)
    print(f"{number + 1:3}: {times} ms   ({done} tasks done)", flush=True)


def print_percentiles(
    start: str, names: Sequence[str], failovers: Sequence[Mapping[str, float]]
) -> None:
    """All failovers: seconds from ``start`` to each phase, printed as milliseconds."""
    print(f"{start + ' to':>14} {'p50':>7} {'p99':>7} {'max':>7}")
    for name in names:
        values = [phases[name] * 1e3 for phases in failovers if name in phases]
        if values:
            row = (percentile(values, 0.5), percentile(values, 0.99), max(values))
            print(f"{name:>14} " + " ".join(f"{value:7.0f}" for value in row))


def print_verdict(result: Mapping[str, int]) -> None:
    """What ``counting.verdict`` found."""
    print("tasks executed more than once:", result["repeated"])
    print("futures lost:", result["lost"], "  results wrong:", result["wrong"])


def succeeded(result: Mapping[str, int]) -> bool:
    """Whether everything is 0 that must be."""
    return not any(result[name] for name in MUST_BE_ZERO)
