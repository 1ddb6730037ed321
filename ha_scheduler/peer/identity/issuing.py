"""Tokens are issued, renewed and revoked by the leader, which signs with a key of its own.

Guarantee, and the order that keeps it: a key signs only after every member that lives has applied
the record that names it, so that nobody refuses a fresh token for its key. A token is given out
after the record of its issue has committed, and its revocation is answered when that has: every
peer that applies the log has the same list.

A new key signs in place of the old one, whose tokens hold on until the last of them is over; then
it is retired, and so is the key of a peer that was removed. ``drop_old`` retires all others at
once, for the case that one was stolen.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ha_scheduler.ledger import tokens
from ha_scheduler.ledger.records import (
    Record,
    SigningKeyAdded,
    SigningKeyRetired,
    TokenIssued,
    TokenRevoked,
)
from ha_scheduler.peer.consensus.commits import NotCommitted
from ha_scheduler.peer.identity.site_command import SiteCommand, SiteRefused
from ha_scheduler.peer.replica import Replica
from ha_scheduler.protocol.control import (
    Declined,
    Issued,
    ListedKey,
    ListedToken,
    Taken,
    TokenRequest,
    Tokens,
)
from ha_scheduler.protocol.ring import KEYS_MAX, REVOKED_MAX, TOKEN_ID_BYTES
from ha_scheduler.raft.errors import CallerError
from ha_scheduler.security import signing_key
from ha_scheduler.security.identity import TokenRole
from ha_scheduler.security.key_ring import KeyRing, key_id, raw
from ha_scheduler.security.token import (
    LEEWAY_S,
    SUBJECT_CHARS_MAX,
    Claims,
    TokenRefused,
    issue,
    narrowed,
    read,
    scopes_of,
    verified,
)
from ha_scheduler.storage.port import PeerStore

_HOUR = 3600
LIFETIME_S = {
    TokenRole.CLIENT: 12 * _HOUR,
    TokenRole.WORKER: 24 * _HOUR,
    TokenRole.OBSERVER: 12 * _HOUR,
    TokenRole.ADMIN: 12 * _HOUR,
    TokenRole.JOIN: _HOUR,
}
LIFETIME_S_MAX = 366 * 24 * _HOUR
LIFETIME_S_MIN = 10
RENEW_GRACE_S = 7 * 24 * _HOUR  # after its end a token is still renewed, for a long weekend
SPREAD_S_MAX = 5.0  # for every member to apply a new key
SPREAD_POLL_S = 0.02

_SUBJECT = re.compile(r"[^\x00-\x1f\x7f]+")

logger = logging.getLogger(__name__)


class NotNow(Exception):
    """Peer: this peer cannot issue at the moment; a retry may succeed."""


class Issuer:
    """What a leader does with tokens; another peer does nothing."""

    def __init__(
        self,
        replica: Replica,
        store: PeerStore,
        data_dir: Path,
        site: SiteCommand,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Raises ``OperatorError`` and ``OSError``."""
        self._replica = replica
        self._store = store
        self._data_dir = data_dir
        self._site = site
        self._now = now
        self._key = signing_key.load_or_make(data_dir)
        self._one_by_one = asyncio.Lock()  # keys and bounds

    # -- requests

    async def issue(self, wanted: TokenRequest, by: str) -> Issued | Declined:
        """A new token."""
        if reason := _unfit(wanted):
            return Declined(reason)
        role = TokenRole(wanted.role)
        now = int(self._now())
        claims = Claims(
            self._replica.roster.cell_id,
            wanted.subject,
            role,
            secrets.token_hex(TOKEN_ID_BYTES),
            now,
            now + (wanted.lifetime_s or LIFETIME_S[role]),
            scopes_of(wanted.scopes),
            wanted.thumbprint,
        )
        return await self._give(claims, by)

    async def renew(self, token: bytes, thumbprint: bytes) -> Issued | Declined:
        """The same for as long again, for who shows it under its certificate."""
        ring, now = self._ring(), self._now()
        try:
            identity = read(token, ring, now=now, thumbprint=thumbprint, grace_s=RENEW_GRACE_S)
            claims = verified(token, ring)
        except TokenRefused as error:
            return Declined(str(error))
        if claims.role is TokenRole.JOIN:
            return Declined("a token to join is for once, and is not renewed")
        lifetime = claims.expires - claims.issued
        renewed = replace(
            claims, cell_id=ring.cell_id, issued=int(now), expires=int(now) + lifetime
        )
        return await self._give(renewed, identity.subject)

    async def login(self, credential: bytes) -> Issued | Declined:
        """A token for whom the command of the site says that this is."""
        try:
            wanted = await self._site.identify(credential)
        except SiteRefused as error:
            return Declined(str(error))
        return await self.issue(wanted, by="the command of the site")

    async def revoke(self, token: bytes, by: str) -> Taken | Declined:
        """It holds no longer, and neither does what it is renewed to."""
        now = int(self._now())
        async with self._one_by_one:
            ring = self._ring()
            if len(ring.revoked) >= REVOKED_MAX and token.hex() not in ring.revoked:
                return Declined(
                    f"{REVOKED_MAX} tokens are revoked, which is all that a ring holds; "
                    f"`dask ha token rotate --drop-old` ends all tokens, and begins anew"
                )
            record = TokenRevoked(token, now + LIFETIME_S_MAX + RENEW_GRACE_S, now, by)
            try:
                await self._commit(record)
            except NotNow as error:
                return Declined(str(error), passing=True)
        logger.warning("token %s is revoked", token.hex(), extra={"action": "token_revoked"})
        return Taken()

    async def rotate(self, by: str, *, drop_old: bool) -> Taken | Declined:
        """Sign with a new key from now on."""
        try:
            async with self._one_by_one:
                key = Ed25519PrivateKey.generate()
                await self._announce(key)
                signing_key.keep(self._data_dir, key)
                self._key = key
                if drop_old:
                    await self._retire(lambda record: record.key != raw(key.public_key()))
        except NotNow as error:
            return Declined(str(error), passing=True)
        logger.warning("tokens are signed with a new key", extra={"action": "signing_key_rotated"})
        return Taken()

    def listed(self) -> Tokens:
        """What the ledger of this peer knows."""
        with self._store.view() as view:
            issued = sorted(tokens.tokens(view.tables), key=lambda token: token.issued)
            revoked = {record.token for record in tokens.revocations(view.tables)}
            keys = tokens.keys(view.tables)
        return Tokens(
            tuple(
                ListedToken(
                    token.token,
                    token.subject,
                    token.role,
                    token.issued,
                    token.expires,
                    token.scopes,
                    token.by,
                    token.token in revoked,
                )
                for token in issued
            ),
            tuple(ListedKey(key_id(key.key), key.peer, key.at) for key in keys),
        )

    # -- keys

    async def retire_old(self) -> None:
        """What was replaced, and what is of removed peers, once no token of it can hold."""
        over = self._now() - LEEWAY_S - RENEW_GRACE_S
        with self._store.view() as view:
            spent = tokens.spent(view.tables, raw(self._key.public_key()), over, LEEWAY_S)
        await self._retire(lambda record: record.key in spent)

    async def _retire(self, which: Callable[[SigningKeyAdded], bool]) -> None:
        with self._store.view() as view:
            chosen = [key.key for key in tokens.keys(view.tables) if which(key)]
        for key in chosen:
            await self._commit(SigningKeyRetired(key))

    async def _announce(self, key: Ed25519PrivateKey) -> None:
        """Have every member that lives know the key."""
        public = raw(key.public_key())
        with self._store.view() as view:
            index, count = tokens.index_of(view.tables, public), len(tokens.keys(view.tables))
        if index is None:
            if count >= KEYS_MAX:
                raise NotNow(
                    f"{KEYS_MAX} keys sign already; retire old ones with rotate --drop-old"
                )
            name = self._replica.settings.name
            index = await self._commit(SigningKeyAdded(public, name, int(self._now())))
        try:
            async with asyncio.timeout(SPREAD_S_MAX):
                while behind := self._behind(index):  # noqa: ASYNC110 - gossip is no event
                    await asyncio.sleep(SPREAD_POLL_S)
        except TimeoutError:
            raise NotNow(
                f"{', '.join(behind)} have not applied the new key yet, and would refuse its tokens"
            ) from None

    def _behind(self, index: int) -> list[str]:
        """The members that live and have not applied the log up to ``index``."""
        members = self._replica.driver.node.membership.peers
        slow = self._replica.others.behind(members, index, time.monotonic())
        return [self._replica.roster.name(peer) or str(peer) for peer in slow]

    # -- small things

    async def _give(self, claims: Claims, by: str) -> Issued | Declined:
        record = TokenIssued(
            bytes.fromhex(claims.token_id),
            claims.subject,
            claims.role.value,
            claims.issued,
            claims.expires,
            msgspec.json.encode(narrowed(claims.scopes)).decode(),
            by,
        )
        try:
            async with self._one_by_one:
                await self._announce(self._key)
                key = self._key
            await self._commit(record)
        except NotNow as error:
            return Declined(str(error), passing=True)
        if claims.token_id in self._ring().revoked:
            return Declined(f"the token of {claims.subject} is revoked; ask your operator")
        return Issued(issue(claims, key), record.token, claims.expires)

    def _ring(self) -> KeyRing:
        ring = self._replica.ring.ring
        assert ring is not None  # in plaintext nobody gets here
        return ring

    async def _commit(self, record: Record) -> int:
        replica = self._replica
        term = replica.term()
        try:
            index = replica.propose(record)
            await replica.commits.applied(term, index)
        except (CallerError, NotCommitted) as error:
            raise NotNow(f"this could not be committed: {error}; ask again in a moment") from error
        return index


def _unfit(wanted: TokenRequest) -> str:
    """Why such a token is not issued, or empty."""
    if wanted.role not in list(TokenRole):
        return f"there is no role {wanted.role!r}; choose one of {', '.join(TokenRole)}"
    if len(wanted.subject) > SUBJECT_CHARS_MAX or not _SUBJECT.fullmatch(wanted.subject):
        return f"a subject is a name of 1 to {SUBJECT_CHARS_MAX} printable characters"
    if wanted.lifetime_s and not LIFETIME_S_MIN <= wanted.lifetime_s <= LIFETIME_S_MAX:
        return f"a token lives {LIFETIME_S_MIN} s to {LIFETIME_S_MAX // 86400} days"
    if len(wanted.thumbprint) not in (0, 32):
        return "a thumbprint is the SHA-256 of a certificate, of 32 bytes"
    try:
        scopes_of(wanted.scopes)
    except ValueError as error:
        return f"these are no scopes: {error}"
    return ""
