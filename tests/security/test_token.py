"""Tokens: what holds, and every way in which one does not."""

from __future__ import annotations

import base64
import hmac
import json
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from ha_scheduler.protocol.introduction import TOKEN_BYTES_MAX
from ha_scheduler.protocol.ring import Ring
from ha_scheduler.security.identity import Scopes, TokenRole
from ha_scheduler.security.key_ring import KeyRing, key_id, raw
from ha_scheduler.security.token import (
    LEEWAY_S,
    Claims,
    TokenExpired,
    TokenRefused,
    UnknownKey,
    issue,
    read,
    thumbprint_of,
)

NOW = 1_800_000_000
CELL, OTHER = "1" * 32, "2" * 32
KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
PUBLIC = raw(KEY.public_key())
RING = KeyRing(Ring(CELL, keys=(PUBLIC,)))
ALICE = Claims(CELL, "alice", TokenRole.CLIENT, "a" * 32, NOW - 10, NOW + 3600)
CERTIFICATE = thumbprint_of(b"the certificate of alice")


def b64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def payload_of(claims: Claims) -> dict[str, Any]:
    body = issue(claims, KEY).split(".")[1]
    fields: dict[str, Any] = json.loads(base64.urlsafe_b64decode(body + "=="))
    return fields


def signed(header: dict[str, Any], payload: Any, key: Ed25519PrivateKey = KEY) -> bytes:
    text = b64(json.dumps(header).encode()) + b"." + b64(json.dumps(payload).encode())
    return text + b"." + b64(key.sign(text))


GOOD_HEADER = {"alg": "EdDSA", "kid": key_id(PUBLIC), "typ": "JWT"}


def test_a_token_says_who_holds_it() -> None:
    scopes = Scopes(plugins=False, key_prefix="alice-", tasks_max=7)
    claims = replace(ALICE, scopes=scopes, thumbprint=CERTIFICATE)
    identity = read(issue(claims, KEY), RING, now=NOW, thumbprint=CERTIFICATE)
    assert (identity.subject, identity.role, identity.scopes) == ("alice", "client", scopes)
    assert (identity.token_id, identity.expires) == ("a" * 32, NOW + 3600)
    assert identity.thumbprint == CERTIFICATE


def test_a_token_that_is_bound_to_no_certificate_holds_under_any() -> None:
    assert read(issue(ALICE, KEY), RING, now=NOW, thumbprint=CERTIFICATE).subject == "alice"


@pytest.mark.parametrize("role", list(TokenRole))
def test_every_role_survives_the_journey(role: TokenRole) -> None:
    assert read(issue(replace(ALICE, role=role), KEY), RING, now=NOW).role is role


def test_a_token_of_the_predecessor_holds_unless_it_is_revoked() -> None:
    founded_anew = Ring(OTHER, predecessor=CELL, keys=(PUBLIC,))
    token = issue(ALICE, KEY)
    assert read(token, KeyRing(founded_anew), now=NOW).subject == "alice"
    revoked = Ring(OTHER, predecessor=CELL, keys=(PUBLIC,), revoked=(b"\xaa" * 16,))
    with pytest.raises(TokenRefused, match="revoked"):
        read(token, KeyRing(revoked), now=NOW)


def test_the_two_clocks_may_differ_by_the_leeway() -> None:
    early = issue(replace(ALICE, issued=NOW + LEEWAY_S), KEY)
    late = issue(replace(ALICE, expires=NOW - LEEWAY_S), KEY)
    assert read(early, RING, now=NOW)
    assert read(late, RING, now=NOW)


def test_an_expired_token_holds_for_its_renewal_in_the_grace_and_no_longer() -> None:
    token = issue(replace(ALICE, expires=NOW - 1000), KEY)
    assert read(token, RING, now=NOW, grace_s=1000).subject == "alice"
    with pytest.raises(TokenExpired):
        read(token, RING, now=NOW + LEEWAY_S + 1, grace_s=1000)


