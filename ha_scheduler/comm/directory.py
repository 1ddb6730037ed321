"""What this process knows of a cell: its addresses, who leads, and the highest term seen.

Guarantee: the term of a cell only grows, and a view of an older term changes nothing. A process has
one ``Directory`` per set of addresses: what one watch learns directs all its connection attempts.

A cell built anew on the same ports has another name; all of the old one is then dropped, its term
included.

Thread-safe. Subscribers are called in the thread that observed the view, outside the lock.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ha_scheduler.comm.address import Endpoint, HAAddressError, parse_endpoint
from ha_scheduler.protocol.client import Welcome
from ha_scheduler.protocol.watch import WatchView


@dataclass(frozen=True, slots=True)
class Peer:
    """One peer as the watch names it. ``dask_port`` is None where only the peer port is known."""

    name: str
    host: str
    peer_port: int
    dask_port: int | None = None


@dataclass(frozen=True, slots=True)
class View:
    """Who leads, in one term. ``leader_address`` is None until its engine serves."""

    cell: str
    term: int
    leader: str | None
    leader_address: Endpoint | None
    peers: tuple[Peer, ...] = ()
    addresses: tuple[Endpoint, ...] = ()

    @classmethod
    def from_watch(cls, said: WatchView) -> View:
        """The view of a watched peer. Raises ``HAAddressError``."""
        peers = tuple(Peer(p.name, p.host, p.peer_port, p.dask_port) for p in said.peers)
        return cls(
            cell=said.cell,
            term=said.term,
            leader=said.leader,
            leader_address=parse_endpoint(said.address) if said.address else None,
            peers=peers,
            addresses=tuple(Endpoint(p.host, p.dask_port) for p in peers if p.dask_port),
        )

    @classmethod
    def from_welcome(cls, welcome: Welcome) -> View:
        """A leader's view."""
        peers = tuple(Peer(name, host, port) for name, host, port in welcome.watch)
        addresses = tuple(map(parse_endpoint, welcome.addresses))
        return cls(welcome.cell, welcome.term, welcome.leader, None, peers, addresses)


class Directory:
    """One cell, as far as this process knows it."""

    def __init__(self, addresses: Iterable[Endpoint]) -> None:
        self._lock = threading.Lock()
        self._configured = tuple(addresses)
        self._hint: Endpoint | None = None
        self._view: View | None = None
        self._peers: tuple[Peer, ...] = ()
        self._learnt: tuple[Endpoint, ...] = ()
        self._subscribers: list[Callable[[View], None]] = []

    @property
    def view(self) -> View | None:
        """The newest view, if any."""
        return self._view

    @property
    def term(self) -> int:
        """The highest term seen, 0 at first."""
        view = self._view
        return view.term if view else 0

    @property
    def peers(self) -> tuple[Peer, ...]:
        """Whom one can watch."""
        return self._peers

    @property
    def leader_hint(self) -> Endpoint | None:
        """Where the leader served last, as far as anybody said."""
        return self._hint

    def candidates(self) -> tuple[Endpoint, ...]:
        """Every address that may lead, the likeliest first."""
        with self._lock:
            hint = (self._hint,) if self._hint else ()
            return tuple(dict.fromkeys(hint + self._configured + self._learnt))

    def connected(self, endpoint: Endpoint) -> None:
        """A connection to ``endpoint`` came about, so it leads: followers refuse."""
        with self._lock:
            self._hint = endpoint

    def learn(self, endpoints: Iterable[Endpoint]) -> None:
        """More addresses under which the cell may be reached."""
        with self._lock:
            self._learnt = tuple(dict.fromkeys(self._learnt + tuple(endpoints)))

    def observe(self, view: View) -> bool:
        """Take in ``view``; whether it said anything new. Subscribers hear only of new ones."""
        with self._lock:
            if not self._is_new(view):
                return False
            known = self._view
            if view.leader_address is None and known is not None and known.term == view.term:
                return self._merge(view)
            self._view = view
            self._merge(view)
            if view.leader_address is not None or (known is not None and view.term > known.term):
                # Who led before is of no use now, and if its host is gone every attempt would wait.
                self._hint = view.leader_address
            subscribers = list(self._subscribers)
        for subscriber in subscribers:
            subscriber(view)
        return True

    def _is_new(self, view: View) -> bool:
        known = self._view
        if known is None:
            return True
        if view.cell and known.cell and view.cell != known.cell:
            self._hint, self._peers, self._learnt = None, (), ()
            return True
        return view.term >= known.term and view != known

    def _merge(self, view: View) -> bool:
        """Keep the view's peers and addresses, whatever else it says."""
        poorer = self._poorer(view.peers)
        known = {peer.name for peer in self._peers}
        new = tuple(peer for peer in view.peers if peer.name not in known)
        peers = self._peers + new if poorer else view.peers
        changed = bool(view.peers) and peers != self._peers
        if changed:
            self._peers = peers
        if view.addresses:
            kept = self._learnt if poorer else ()
            self._learnt = tuple(dict.fromkeys(kept + view.addresses))
        return changed

    def _poorer(self, peers: tuple[Peer, ...]) -> bool:
        """Whether these peers lack known Dask ports.

        A welcome names none, and its engine may be older than a peer: the watch knows more.
        """
        return any(p.dask_port for p in self._peers) and not any(p.dask_port for p in peers)

    def subscribe(self, callback: Callable[[View], None]) -> Callable[[], None]:
        """Call ``callback`` with every new view, until the returned function is called."""
        with self._lock:
            self._subscribers.append(callback)

        def unsubscribe() -> None:
            with self._lock:
                if callback in self._subscribers:
                    self._subscribers.remove(callback)

        return unsubscribe


_directories: dict[frozenset[Endpoint], Directory] = {}
_directories_lock = threading.Lock()


def directory_of(addresses: Iterable[Endpoint]) -> Directory:
    """The one ``Directory`` of this process for this set of addresses."""
    listed = tuple(addresses)
    if not listed:
        raise HAAddressError("a cell has at least one address")
    with _directories_lock:
        return _directories.setdefault(frozenset(listed), Directory(listed))


def forget_directories() -> None:
    """Forget everything. For tests."""
    with _directories_lock:
        _directories.clear()
