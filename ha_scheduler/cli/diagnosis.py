"""What ``doctor`` concludes from what the peers have found out. Pure.

Each finding names what is wrong and what to do. The prediction follows from the protocol, with the
times measured: a follower stands after a silence of one to two election timeouts, of *k* candidates
the first after (1 + 1/(k+1)) of it on average; a pre-vote and a vote are a round trip each, the
vote with an fsync on both sides; the first record of the term is another round trip with an fsync.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import median

from ha_scheduler.ledger.maintenance import ALL
from ha_scheduler.peer.consensus.maintenance import in_words
from ha_scheduler.protocol.control import Examined, Member, Status
from ha_scheduler.protocol.peer import Failover
from ha_scheduler.security.expiry import sentence as expires

CLOCK_S_MAX = 1.0  # between two peers: tokens and orders end by the clock
FSYNC_S_MAX = 0.1  # one heartbeat
FREE_BYTES_MIN = 2 << 30  # two logs of the largest size
FILES_MIN = 4096
CERTIFICATE_DAYS = 30
TRIPS_PER_ELECTION = 10  # of round trip and fsync: a few may be lost, and a leader lives on


@dataclass(frozen=True, slots=True)
class Finding:
    """``fatal``: the cell does not, or will not, do its work."""

    fatal: bool
    what: str
    fix: str


@dataclass(frozen=True, slots=True)
class Prediction:
    """Seconds, for a leader that dies now. ``serving``: as measured by former failovers, if any."""

    election_least: float
    election_mean: float
    election_most: float
    serving: float | None

    @property
    def failover(self) -> float:
        return self.election_mean + (self.serving or 0.0)


@dataclass(frozen=True, slots=True)
class NoElection:
    """Nobody can be elected; ``why``: a sentence."""

    why: str


def findings(
    unreachable: Mapping[str, str],
    statuses: Mapping[str, Status],
    examined: Mapping[str, Examined],
    now: datetime,
) -> list[Finding]:
    """What is wrong, the worst first. ``unreachable``: peers and why."""
    found = [
        *_of_reach(unreachable, examined),
        *_of_cell(statuses),
        *_of_clocks(examined),
        *_of_times(examined),
        *_of_hosts(examined),
        *_of_versions(examined),
        *_of_certificates(statuses, now),
    ]
    return sorted(found, key=lambda finding: not finding.fatal)


def predict(
    statuses: Mapping[str, Status], examined: Mapping[str, Examined], history: Iterable[Failover]
) -> Prediction | NoElection | None:
    """None: nobody leads though somebody could, or who could follow is not ready yet."""
    leader = next((s for s in statuses.values() if s.role == "leader"), None)
    hindrance = _too_few(statuses) if leader is None else _if_it_died(leader)
    if hindrance:
        return NoElection(hindrance)
    if leader is None or leader.name not in examined:
        return None
    own = examined[leader.name]
    silence = own.tick_ms / 1000 * own.election_ticks
    ready = [m for m in _followers(leader) if m.engine_ready]
    if not ready:
        return None
    trip, fsync = _slowest(examined)
    votes = 3 * trip + 3 * fsync  # pre-vote, vote, the first record
    mean = silence * (1 + 1 / (len(ready) + 1)) + votes
    took = [
        entry.phases["serving"] - entry.phases["elected"]
        for entry in history
        if {"serving", "elected"} <= entry.phases.keys()
    ]
    return Prediction(silence + votes, mean, 2 * silence + votes, median(took) if took else None)


def _too_few(statuses: Mapping[str, Status]) -> str:
    """Why nobody can be elected now, while nobody leads; empty: enough voters are up."""
    members = [m for status in statuses.values() for m in status.members]
    voters = {m.name for m in members if m.role != "learner"}
    up = {m.name for m in members if m.connected} | statuses.keys()
    return _of_quorum("Nobody can be elected now", len(up & voters), len(voters), "are up")


def _if_it_died(leader: Status) -> str:
    """Why nobody would be elected then; empty: somebody would, or will once its engine is ready."""
    nobody = "If the leader's host died now, nobody would be elected"
    voters = [m for m in leader.members if m.role != "learner"]
    left = [m for m in voters if m.connected and m.name != leader.name]
    too_few = _of_quorum(nobody, len(left), len(voters), "would be up")
    if too_few:
        return too_few
    order = next((order for order in leader.maintenance if order.peer == ALL), None)
    if order is not None:
        return f"{nobody}: {in_words(order)}."
    may = f"{nobody}: the other peers that are up are drained, or witnesses."
    return "" if _followers(leader) else may


def _of_quorum(nobody: str, up: int, voters: int, when: str) -> str:
    needed = voters // 2 + 1
    if up >= needed:
        return ""
    return f"{nobody}: it takes {needed} of {voters} voters, and {up} {when}."


def _followers(leader: Status) -> list[Member]:
    """Those who may stand when ``leader`` dies."""
    drained = {order.peer for order in leader.maintenance}
    return [
        m
        for m in leader.members
        if m.role == "voter" and m.connected and m.name not in {leader.name, *drained}
    ]


def _slowest(examined: Mapping[str, Examined]) -> tuple[float, float]:
    """The longest round trip of any pair, and the slowest median fsync."""
    trips = [way.trip_s for each in examined.values() for way in each.ways if not way.error]
    return max(trips, default=0.0), max((e.fsync_s for e in examined.values()), default=0.0)


def _of_reach(
    unreachable: Mapping[str, str], examined: Mapping[str, Examined]
) -> Iterator[Finding]:
    for name, why in unreachable.items():
        seen = [
            e.name for e in examined.values() if any(w.peer == name and not w.error for w in e.ways)
        ]
        if seen:
            fix = f"{', '.join(seen)} can: open the peer port (8785) from this machine to {name}"
        else:
            fix = f"start its daemon, or open the peer port (8785) between all peers and to {name}"
        yield Finding(not seen, why.rstrip("."), fix)
    for each in examined.values():
        for way in each.ways:
            if way.error and way.peer not in unreachable:
                fix = f"open the peer port from {each.name} to {way.peer}, and compare --peers"
                yield Finding(True, f"{each.name} does not reach {way.peer}: {way.error}", fix)
            if way.port_error:
                fix = f"open the Dask port of {way.peer}, which leads, for {each.name}'s network"
                what = f"nobody on {each.name} can use the leader {way.peer}: {way.port_error}"
                yield Finding(True, what, fix)


def _of_cell(statuses: Mapping[str, Status]) -> Iterator[Finding]:
    if not statuses:
        return
    leader = next((s for s in statuses.values() if s.role == "leader"), None)
    if leader is None:
        yield Finding(True, "nobody leads", "see to it that a majority of the peers is up")
        return
    voters = [m for m in leader.members if m.role != "learner"]
    live = [m for m in voters if m.connected or m.name == leader.name]
    if len(live) - 1 <= len(voters) // 2 and len(voters) > 1:
        what = f"{len(live)} of {len(voters)} voters are up: one more that goes stops the cell"
        yield Finding(False, what, "bring the others back, or `members replace` them")
    if len(voters) % 2 == 0 or len(voters) == 1:
        what = f"the cell has {len(voters)} voters"
        yield Finding(False, what, "an odd number, 3 or 5, survives more failures for its size")
    if not any(m.engine_ready and m.name != leader.name for m in leader.members):
        what = "no engine but the leader's is ready: a takeover would wait for one"
        yield Finding(False, what, "see `status`, and the logs of the followers")
    if leader.change:
        yield Finding(
            False, f"a change of the membership waits: {leader.change}", "see `members list`"
        )
    for order in leader.maintenance:
        fix = f"`undrain {order.peer}`" if order.peer else "`failover on`"
        yield Finding(False, in_words(order), f"when the work is done: {fix}")
    if leader.rejected:
        what = f"{leader.rejected} records of the log could not be applied"
        yield Finding(False, what, "report it, with the logs of all peers (docs/repair.md)")
    for status in statuses.values():
        if status.engine.isolation not in ("", "full"):
            what = f"the engine of {status.name} is isolated {status.engine.isolation}"
            yield Finding(False, what, "see the log of its daemon (docs/security.md)")


def _of_clocks(examined: Mapping[str, Examined]) -> Iterator[Finding]:
    for each in examined.values():
        for way in each.ways:
            # Each pair once, and both ways if only one of them knows.
            back = examined.get(way.peer)
            if way.error or (back is not None and each.name > way.peer):
                continue
            if abs(way.offset_s) > CLOCK_S_MAX:
                side = "ahead of" if way.offset_s > 0 else "behind"
                what = f"{way.peer}'s clock is {abs(way.offset_s):.1f} s {side} {each.name}'s"
                yield Finding(False, what, "run chrony or another NTP client on all hosts")


def _of_times(examined: Mapping[str, Examined]) -> Iterator[Finding]:
    for each in examined.values():
        if each.fsync_s > FSYNC_S_MAX:
            what = f"a small write takes {each.fsync_s * 1000:.0f} ms on the disk of {each.name}"
            yield Finding(False, what, "give it a disk of its own, rather an SSD or NVMe")
    if not examined:
        return
    own = next(iter(examined.values()))
    election_s = own.tick_ms / 1000 * own.election_ticks
    trip, fsync = _slowest(examined)
    needed = TRIPS_PER_ELECTION * (trip + fsync)
    if needed > election_s:
        ticks = math.ceil(needed / (own.tick_ms / 1000))
        what = (
            f"a round trip of {trip * 1000:.0f} ms and a write of {fsync * 1000:.0f} ms are much "
            f"for an election timeout of {election_s * 1000:.0f} ms: leaders will be taken for dead"
        )
        yield Finding(False, what, f"stop all peers, and start them with --election-ticks {ticks}")
    timings = {(e.tick_ms, e.election_ticks) for e in examined.values()}
    if len(timings) > 1:
        said = ", ".join(
            f"{e.name} {e.election_ticks} of {e.tick_ms} ms" for e in examined.values()
        )
        yield Finding(True, f"the peers differ in their timing: {said}", "the same options on all")


def _of_hosts(examined: Mapping[str, Examined]) -> Iterator[Finding]:
    for each in examined.values():
        if each.free_bytes < FREE_BYTES_MIN:
            what = f"{each.name} has {each.free_bytes / 2**30:.1f} GiB of disk left for its data"
            yield Finding(each.free_bytes < FREE_BYTES_MIN // 8, what, "make room (docs/disks.md)")
        if each.files_max < FILES_MIN:
            what = f"the daemon of {each.name} may open {each.files_max} files"
            yield Finding(
                False, what, "raise the limit (LimitNOFILE=65536): one for each worker and client"
            )


def _of_versions(examined: Mapping[str, Examined]) -> Iterator[Finding]:
    packages = sorted({name for e in examined.values() for name in e.versions})
    for package in ("release", *packages):
        known = {
            e.name: e.release if package == "release" else e.versions.get(package, "none")
            for e in examined.values()
        }
        if len(set(known.values())) > 1:
            said = ", ".join(f"{name} {text}" for name, text in sorted(known.items()))
            title = "dask-ha-scheduler" if package == "release" else package
            yield Finding(False, f"{title} differs: {said}", "install the same on all peers")


def _of_certificates(statuses: Mapping[str, Status], now: datetime) -> Iterator[Finding]:
    for name, status in statuses.items():
        for each in status.certificates:
            end = datetime.fromtimestamp(each.at, UTC)
            if end - now <= timedelta(days=CERTIFICATE_DAYS):
                yield Finding(
                    end <= now, f"on {name}, {expires(each.file, end, now)}", "`init --reissue`"
                )
