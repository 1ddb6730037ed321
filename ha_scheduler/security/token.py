"""Tokens: JSON Web Tokens (RFC 7519) that say who holds them, signed by a daemon. Pure.

Guarantee: ``read`` returns an identity only for a token that a key of the ring has signed, that is
for this cell, valid now, not revoked, and shown under the certificate that it is bound to, if to
any. It raises ``TokenRefused`` for anything else, whatever the bytes are.

One algorithm: EdDSA with Ed25519 (RFC 8037). What the header of a token says of algorithms chooses
nothing.

Times are compared with ``LEEWAY_S`` of tolerance between two clocks; a refusal for its time names
both. A renewed token keeps its id: to revoke the id revokes all that came of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Annotated, Any

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.utils import base64url_encode
from msgspec import Meta

from ha_scheduler.errors import HAError, OperatorError
from ha_scheduler.protocol.introduction import TOKEN_BYTES_MAX
from ha_scheduler.security.identity import Identity, Scopes, TokenRole
from ha_scheduler.security.key_ring import KeyRing, key_id, raw

ALGORITHM = "EdDSA"
LEEWAY_S = 60  # between clocks
ISSUER = "dask-ha:"  # and the id of the cell
SUBJECT_CHARS_MAX = 256
TIME_MAX = 2**40  # seconds of the epoch; a date of the year 36812

_JWS = jwt.PyJWS(algorithms=[ALGORITHM])
_MAKE_ONE = "`dask ha token issue` on a node of a peer makes one"

_Time = Annotated[int, Meta(ge=0, le=TIME_MAX)]
_TokenId = Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
_Subject = Annotated[str, Meta(min_length=1, max_length=SUBJECT_CHARS_MAX)]


class TokenRefused(HAError):
    """Remote: the token of the other side does not hold. The text says why, and what helps."""


class UnknownKey(TokenRefused):
    """Remote: a key that is not in the ring has signed; the leader may know it already."""


class TokenExpired(TokenRefused):
    """Remote: the token was good, and its time is over; it may be renewed for a while."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token says. Times are seconds of the epoch.

    ``thumbprint``: SHA-256 of the certificate that it is bound to; empty: to none.
    """

    cell_id: str
    subject: str
    role: TokenRole
    token_id: str
    issued: int
    expires: int
    scopes: Scopes = field(default_factory=Scopes)
    thumbprint: bytes = b""


class _Confirmation(msgspec.Struct, frozen=True):
    """RFC 8705, section 3.1."""

    certificate: str = msgspec.field(name="x5t#S256")


class _Payload(msgspec.Struct, frozen=True):
    """The claims as they travel."""

    iss: str
    aud: str
    sub: _Subject
    role: TokenRole
    jti: _TokenId
    iat: _Time
    nbf: _Time
    exp: _Time
    scopes: dict[str, Any] = {}
    cnf: _Confirmation | None = None


_DECODER = msgspec.json.Decoder(_Payload)


def issue(claims: Claims, key: Ed25519PrivateKey) -> str:
    """A token with these claims, signed with ``key``."""
    bound = base64url_encode(claims.thumbprint).decode() if claims.thumbprint else None
    payload = _Payload(
        iss=ISSUER + claims.cell_id,
        aud=claims.cell_id,
        sub=claims.subject,
        role=claims.role,
        jti=claims.token_id,
        iat=claims.issued,
        nbf=claims.issued,
        exp=claims.expires,
        scopes=narrowed(claims.scopes),
        cnf=_Confirmation(bound) if bound is not None else None,
    )
    body = {name: value for name, value in msgspec.to_builtins(payload).items() if value}
    headers = {"kid": key_id(raw(key.public_key())), "typ": "JWT"}
    return _JWS.encode(msgspec.json.encode(body), key, ALGORITHM, headers)


def read(
    token: str | bytes | None,
    ring: KeyRing,
    *,
    now: float,
    thumbprint: bytes = b"",
    grace_s: float = 0.0,
) -> Identity:
    """Who shows this token. Raises ``TokenRefused``.

    ``now``: seconds of the epoch. ``thumbprint``: SHA-256 of the certificate under which it is
    shown. ``grace_s``: how long after its end it still holds, for whoever renews it.
    """
    claims = verified(token, ring)
    _check_cell(claims, ring)
    if claims.token_id in ring.revoked:
        raise TokenRefused(f"the token of {claims.subject} is revoked; ask your operator")
    _check_times(claims, now, grace_s)
    if claims.thumbprint not in (b"", thumbprint):
        raise TokenRefused(
            f"the token of {claims.subject} is bound to another certificate than the one it is "
            f"shown under; {_MAKE_ONE} for this one"
        )
    return Identity(
        claims.subject, claims.role, claims.scopes, claims.token_id, claims.expires, thumbprint
    )


def verified(token: str | bytes | None, ring: KeyRing) -> Claims:
    """What a key of the ring has signed; it may be over, or of another cell.

    Raises ``TokenRefused``.
    """
    if not token:
        raise TokenRefused(f"no token was shown; {_MAKE_ONE} (docs/tokens.md)")
    if len(token) > TOKEN_BYTES_MAX:
        raise TokenRefused(f"a token has at most {TOKEN_BYTES_MAX} bytes, and this {len(token)}")
    try:
        header = _JWS.get_unverified_header(token)
        kid, algorithm = header.get("kid"), header.get("alg")
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
        raise _garbled() from None
    if algorithm != ALGORITHM:
        raise TokenRefused(f"a token is signed with {ALGORITHM}, and with nothing else")
    key = ring.keys.get(kid) if isinstance(kid, str) else None
    if key is None:
        raise UnknownKey(
            f"the key that has signed the token is none of this cell ({ring.cell_id}): it is of "
            f"another cell, or the key is retired; {_MAKE_ONE}"
        )
    try:
        body = _JWS.decode_complete(token, key, algorithms=[ALGORITHM])["payload"]
        return _claims(_DECODER.decode(body))
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
        raise _garbled() from None


def unverified(token: bytes) -> dict[str, Any]:
    """What a token claims, for its holder; nobody has verified it. Raises ``OperatorError``."""
    try:
        fields = msgspec.json.decode(jwt.utils.base64url_decode(token.split(b".")[1]))
    except (ValueError, IndexError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise OperatorError("This is no token; `dask ha token issue` makes one.")
    return fields


def thumbprint_of(certificate: bytes | None) -> bytes:
    """SHA-256 of a certificate in DER, to which a token may be bound; empty without one."""
    return sha256(certificate).digest() if certificate else b""


def narrowed(scopes: Scopes) -> dict[str, Any]:
    """The scopes that differ from the default."""
    plain = Scopes()
    fields: dict[str, Any] = msgspec.to_builtins(scopes)
    return {name: value for name, value in fields.items() if value != getattr(plain, name)}


def scopes_of(fields: dict[str, Any]) -> Scopes:
    """The inverse of ``narrowed``. Raises ``ValueError``, also for a scope of a newer release."""
    if unknown := fields.keys() - msgspec.to_builtins(Scopes()).keys():
        raise ValueError(f"there is no scope {', '.join(sorted(unknown))}")
    return msgspec.convert(fields, Scopes)


def _claims(payload: _Payload) -> Claims:
    bound = b""
    if payload.cnf is not None:
        bound = jwt.utils.base64url_decode(payload.cnf.certificate)
        if len(bound) != sha256().digest_size:
            raise ValueError("the thumbprint is no SHA-256")
    if payload.iss != ISSUER + payload.aud:
        raise ValueError("the issuer is not that of the audience")
    return Claims(
        payload.aud,
        payload.sub,
        payload.role,
        payload.jti,
        max(payload.iat, payload.nbf),
        payload.exp,
        scopes_of(payload.scopes),
        bound,
    )


def _check_cell(claims: Claims, ring: KeyRing) -> None:
    if claims.cell_id not in ring.audiences:
        raise TokenRefused(
            f"the token of {claims.subject} is for the cell {claims.cell_id}, and this is "
            f"{ring.cell_id}; {_MAKE_ONE}"
        )


def _check_times(claims: Claims, now: float, grace_s: float) -> None:
    here = f"the clock here says {_date(now)}"
    if claims.issued > now + LEEWAY_S:
        raise TokenRefused(
            f"the token of {claims.subject} holds from {_date(claims.issued)}, and {here}: one of "
            f"the two clocks is off by {claims.issued - now:.0f} s; set it (chrony, NTP)"
        )
    if now > claims.expires + LEEWAY_S + grace_s:
        raise TokenExpired(
            f"the token of {claims.subject} expired at {_date(claims.expires)}, and {here}; if "
            f"that is right, `dask ha token renew` it, or `dask ha token issue` another one"
        )


def _date(seconds: float) -> str:
    return f"{datetime.fromtimestamp(min(max(seconds, 0), 2**37), UTC):%F %T} UTC"


def _garbled() -> TokenRefused:
    return TokenRefused(
        f"this is no token: it is garbled, or not signed by the key that it names; {_MAKE_ONE}"
    )
