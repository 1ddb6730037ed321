"""Callers whose certificate or token is not good, and keys of tokens that change under all.

    no-token, wrong-token, expired-token, revoked-token    beside a good certificate
    wrong-authority, expired-certificate                    beside a good token
    rotate        the key that signs tokens is another from now on; nobody may notice

A caller asks for a task; the history of the run says that it must be refused.

Proof: that it was refused, in the words of the refusal; or the list of keys.
"""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from chaos.faults.base import Active, CannotInject, Fault, Simple, lacks, one_of
from chaos.faults.membership import Transfer
from chaos.faults.visits import certificates, start
from ha_scheduler.cell.peers import parse_peers
from ha_scheduler.cli.token_admin import TokenAdmin
from ha_scheduler.errors import ControlError
from ha_scheduler.security.authority import ensure_certificates
from ha_scheduler.security.certificate import certificate_pem, key_pem, new_key
from ha_scheduler.security.files import MODE_PRIVATE, write_file
from ha_scheduler.security.token import LEEWAY_S

if TYPE_CHECKING:
    from chaos.targets.base import Target

KINDS = (
    *("no-token", "wrong-token", "expired-token", "revoked-token"),
    *("wrong-authority", "expired-certificate"),
)
SHORTEST_S = 10  # that a token may live
EXPIRED_S = SHORTEST_S + LEEWAY_S + 1  # before that the caller does not ask
GOOD = ("ca.pem", "client.pem", "client-key.pem")


def _trespass(target: Target, random: Random, kind: str) -> Active:
    own = certificates(target)
    directory = target.root / f"caller-{random.getrandbits(32):08x}"
    directory.mkdir()
    for name in GOOD:
        shutil.copy(own / name, directory / name)
    try:
        token = _token(target, random, kind)
    except ControlError as error:
        raise CannotInject(str(error)) from error
    if token:
        write_file(directory / "client.token", token.encode(), MODE_PRIVATE)
    if kind == "wrong-authority":
        _of_another_authority(directory)
    if kind == "expired-certificate":
        _expire(directory, own)
    wait_s = EXPIRED_S if kind == "expired-token" else 0
    return start(target, random, kind, wait_s, str(directory))


def _token(target: Target, random: Random, kind: str) -> str:
    if kind == "no-token":
        return ""
    assert target.control is not None
    admin = TokenAdmin(target.control)
    issued = admin.issue("chaos", "client", lifetime_s=SHORTEST_S if kind == "expired-token" else 0)
    if kind == "wrong-token":
        head, body, signature = issued.text.split(".")
        return f"{head}.{body}.{signature[::-1]}"
    if kind == "revoked-token":
        admin.revoke(issued.token)
    return issued.text


def _of_another_authority(directory: Path) -> None:
    """The certificate of a client, as another cell of the same peers would have made it."""
    other = directory / "other"
    ensure_certificates(other, parse_peers("a=127.0.0.1:8001/8002", any_count=True))
    for name in ("client.pem", "client-key.pem"):
        shutil.copy(other / name, directory / name)


def _expire(directory: Path, own: Path) -> None:
    """Sign the certificate again by the cell's own authority, for a time that is over."""
    former = x509.load_pem_x509_certificate((directory / "client.pem").read_bytes())
    signer = x509.load_pem_x509_certificate((own / "issuing-ca.pem").read_bytes())
    signing_key = load_pem_private_key((own / "issuing-ca-key.pem").read_bytes(), None)
    key, now = new_key(), datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(former.subject)
        .issuer_name(signer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=2))
        .not_valid_after(now - timedelta(days=1))
    )
    for extension in former.extensions:
        if not isinstance(extension.value, x509.SubjectKeyIdentifier):
            builder = builder.add_extension(extension.value, extension.critical)
    made = builder.sign(signing_key, hashes.SHA256())  # type: ignore[arg-type]
    chain = certificate_pem(made) + certificate_pem(signer)
    write_file(directory / "client.pem", chain, 0o644)
    write_file(directory / "client-key.pem", key_pem(key), MODE_PRIVATE)


def _rotate(target: Target, random: Random) -> Active:
    assert target.control is not None
    admin = TokenAdmin(target.control)
    try:
        before = {key.kid for key in admin.listed().keys}
        admin.rotate()
        new = [key.kid for key in admin.listed().keys if key.kid not in before]
    except ControlError as error:
        raise CannotInject(str(error)) from error
    return Transfer(f"tokens are signed with {new[0]}" if new else "")


FAULTS: tuple[Fault, ...] = (
    Simple(
        "trespass",
        "A caller whose certificate or token is missing, wrong, over or revoked asks for a task.",
        _trespass,
        (one_of(*KINDS),),
        lacks("control", "files"),
    ),
    Simple(
        "rotate-keys",
        "The key that signs tokens is replaced while all go on.",
        _rotate,
        (),
        lacks("control", "files"),
    ),
)
