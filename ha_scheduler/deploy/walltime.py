"""The lifetime of a worker, of the walltime of its job. Pure."""

from __future__ import annotations

MARGIN = 0.25  # of a walltime, for the start of the worker and the hand-over at its end
MARGIN_S_MAX = 300.0
STAGGER = 0.25  # of the margin: jobs that began together do not end together


def lifetime_options(walltime: object, *, hours_first: bool = False) -> list[str]:
    """Words for ``dask worker``; none without a walltime, or for one of a form unknown to us.

    ``hours_first``: two numbers are hours and minutes, as LSF has it, and one is minutes.
    """
    limit_s = seconds(str(walltime), hours_first=hours_first) if walltime else None
    if not limit_s:
        return []
    margin = min(MARGIN * limit_s, MARGIN_S_MAX)
    lifetime, stagger = int(limit_s - margin), int(STAGGER * margin)
    return ["--lifetime", f"{lifetime}s", "--lifetime-stagger", f"{stagger}s"]


def seconds(walltime: str, *, hours_first: bool = False) -> int | None:
    """``[D-]HH:MM:SS``, ``MM:SS`` or ``HH:MM``, ``MM``; None for anything else."""
    days, dash, clock = walltime.strip().rpartition("-")
    parts = clock.split(":")
    if not all(part.isascii() and part.isdigit() for part in [*parts, *([days] if dash else [])]):
        return None
    numbers = [int(part) for part in parts]
    if dash and len(numbers) < 3:  # as SLURM: days-hours[:minutes]
        numbers += [0] * (3 - len(numbers))
    match numbers:
        case [hours, minutes, rest]:
            pass
        case [hours, minutes] if hours_first:
            rest = 0
        case [minutes, rest]:
            hours = 0
        case [minutes]:
            hours = rest = 0
        case _:
            return None
    return ((int(days) if dash else 0) * 24 + hours) * 3600 + minutes * 60 + rest
