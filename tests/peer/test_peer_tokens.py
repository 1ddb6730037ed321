"""Tokens of a cell of real daemons: the leader issues, all judge alike, also after its end."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ha_scheduler.cell.peers import parse_peers
from ha_scheduler.cli.control import ControlClient
from ha_scheduler.cli.token_admin import TokenAdmin
from ha_scheduler.errors import ControlError
from ha_scheduler.protocol import frames
from ha_scheduler.protocol.control import Issued
from ha_scheduler.protocol.ring import Ring
from ha_scheduler.protocol.watch import WATCH
from ha_scheduler.security.authority import client_files, peer_files
from ha_scheduler.security.identity import TokenRole
from ha_scheduler.security.key_ring import KeyRing
from ha_scheduler.security.token import TokenRefused, read
from tests.deadlines import SCALE
from tests.peer.toy_cell import Connection, ToyCell, within

REVOKED_WITHIN_S = 2.0 * SCALE  # as docs/tokens.md says
SITE = """#!/bin/sh
read -r said
[ "$said" = sesame ] && echo '{"subject": "ali", "lifetime_s": 60, "scopes": {"plugins": false}}'
"""


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ToyCell]:
    base = tmp_path_factory.mktemp("tokens")
    site = base / "site"
    site.write_text(SITE)
    site.chmod(0o755)
    with ToyCell(base, token_command=str(site)) as made:
        serving(made)
        yield made


def serving(cell: ToyCell) -> str:
    """Who leads, once all that were started answer."""
    for name in cell.daemons:
        within(20, lambda name=name: cell.status(name))
    return within(20, cell.leader)


def admin(cell: ToyCell, *, of_client: bool = False, token: bytes | None = None) -> TokenAdmin:
    certificates = cell.base / "certs"
    files = client_files(certificates) if of_client else peer_files(certificates, "a")
    return TokenAdmin(ControlClient(parse_peers(cell.peers), files, token=token))


def ring_of(watch: Connection) -> KeyRing:
    """The next ring that a watched peer tells."""
    while True:
        said = WATCH.decode(frames.receive(watch._exactly, frames.WATCH_BYTES_MAX))
        if isinstance(said, Ring):
            return KeyRing(said)


def holds(issued: Issued, ring: KeyRing) -> bool:
    try:
        return bool(read(issued.text, ring, now=time.time()))
    except TokenRefused:
        return False


def test_on_loopback_tokens_are_there_before_the_first_engine_serves(cell: ToyCell) -> None:
    ring = ring_of(cell.connect("a", "watch"))
    for role in (TokenRole.CLIENT, TokenRole.WORKER):
        file = cell.base / "certs" / f"{role}.token"
        assert read(file.read_bytes(), ring, now=time.time()).role is role
        assert file.stat().st_mode & 0o777 == 0o600


def test_a_revocation_is_with_every_peer_in_two_seconds_and_survives_its_leader(
    cell: ToyCell,
) -> None:
    issued = admin(cell).issue("alice", "client", scopes={"plugins": False})
    watches = {name: cell.connect(name, "watch") for name in cell.names}
    assert all(holds(issued, ring_of(watch)) for watch in watches.values())
    began = time.monotonic()
    admin(cell).revoke(issued.token)
    for watch in watches.values():
        assert not holds(issued, ring_of(watch))
    assert time.monotonic() - began < REVOKED_WITHIN_S
    with pytest.raises(ControlError, match="revoked"):
        admin(cell, of_client=True).renew(issued.text.encode())

    for name in list(cell.daemons):
        cell.kill(name)
    for name in cell.names:
        cell.start(name)
    serving(cell)
    assert not holds(issued, ring_of(cell.connect("b", "watch")))
    (listed,) = [each for each in admin(cell).listed().tokens if each.token == issued.token]
    assert listed.revoked
    assert listed.subject == "alice"
    assert json.loads(listed.scopes) == {"plugins": False}


def test_a_new_leader_signs_with_a_key_that_all_know(cell: ToyCell) -> None:
    first = admin(cell).issue("bob", "worker")
    gone = serving(cell)
    cell.kill(gone)
    others = [name for name in cell.names if name != gone]
    serving(cell)
    second = admin(cell).issue("carol", "observer", lifetime_s=60)
    for name in others:
        ring = ring_of(cell.connect(name, "watch"))
        assert holds(first, ring)
        assert holds(second, ring)
    cell.start(gone)


def test_a_rotation_keeps_old_tokens_and_dropping_the_old_key_ends_them(cell: ToyCell) -> None:
    serving(cell)
    before = admin(cell).issue("dave", "client")
    admin(cell).rotate()
    after = admin(cell).issue("dave", "client")
    ring = ring_of(cell.connect("a", "watch"))
    assert holds(before, ring)
    assert holds(after, ring)
    renewed = admin(cell, of_client=True).renew(before.text.encode())
    assert renewed.token == before.token
    admin(cell).rotate(drop_old=True)
    last = admin(cell).issue("dave", "client")
    ring = ring_of(cell.connect("a", "watch"))
    assert not holds(after, ring)
    assert holds(last, ring)


def test_the_site_says_who_somebody_is(cell: ToyCell) -> None:
    serving(cell)
    given = admin(cell, of_client=True).login(b"sesame\n")
    identity = read(given.text, ring_of(cell.connect("a", "watch")), now=time.time())
    assert (identity.subject, identity.role) == ("ali", "client")
    assert not identity.scopes.plugins
    with pytest.raises(ControlError, match="does not know this credential"):
        admin(cell, of_client=True).login(b"open\n")


def test_only_an_admin_issues_and_a_client_is_told_so(cell: ToyCell) -> None:
    serving(cell)
    with pytest.raises(ControlError, match="token-issue is for the role admin"):
        admin(cell, of_client=True).issue("mallory", "admin")
    token = admin(cell).issue("eve", "admin").text.encode()
    assert admin(cell, of_client=True, token=token).issue("frank", "client").text
    with pytest.raises(ControlError, match="no role 'root'"):
        admin(cell).issue("eve", "root")


def test_the_key_that_signs_is_its_owners_alone(cell: ToyCell) -> None:
    keys = [Path(cell.data(name)) / "token-key.pem" for name in cell.names]
    assert [key.stat().st_mode & 0o777 for key in keys] == [0o600] * 3
    assert len({key.read_bytes() for key in keys}) == 3
