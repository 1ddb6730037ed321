"""How many files and connections this process may have open.

Each client, worker and watcher is one. A process that has none left can neither accept nor open its
log, so the last ``RESERVE`` are kept from callers. Where the system has no such limit (Windows, on
which clients run), nothing is kept.
"""

from __future__ import annotations

import logging

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

WANTED = 8192  # a thousand workers and clients, each with some connections
RAISED_MAX = 1 << 20  # more only makes tables of the kernel longer
RESERVE = 256  # files of the ledger, calls to workers, the log, answers to operators

logger = logging.getLogger(__name__)


def raise_limit() -> int:
    """Raise the soft limit to the hard one. Returns it; warns if it is low."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = _finite(hard)
    if _finite(soft) < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    if limit < WANTED:
        logger.warning(
            "This process may have %d files and connections open, and should be allowed %d: raise "
            "the hard limit (LimitNOFILE= of a systemd unit, `ulimit -Hn` of a shell).",
            limit,
            WANTED,
            extra={"action": "nofile_low"},
        )
    return limit


def is_reserved(fd: int) -> bool:
    """Whether so many are open that a caller may not have this one; the lowest is given first."""
    if resource is None:
        return False
    limit = _finite(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    return fd >= limit - min(RESERVE, limit // 4)


def _finite(limit: int) -> int:
    return RAISED_MAX if limit == resource.RLIM_INFINITY else min(limit, RAISED_MAX)
