"""The directory of a cell in this process: addresses, leader, and the highest term seen.

Guarantee: the term of a cell only grows, and a view of an older term is ignored. A process has one
``Directory`` per set of addresses, which directs all its connection attempts.

Only a daemon raises the term. What an engine says of itself counts when a daemon has said so too,
since an engine runs the code of users; until then it tells addresses, and no more. An engine that
names no peers stands alone: there is nobody to ask.

Cells are told apart by their ids. What is said of another cell than the one in use, on the same
addresses, is kept apart, until somebody enters that one (``enter``).

Thread-safe. Subscribers are called in the thread of ``observe``, outside the lock.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ha_scheduler.comm.address import Endpoint, HAAddressError, parse_endpoint
from ha_scheduler.protocol.client import Welcome
from ha_scheduler.protocol.watch import WatchView

CELLS_MAX = 4  # founded one after the other on the same addresses, whose terms are remembered


@dataclass(frozen=True, slots=True)
class Peer:
    """One peer. ``dask_port``: None if only the peer port is known."""

    name: str
    host: str
    peer_port: int
    dask_port: int | None = None


@dataclass(frozen=True, slots=True)
class View:
    """The leader of one term. ``leader_address`` is None until its engine serves."""

    cell: str
    term: int
    leader: str | None
    leader_address: Endpoint | None
    peers: tuple[Peer, ...] = ()
    addresses: tuple[Endpoint, ...] = ()
    cell_id: str = ""
    predecessor: str = ""
    by_daemon: bool = True  # not by an engine

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
            cell_id=said.cell_id,
            predecessor=said.predecessor,
        )

    @classmethod
    def from_welcome(cls, welcome: Welcome) -> View:
        """The view of a leader."""
        peers = tuple(Peer(name, host, port) for name, host, port in welcome.watch)
        addresses = tuple(map(parse_endpoint, welcome.addresses))
        return cls(
            welcome.cell,
            welcome.term,
            welcome.leader,
            None,
            peers,
            addresses,
            welcome.cell_id,
            welcome.predecessor,
            by_daemon=False,
        )


class Directory:
    """One cell, as far as this process knows it."""

    def __init__(self, addresses: Iterable[Endpoint]) -> None:
        self._lock = threading.Lock()
        self._configured = tuple(addresses)
        self.view: View | None = None  # the newest
        self.peers: tuple[Peer, ...] = ()  # for the watch
        self.leader_hint: Endpoint | None = None  # the last known address of the leader
        self.cell_id = ""  # in use
        self._confirmed: dict[str, int] = {}  # cell id → the highest term that a daemon said
        self._learnt: tuple[Endpoint, ...] = ()
        self.refusals: dict[
            str, str
        ] = {}  # why each candidate was no leader when it was tried last
        self._subscribers: list[Callable[[View], None]] = []

    @property
    def term(self) -> int:
        """The highest term seen, 0 at first."""
        view = self.view
        return view.term if view else 0

    def candidates(self) -> tuple[Endpoint, ...]:
        """Every address of a possible leader, the likeliest first."""
        with self._lock:
            hint = (self.leader_hint,) if self.leader_hint else ()
            return tuple(dict.fromkeys(hint + self._configured + self._learnt))

    def connected(self, endpoint: Endpoint) -> None:
        """A connection to ``endpoint`` was made, so it leads: followers refuse."""
        with self._lock:
            self.leader_hint = endpoint
            self.refusals = {}

    def refused(self, endpoint: Endpoint, why: str) -> None:
        """A candidate was tried, and is no leader."""
        with self._lock:
            self.refusals = {**self.refusals, str(endpoint): why}

    def learn(self, endpoints: Iterable[Endpoint]) -> None:
        """More addresses of the cell."""
        with self._lock:
            self._learnt = tuple(dict.fromkeys(self._learnt + tuple(endpoints)))

    def believes(self, view: View) -> bool:
        """Whether a daemon has said so, or there is none to ask."""
        if view.by_daemon or not (self.peers or view.peers):
            return True
        return self._confirmed.get(view.cell_id, -1) >= view.term

    def enter(self, cell_id: str) -> None:
        """Use this cell from now on; what is known of another one is forgotten."""
        with self._lock:
            if cell_id and self.cell_id and cell_id != self.cell_id:
                self.view, self.leader_hint = None, None
                self.peers = self._learnt = ()
            self.cell_id = cell_id or self.cell_id

    def observe(self, view: View) -> bool:
        """Take in ``view``. Returns whether it was new; subscribers get only new ones."""
        with self._lock:
            if view.by_daemon:
                self._confirm(view)
            if view.cell_id and self.cell_id and view.cell_id != self.cell_id:
                return False
            if view.by_daemon:
                self.cell_id = self.cell_id or view.cell_id
            if not self.believes(view):
                return self._merge(view)
            if not self._is_new(view):
                return False
            known = self.view
            if view.leader_address is None and known is not None and known.term == view.term:
                return self._merge(view)
            self.view = view
            self._merge(view)
            if view.leader_address is not None or (known is not None and view.term > known.term):
                # The former leader's host may be gone, and every attempt would wait for it.
                self.leader_hint = view.leader_address
            subscribers = list(self._subscribers)
        for subscriber in subscribers:
            subscriber(view)
        return True

    def _confirm(self, view: View) -> None:
        self._confirmed[view.cell_id] = max(view.term, self._confirmed.pop(view.cell_id, 0))
        while len(self._confirmed) > CELLS_MAX:
            del self._confirmed[next(iter(self._confirmed))]

    def _is_new(self, view: View) -> bool:
        known = self.view
        if known is None:
            return True
        same = view.cell_id and view.cell_id == known.cell_id
        if not same and view.cell and known.cell and view.cell != known.cell:
            self.leader_hint, self.peers, self._learnt = None, (), ()
            return True
        return view.term >= known.term and view != known

    def _merge(self, view: View) -> bool:
        """Keep the peers and addresses of any view. Returns whether the peers changed."""
        # A welcome has no Dask ports, and its engine may be older than a peer: the watch is newer.
        poorer = any(p.dask_port for p in self.peers) and not any(p.dask_port for p in view.peers)
        known = {peer.name for peer in self.peers}
        new = tuple(peer for peer in view.peers if peer.name not in known)
        peers = self.peers + new if poorer else view.peers
        changed = bool(view.peers) and peers != self.peers
        if changed:
            self.peers = peers
        if view.addresses:
            kept = self._learnt if poorer else ()
            self._learnt = tuple(dict.fromkeys(kept + view.addresses))
        return changed

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