REFUSED: dict[str, tuple[Any, str]] = {
    "missing": (None, "no token was shown"),
    "empty": (b"", "no token was shown"),
    "garbled": (b"x.y.z", "garbled"),
    "of two parts": (b"x.y", "garbled"),
    "not text": (b"\xff\xfe.\x00.\x80", "garbled"),
    "not ascii": ("ключ.ключ.ключ", "garbled"),
    "a surrogate": ("\ud800.\ud800.\ud800", "garbled"),
    "huge": (b"a" * (TOKEN_BYTES_MAX + 1), "at most"),
    "nested": (b64(b"[" * 3000) + b".e30.AA", "garbled"),
    "cut": (issue(ALICE, KEY)[:-10], "garbled"),
    "of another payload": (
        b".".join(
            (
                issue(ALICE, KEY).encode().split(b".")[0],
                issue(replace(ALICE, role=TokenRole.ADMIN), KEY).encode().split(b".")[1],
                issue(ALICE, KEY).encode().split(b".")[2],
            )
        ),
        "garbled",
    ),
    "expired": (issue(replace(ALICE, expires=NOW - LEEWAY_S - 1), KEY), "expired at .* clock here"),
    "of the future": (
        issue(replace(ALICE, issued=NOW + 3600), KEY),
        "one of the two clocks is off by 3600 s",
    ),
    "of another cell": (issue(replace(ALICE, cell_id=OTHER), KEY), f"for the cell {OTHER}"),
    "of an unknown key": (issue(ALICE, Ed25519PrivateKey.generate()), "none of this cell"),
    "without a key id": (signed({"alg": "EdDSA"}, payload_of(ALICE)), "none of this cell"),
    "with a list for a key id": (
        signed({"alg": "EdDSA", "kid": [1]}, payload_of(ALICE)),
        "garbled|none of this cell",
    ),
    "signed by another key in its name": (
        signed(GOOD_HEADER, payload_of(ALICE), Ed25519PrivateKey.generate()),
        "garbled",
    ),
    "of alg none": (
        signed({**GOOD_HEADER, "alg": "none"}, payload_of(ALICE)).rsplit(b".", 1)[0] + b".",
        "EdDSA, and with nothing else",
    ),
    "of alg in another case": (
        signed({**GOOD_HEADER, "alg": "eddsa"}, payload_of(ALICE)),
        "EdDSA, and with nothing else",
    ),
    "of another certificate": (
        issue(replace(ALICE, thumbprint=thumbprint_of(b"another")), KEY),
        "bound to another certificate",
    ),
    "revoked": (issue(replace(ALICE, token_id="b" * 32), KEY), "revoked"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_token_does_not_hold_that_is(kind: str) -> None:
    token, reason = REFUSED[kind]
    ring = KeyRing(Ring(CELL, keys=(PUBLIC,), revoked=(b"\xbb" * 16,)))
    with pytest.raises(TokenRefused, match=reason) as refused:
        read(token, ring, now=NOW, thumbprint=CERTIFICATE)
    assert str(token or "nothing")[-30:-1] not in str(refused.value)  # it goes to logs


def test_the_public_key_is_no_secret_of_an_hmac() -> None:
    for secret in (
        PUBLIC,
        KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    ):
        header = b64(json.dumps({**GOOD_HEADER, "alg": "HS256"}).encode())
        text = header + b"." + b64(json.dumps(payload_of(ALICE)).encode())
        token = text + b"." + b64(hmac.digest(secret, text, sha256))
        with pytest.raises(TokenRefused, match="EdDSA"):
            read(token, RING, now=NOW)


WRONG_CLAIMS: list[dict[str, Any]] = [
    *({name: None} for name in ("iss", "aud", "sub", "role", "jti", "iat", "nbf", "exp")),
    {"aud": [CELL]},
    {"iss": "dask-ha:" + OTHER},
    {"sub": ""},
    {"sub": "x" * 300},
    {"sub": {"name": "alice"}},
    {"role": "root"},
    {"role": ["client"]},
    {"role": "peer"},
    {"jti": "A" * 32},
    {"jti": 7},
    {"exp": True},
    {"exp": str(NOW + 3600)},
    {"exp": 1e300},
    {"exp": 2**70},
    {"exp": -1},
    {"iat": float("inf")},
    {"nbf": NOW + 3600},
    {"scopes": {"a_scope_of_later": False}},
    {"scopes": {"plugins": "no"}},
    {"scopes": {"priority_max": "high"}},
    {"scopes": []},
    {"cnf": {}},
    {"cnf": {"x5t#S256": ""}},
    {"cnf": {"x5t#S256": "AAAA"}},
    {"cnf": {"x5t#S256": 7}},
    {"cnf": {"jkt": "another kind of binding"}},
]


@pytest.mark.parametrize("wrong", WRONG_CLAIMS, ids=str)
def test_claims_of_a_wrong_type_are_refused_although_they_are_signed(wrong: dict[str, Any]) -> None:
    fields = {k: v for k, v in {**payload_of(ALICE), **wrong}.items() if v is not None}
    with pytest.raises(TokenRefused):
        read(signed(GOOD_HEADER, fields), RING, now=NOW)


@pytest.mark.parametrize("payload", [None, [], "alice", 7, {}])
def test_a_payload_that_is_no_map_of_claims_is_refused(payload: Any) -> None:
    with pytest.raises(TokenRefused, match="garbled"):
        read(signed(GOOD_HEADER, payload), RING, now=NOW)


def test_an_unknown_key_is_told_apart_since_the_leader_may_know_it() -> None:
    with pytest.raises(UnknownKey):
        read(issue(ALICE, KEY), KeyRing(Ring(CELL)), now=NOW)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=400), st.text(max_size=400)))
def test_whatever_the_bytes_are_the_answer_is_a_refusal(token: bytes | str) -> None:
    with pytest.raises(TokenRefused):
        read(token, RING, now=NOW)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_changed_bit_is_let_through(data: st.DataObject) -> None:
    token = bytearray(issue(ALICE, KEY).encode())
    place = data.draw(st.integers(0, len(token) - 1))
    bit = data.draw(st.integers(0, 7))
    token[place] ^= 1 << bit
    try:
        identity = read(bytes(token), RING, now=NOW)
    except TokenRefused:
        return
    assert identity.subject == "alice"  # a bit of base64 that says nothing
    assert place == len(token) - 1 or chr(token[place]) in "=.-_+/\n\r\t "
