"""The peers of a cell: the operator's ``--peers``, checked.

Guarantee: daemons with equal ``Cell.identity`` agree on the names and addresses of all peers. The
identity is kept in the data directory and said first on each peer link: a peer of another cell, or
one with a mistyped list, is refused and never votes. Dask ports are no part of it: no vote depends
on them.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from functools import lru_cache

from ha_scheduler.cell.address import is_loopback, join_address
from ha_scheduler.errors import OperatorError
from ha_scheduler.protocol.peer import PeerAddress

DEFAULT_PEER_PORT = 8785
DEFAULT_DASK_PORT = 8786
PEERS_MAX = 7  # each one more is an fsync more to wait for; seven survive three failures
NAME_CHARS_MAX = 63  # the name is a certificate's common name, which X.509 limits to 64
PORT_MAX = 65535

_PEER_ID_BITS = 53  # the largest integers that JSON and Lua keep exactly
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_HOST = re.compile(r"(?=.{1,253}$)[a-z0-9_](?:[a-z0-9_-]*[a-z0-9])?(?:\.[a-z0-9_][a-z0-9_-]*)*\.?")
_ADDRESS = re.compile(
    r"(?P<host>\[[^\]]*\]|[^:/\[\]]*)(?::(?P<port>[^/]*))?(?:/(?P<dask>.*))?", re.DOTALL
)
_KEY_SUFFIX = "-key"  # peer-<name>-key.pem is the file of a private key


@dataclass(frozen=True, slots=True)
class Cell:
    """The peers that form one replicated scheduler, sorted by name."""

    peers: tuple[PeerAddress, ...]
    by_id: dict[int, PeerAddress] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "peers", tuple(sorted(self.peers, key=lambda peer: peer.name)))
        object.__setattr__(self, "by_id", {_peer_id(peer.name): peer for peer in self.peers})
        if len(self.by_id) != len(self.peers):  # 53 bits of SHA-256: never, or a duplicate name
            raise OperatorError("Two peers have one name or one id; give one of them another name.")

    @property
    def identity(self) -> str:
        """``a=10.0.0.1:8785,b=10.0.0.2:8785``: equal on all peers, in canonical order."""
        return ",".join(f"{p.name}={join_address(p.host, p.peer_port)}" for p in self.peers)

    @property
    def text(self) -> str:
        """The value of ``--peers``, with the Dask ports."""
        return ",".join(
            f"{p.name}={join_address(p.host, p.peer_port)}/{p.dask_port}" for p in self.peers
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the peers, sorted."""
        return tuple(peer.name for peer in self.peers)

    @property
    def on_loopback(self) -> bool:
        """Whether all peers are on loopback."""
        return all(is_loopback(peer.host) for peer in self.peers)

    @property
    def client_address(self) -> str:
        """The address for clients and workers: ``ha://10.0.0.1:8786,10.0.0.2:8786``."""
        return "ha://" + ",".join(join_address(p.host, p.dask_port) for p in self.peers)

    def peer(self, name: str) -> PeerAddress:
        """The peer called ``name``. Raises ``KeyError``."""
        return self.by_id[_peer_id(name)]

    def peer_id(self, name: str) -> int:
        """The Raft id of the founder ``name``, by its name alone. Raises ``KeyError``."""
        identifier = _peer_id(name)
        if identifier not in self.by_id:
            raise KeyError(name)
        return identifier


@lru_cache(maxsize=256)
def _peer_id(name: str) -> int:
    digest = hashlib.sha256(name.encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> (64 - _PEER_ID_BITS)) or 1


def parse_peers(text: str, dask_port: int = DEFAULT_DASK_PORT, *, any_count: bool = False) -> Cell:
    """The cell of ``--peers``. Raises ``OperatorError``.

    Each of the comma-separated peers is ``[NAME=]HOST[:PEER_PORT][/DASK_PORT]``; defaults are the
    host's name and ``dask_port``. ``any_count``: also even numbers, of a cell that was changed.
    """
    items = [item.strip() for item in text.split(",")]
    if not any(items):
        raise OperatorError(
            "--peers names no peer; list them all, as in --peers a=10.0.0.1,b=10.0.0.2,c=10.0.0.3."
        )
    if not all(items):
        raise OperatorError(
            f"--peers {text!r} has an empty entry; separate the peers with one comma each."
        )
    peers = [_parse_peer(item, dask_port) for item in items]
    _check_unique(peers)
    _check_limit(len(peers))
    if not any_count:
        check_count(len(peers))
    _check_reach(peers)
    return Cell(tuple(peers))


def own_name(
    cell: Cell, name: str | None, local_names: Collection[str], local_addresses: Collection[str]
) -> str:
    """The name of this process's peer. Raises ``OperatorError``.

    ``name``: of ``--name``. Without it exactly one peer must match the names and addresses of this
    host.
    """
    listed = ", ".join(cell.names)
    if name is not None:
        if name not in cell.names:
            raise OperatorError(
                f"--name {name} is not one of the peers ({listed}); "
                f"use one of these names, or add this peer to --peers on all peers."
            )
        return name
    names = {known.rstrip(".").lower() for known in local_names}
    names |= {known.partition(".")[0] for known in names if not _is_address(known)}
    addresses = {_canonical_host(address.partition("%")[0]) for address in local_addresses}
    own = [
        peer.name
        for peer in cell.peers
        if peer.host in names or peer.host in addresses or is_loopback(peer.host)
    ]
    if len(own) == 1:
        return own[0]
    if own:
        raise OperatorError(
            f"Several of the peers ({', '.join(own)}) are on this host; say with --name which of "
            f"them this one is."
        )
    raise OperatorError(
        f"None of the peers ({listed}) has a name or address of this host "
        f"({', '.join(sorted(names | addresses)) or 'none known'}); correct --peers, or say with "
        f"--name which of them this one is."
    )


