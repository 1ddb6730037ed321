"""``dask ha cert``: make, issue, renew and show the certificates of a cell.

Guarantee: a key is never replaced, and a certificate only where the authority's key is; what cannot
be renewed here is named, with where it can be.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
from cryptography import x509

from ha_scheduler.cell.tls_files import TlsFiles
from ha_scheduler.cli import enrolment
from ha_scheduler.cli.init import init
from ha_scheduler.cli.operate import new_table, print_table
from ha_scheduler.cli.options import path_option
from ha_scheduler.cli.sentences import OneSentenceGroup
from ha_scheduler.errors import EXIT_FAILED, OperatorError
from ha_scheduler.security.authority import (
    CA_FILE,
    authority_of,
    engine_files,
    issue,
    locked,
    pair_files,
    peer_files,
)
from ha_scheduler.security.certificate import LEAF_LIFETIME, LOOPBACK, Subject, fingerprint
from ha_scheduler.security.checks import subject_of
from ha_scheduler.security.files import read_certificates
from ha_scheduler.security.private import read_private
from ha_scheduler.security.tls import Role

_FILES = {Role.PEER: peer_files, Role.ENGINE: engine_files}
_DAYS_MAX = 3652

_directory = path_option("--dir", "Directory of certificates, as `dask ha cert init` made it.")
_days = click.option(
    "--days",
    type=click.IntRange(1, _DAYS_MAX),
    default=LEAF_LIFETIME.days,
    help="Days until the certificate expires.",
)


@click.group(cls=OneSentenceGroup)
def cert() -> None:
    """Make, issue, renew and show the certificates of a cell."""


cert.add_command(init)


@cert.command("issue")
@_directory
@click.option(
    "--role",
    type=click.Choice([role.value for role in Role]),
    required=True,
    help="What its holder is.",
)
@click.option("--name", required=True, help="Of the peer, for its engine too; or of the client.")
@click.option("--host", multiple=True, help="A name or address of its host; may be repeated.")
@_days
def issue_one(dir: Path | None, role: str, name: str, host: tuple[str, ...], days: int) -> None:
    """Issue the certificate of one more peer, engine, client or worker."""
    directory, holder = _named(dir), Role(role)
    make = _FILES.get(holder)
    files = make(directory, name) if make else pair_files(directory, f"{role}-{name}")
    if files.cert_file.exists():
        raise OperatorError(
            f"{files.cert_file} exists; renew it with `dask ha cert renew --dir {directory}`."
        )
    subject = Subject(holder, name, (*host, *LOOPBACK))
    with locked(directory):
        issue(directory, files, subject, renew=True, lifetime=timedelta(days=days))
    click.echo(f"Issued {files.cert_file} and {files.key_file}.")


@cert.command()
@_directory
@click.argument("names", nargs=-1, metavar="[FILE]...")
@_days
def renew(dir: Path | None, names: tuple[str, ...], days: int) -> int:
    """Renew all certificates in a directory, or those named, for their old keys.

    Processes take renewed files in by themselves, from the next connection on.
    """
    directory = _named(dir)
    pairs = _pairs(directory)
    unknown = sorted(set(names) - {files.cert_file.name for files in pairs})
    if unknown:
        raise OperatorError(
            f"{directory} has no certificate {', '.join(unknown)} with its key; it has "
            f"{', '.join(files.cert_file.name for files in pairs) or 'none'}."
        )
    left = 0
    with locked(directory):
        for files in pairs:
            if names and files.cert_file.name not in names:
                continue
            subject = subject_of(files.cert_file)
            authority = authority_of(subject.role)
            if not (directory / authority.key_file).exists():
                left += 1
                click.echo(
                    f"{files.cert_file.name} was left as it is: {authority.key_file} is not in "
                    f"{directory}; renew it where that is.",
                    err=True,
                )
                continue
            issue(directory, files, subject, renew=True, lifetime=timedelta(days=days))
            click.echo(f"Renewed {files.cert_file.name}.")
    return EXIT_FAILED if left else 0


@cert.command()
@_directory
def show(dir: Path | None) -> None:
    """Show the certificates in a directory: whose they are, and until when they are valid."""
    directory = _named(dir)
    table = new_table("file", "role", "name", "valid until", "fingerprint")
    now = datetime.now(UTC)
    for path in sorted(directory.glob("*.pem")):
        if path.name.endswith("-key.pem") or path.name == CA_FILE:
            continue
        certificate = read_certificates(path)[0]
        role, name = _holder(path, certificate)
        until = certificate.not_valid_after_utc
        style = "red" if until <= now else None
        table.add_row(
            path.name, role, name, f"{until:%F %R}", fingerprint(certificate), style=style
        )
    print_table(table)


@cert.command()
@_directory
@click.option(
    "--peers",
    required=True,
    metavar="LIST",
    help="Enrolment ports of peers: HOST:PORT,…",
)
@click.option("--ca-fingerprint", default=None, help="Of peers-ca.pem; `dask ha cert show` has it.")
@path_option("--token-file", "File with a token of the role join; it holds once.")
def join(dir: Path | None, peers: str, ca_fingerprint: str | None, token_file: Path | None) -> None:
    """Get a certificate for this node, for a token; without a token, renew the one it has.

    The certificate is for a day. Renew it in time, as by a timer each eight hours.
    """
    if dir is None:
        raise OperatorError("--dir is missing; name the directory for the certificate.")
    addresses = [_address(each) for each in peers.split(",")]
    if token_file is None:
        config = enrolment.renew(addresses, _named(dir))
    elif ca_fingerprint is None:
        raise OperatorError(
            "--ca-fingerprint is missing, without which anybody could pretend to be the cell; "
            "`dask ha cert show` has it, in the line of peers-ca.pem."
        )
    else:
        token = read_private(token_file, "token").strip()
        config = enrolment.join(addresses, ca_fingerprint, token, dir.absolute())
    click.echo(f"This node has a certificate; clients and workers use DASK_CONFIG={config}.")


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.strip().rpartition(":")
    if not host or not port.isdigit():
        raise OperatorError(
            f"--peers {text}: give the host and the enrolment port of each, as in 10.0.0.1:8784."
        )
    return host.strip("[]"), int(port)


def _named(directory: Path | None) -> Path:
    if directory is None:
        raise OperatorError("--dir is missing; name the directory of certificates.")
    if not (directory / CA_FILE).exists():
        raise OperatorError(
            f"{directory} holds no {CA_FILE}; name the directory that `dask ha cert init` made."
        )
    return directory.absolute()


def _pairs(directory: Path) -> list[TlsFiles]:
    """Those that have a role and a key there."""
    stems = [path.name.removesuffix("-key.pem") for path in sorted(directory.glob("*-key.pem"))]
    pairs = [pair_files(directory, stem) for stem in stems if not stem.endswith("-ca")]
    return [files for files in pairs if files.cert_file.exists()]


def _holder(path: Path, certificate: x509.Certificate) -> tuple[str, str]:
    try:
        subject = subject_of(path)
    except OperatorError:
        names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        return "authority", str(names[0].value) if names else ""
    return subject.role, subject.name
