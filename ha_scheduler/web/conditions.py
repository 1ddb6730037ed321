"""What a load balancer, an orchestrator and an operator ask of a peer: up, ready, leader, follower.

Guarantee: each is a function of one status. Pure.

========== =====================================================================================
health     the daemon answers
ready      it counts for the cell: it knows who leads, it votes and is not leaving, it has applied
           the log but for ``LAG_ENTRIES_MAX`` entries, and its engine is ready or active and not
           more than ``ENGINE_LAG_S_MAX`` behind (a witness has none); it is not drained
leader     it leads under a lease that holds now, and its engine serves clients and workers
follower   it is ready, and another peer leads
========== =====================================================================================

*Ready* is not *leads*: a disruption budget counts ready pods, and all of a sound cell are. Between
two leaders nobody is ready, and no peer is to be restarted.
"""

from __future__ import annotations

from ha_scheduler.protocol.control import Status

LAG_ENTRIES_MAX = 1000  # a busy cell commits as many in some 100 ms
ENGINE_LAG_S_MAX = 1.0  # beyond it the peer would lead late

_VOTERS = ("voter", "witness")
_READY_ENGINES = ("ready", "active")


def leads(status: Status) -> bool:
    sound = status.role == "leader" and status.lease_s > 0
    return sound and status.serving and status.engine.state == "active"


def unready(status: Status) -> str:
    """Why the peer does not count, in words; empty if it does."""
    if status.leader is None:
        return "no leader is known"
    own = [member for member in status.members if member.name == status.name]
    if not any(member.role in _VOTERS and not member.leaving for member in own):
        return "this disk has no vote, or is leaving"
    if any(order.peer == status.name for order in status.maintenance):
        return "it is drained"
    if status.commit - status.applied > LAG_ENTRIES_MAX:
        return f"{status.commit - status.applied} entries are committed and not applied yet"
    if status.witness:
        return ""
    if status.engine.state not in _READY_ENGINES:
        return f"the engine is {status.engine.state}"
    if status.engine.lag_s > ENGINE_LAG_S_MAX:
        return f"the engine is {status.engine.lag_s:.1f} s behind"
    return ""


def follows(status: Status) -> bool:
    return not unready(status) and status.role == "follower" and status.leader != status.name