def _parse_peer(item: str, dask_port: int) -> PeerAddress:
    if "://" in item:
        raise OperatorError(
            f"Peer {item!r} is an address for clients; --peers lists the peers' hosts, as in "
            f"--peers a=10.0.0.1,b=10.0.0.2,c=10.0.0.3, without {item.partition('://')[0]}://."
        )
    given_name, equals, address = item.partition("=")
    if not equals:
        given_name, address = "", item
    if address.count(":") > 1 and not address.startswith("["):
        raise OperatorError(
            f"Peer {item!r} has an address with several colons; "
            f"write an IPv6 address in brackets, as in a=[fd00::1]:8785."
        )
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise OperatorError(
            f"Peer {item!r} is not of the form [NAME=]HOST[:PEER_PORT][/DASK_PORT]; correct it."
        )
    host = _parse_host(item, match["host"])
    name = _parse_name(item, given_name.strip() if equals else host)
    peer_port = _parse_port(item, "peer", match["port"], DEFAULT_PEER_PORT)
    return PeerAddress(name, host, peer_port, _parse_port(item, "Dask", match["dask"], dask_port))


def _parse_name(item: str, name: str) -> str:
    if not name:
        raise OperatorError(f"Peer {item!r} has no name before its '='; write one, as in a=HOST.")
    if ":" in name:
        raise OperatorError(
            f"Peer {item!r} is an IPv6 address without a name; give it one, as in a={item}."
        )
    if len(name) > NAME_CHARS_MAX or not _NAME.fullmatch(name):
        raise OperatorError(
            f"Peer {item!r} cannot be called {name!r}; use at most {NAME_CHARS_MAX} letters, "
            f"digits, dots and dashes, as in a=HOST."
        )
    if name.endswith(_KEY_SUFFIX):
        raise OperatorError(
            f"A peer cannot be called {name!r}, since names of key files end in "
            f"{_KEY_SUFFIX!r}; give it another name, as in a=HOST."
        )
    return name


def _parse_host(item: str, text: str) -> str:
    if text.startswith("["):
        try:
            host = str(ipaddress.IPv6Address(text[1:-1]))
        except ValueError:
            raise OperatorError(
                f"Peer {item!r} has no valid IPv6 address in its brackets; correct it."
            ) from None
    else:
        host = _canonical_host(text)
        numeric = re.fullmatch(r"[0-9.]+", host) is not None
        if not _HOST.fullmatch(host) or (numeric and not _is_address(host)):
            raise OperatorError(
                f"Peer {item!r} has no valid host name or address ({text!r}); correct it."
            )
    if _is_address(host) and ipaddress.ip_address(host).is_unspecified:
        raise OperatorError(
            f"Peer {item!r} has the address {host}, at which no other host can reach it; "
            f"name the address that the other peers connect to."
        )
    return host


def _parse_port(item: str, kind: str, text: str | None, default: int) -> int:
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= PORT_MAX):
        raise OperatorError(
            f"Peer {item!r} has a {kind} port that is no port ({text!r}); "
            f"use a number from 1 to {PORT_MAX}, as in a=HOST:8785/8786."
        )
    return int(text)


def _canonical_host(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return text.lower().rstrip(".")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _check_unique(peers: Iterable[PeerAddress]) -> None:
    names: dict[str, PeerAddress] = {}
    ports: dict[tuple[str, int], tuple[str, PeerAddress]] = {}
    for peer in peers:
        # Names that differ in case only would share certificate files on some file systems.
        if peer.name.lower() in names:
            raise OperatorError(
                f"--peers names the peer {peer.name!r} twice; give each peer a name of its own."
            )
        names[peer.name.lower()] = peer
        for kind, port in (("peer", peer.peer_port), ("Dask", peer.dask_port)):
            known = ports.get((peer.host, port))
            if known is not None:
                raise OperatorError(_same_port(peer, kind, port, *known))
            ports[peer.host, port] = (kind, peer)


def _same_port(peer: PeerAddress, kind: str, port: int, other_kind: str, other: PeerAddress) -> str:
    address = join_address(peer.host, port)
    remedy = "give each its own, as in a=HOST:8785/8786,b=HOST:8795/8796"
    if other is peer:
        return f"Peer {peer.name} has {address} as its peer port and its Dask port; {remedy}."
    return (
        f"{address} is the {other_kind} port of peer {other.name} and the {kind} port of peer "
        f"{peer.name}; {remedy}."
    )


def _check_limit(count: int) -> None:
    if count > PEERS_MAX:
        raise OperatorError(
            f"--peers names {count} peers, and a cell has at most {PEERS_MAX}; "
            f"use 3, or 5 where two must be able to fail at once."
        )


def check_count(count: int) -> None:
    """Whether a new cell may have ``count`` peers. Raises ``OperatorError``."""
    if count % 2 == 0:
        survives = (count - 1) // 2
        raise OperatorError(
            f"--peers names {count} peers, and a cell has an odd number of them: {count} survive "
            f"no more failures than {count - 1} ({survives}), and have one more that can fail; "
            f"name {count - 1} or {count + 1}."
        )


def _check_reach(peers: Collection[PeerAddress]) -> None:
    inside = [peer.name for peer in peers if is_loopback(peer.host)]
    outside = [peer.name for peer in peers if not is_loopback(peer.host)]
    if inside and outside:
        raise OperatorError(
            f"Peer {inside[0]} has a loopback address, at which peer {outside[0]} on another host "
            f"cannot reach it; name the address that the other peers connect to."
        )
