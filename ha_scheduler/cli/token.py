"""``dask ha token``: issue, list, show, renew, revoke tokens, and change the keys that sign them.

A token is written to a file of mode 0600, or to standard output, and read from a file. It is never
an argument, which others could see.
"""

from __future__ import annotations

import json
import re
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from msgspec import to_builtins

from ha_scheduler.cell.tls_files import TlsFiles
from ha_scheduler.cli.certificates import choose_control_files
from ha_scheduler.cli.control import ControlClient
from ha_scheduler.cli.operate import cell_options, client_of, format_option, new_table, print_table
from ha_scheduler.cli.options import TLS_FILES, the_cell, the_tls
from ha_scheduler.cli.sentences import OneSentenceGroup
from ha_scheduler.cli.token_admin import TokenAdmin
from ha_scheduler.errors import ControlError, OperatorError
from ha_scheduler.protocol.control import CREDENTIAL_BYTES_MAX, Issued, ListedToken, Tokens
from ha_scheduler.protocol.introduction import TOKEN_BYTES_MAX
from ha_scheduler.protocol.ring import TOKEN_ID_BYTES
from ha_scheduler.security.authority import client_files
from ha_scheduler.security.files import MODE_PRIVATE, read_certificates, write_file
from ha_scheduler.security.identity import TokenRole
from ha_scheduler.security.token import thumbprint_of, unverified

ID_CHARS = 12  # of an id, in a table; enough to tell any two
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_WORDS = {"yes": True, "true": True, "no": False, "false": False}

out_option = click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="The file to write the token to, of mode 0600.  [default: standard output]",
)


@click.group(cls=OneSentenceGroup)
def token() -> None:
    """Tokens: who may use the cell, as what, and until when."""


@token.command()
@cell_options
@click.option(
    "--role",
    type=click.Choice([role.value for role in TokenRole]),
    default="client",
    help="What its holder is.",
)
@click.option("--subject", required=True, help="Who: a user or a service.")
@click.option("--lifetime", default=None, help="Such as 30m, 12h, 7d.  [default: by the role]")
@click.option(
    "--scope", "scopes", multiple=True, metavar="NAME=VALUE", help="Narrows a client: plugins=no."
)
@click.option(
    "--bind",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="A certificate; the token holds under this one alone.",
)
@out_option
def issue(
    role: str,
    subject: str,
    lifetime: str | None,
    scopes: tuple[str, ...],
    bind: Path | None,
    out: Path | None,
    **values: Any,
) -> int:
    """Issue a token. Takes a peer's certificate, or an admin's token."""
    lifetime_s = _seconds(lifetime) if lifetime is not None else 0
    chosen = dict(map(_scope, scopes))
    thumbprint = b""
    if bind is not None:
        certificate = read_certificates(bind)[0]
        from cryptography.hazmat.primitives.serialization import Encoding

        thumbprint = thumbprint_of(certificate.public_bytes(Encoding.DER))
    given = TokenAdmin(client_of(values)).issue(
        subject, role, lifetime_s=lifetime_s, scopes=chosen, thumbprint=thumbprint
    )
    return _hand_over(given, out)


@token.command("list")
@cell_options
@format_option
@click.option("--all", "every", is_flag=True, help="Also those that are over.")
def list_tokens(output: str, every: bool, **values: Any) -> int:
    """List what was issued, and the keys that sign."""
    listed = TokenAdmin(client_of(values)).listed()
    shown = [each for each in listed.tokens if every or each.expires > time.time()]
    if output == "json":
        fields = {"tokens": list(map(_fields, shown)), "keys": to_builtins(listed.keys)}
        click.echo(json.dumps(fields, indent=2))
    else:
        _print(listed, shown)
    return 0


@token.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def show(file: Path) -> int:
    """Show what the token in FILE says. It is not verified, and nobody is asked."""
    fields = unverified(_read(file))
    for name in ("iat", "nbf", "exp"):
        if isinstance(fields.get(name), int):
            fields[name] = _date(fields[name])
    click.echo(json.dumps(fields, indent=2))
    return 0


@token.command()
@cell_options
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--if-older", is_flag=True, help="Only if less than a third of its life is left.")
def renew(file: Path, if_older: bool, **values: Any) -> int:
    """Renew the token in FILE, for as long again; also within 7 days after its end.

    It keeps its id. Running processes take the file in with their next connection. Takes the
    certificate of its holder.
    """
    text = _read(file)
    if if_older and _is_young(unverified(text)):
        click.echo(f"{file} is still good.")
        return 0
    given = TokenAdmin(_holder(file, values)).renew(text)
    return _hand_over(given, file)


@token.command()
@cell_options
@out_option
def login(out: Path | None, **values: Any) -> int:
    """Have a token issued for what standard input proves, by the command of the site.

    The peers run with --token-command, which says who that is.
    """
    credential = sys.stdin.buffer.read(CREDENTIAL_BYTES_MAX + 1)
    if not credential or len(credential) > CREDENTIAL_BYTES_MAX:
        raise OperatorError(
            f"Standard input is to hold a credential of at most {CREDENTIAL_BYTES_MAX} bytes; "
            f"what it is, the operator of the cell can tell."
        )
    return _hand_over(TokenAdmin(client_of(values)).login(credential), out)


@token.command()
@cell_options
@click.argument("token")
def revoke(token: str, **values: Any) -> int:
    """Revoke TOKEN, an id or the begin of one, or the file of a token.

    Its connections are cut, at every peer and worker that is in contact, within 2 s.
    """
    admin = TokenAdmin(client_of(values))
    chosen = _chosen(token, admin)
    admin.revoke(chosen)
    click.echo(f"{chosen.hex()} is revoked.")
    return 0


@token.command()
@cell_options
@click.option("--drop-old", is_flag=True, help="End all tokens that other keys have signed, now.")
def rotate(drop_old: bool, **values: Any) -> int:
    """Have the leader sign with a new key. Older tokens hold until they are over.

    With --drop-old everybody needs a new token: for the case that a key was stolen.
    """
    TokenAdmin(client_of(values)).rotate(drop_old=drop_old)
    click.echo("Tokens are signed with a new key." + (" All others end." if drop_old else ""))
    return 0


# -- files and words


def _holder(file: Path, values: dict[str, Any]) -> ControlClient:
    """A caller with the certificate beside the token, which may be bound to it."""
    cell, data_dir = the_cell(values["peers"]), values["data_dir"]
    options = the_tls(values, data_dir)
    beside = client_files(file.parent)
    given = click.get_current_context().params  # Dask's configuration names a peer's certificate
    named = any(given[name] is not None for name in TLS_FILES)
    files: TlsFiles | None = beside
    if named or not beside.key_file.exists():
        files = choose_control_files(options, cell)
    return ControlClient(cell, files, values["timeout"])


def _hand_over(given: Issued, out: Path | None) -> int:
    if out is None:
        click.echo(given.text)
        return 0
    try:
        write_file(out.absolute(), given.text.encode() + b"\n", MODE_PRIVATE)
    except OSError as error:
        raise OperatorError(f"{out} cannot be written: {error.strerror}.") from error
    click.echo(f"{out}: token {given.token.hex()}, until {_date(given.expires)}.")
    return 0


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            text = opened.read(TOKEN_BYTES_MAX + 2).strip()
    except OSError as error:
        raise OperatorError(f"{file} cannot be read: {error.strerror}.") from error
    if not text or len(text) > TOKEN_BYTES_MAX:
        raise OperatorError(f"{file} holds no token; `dask ha token issue` makes one.")
    return text


def _is_young(fields: dict[str, Any]) -> bool:
    issued, expires = fields.get("iat"), fields.get("exp")
    if not (isinstance(issued, int) and isinstance(expires, int)):
        return False
    return expires - time.time() > (expires - issued) / 3


def _chosen(text: str, admin: TokenAdmin) -> bytes:
    """The id that is meant."""
    if re.fullmatch("[0-9a-f]{32}", text):
        return bytes.fromhex(text)
    if Path(text).is_file():
        identifier = unverified(_read(Path(text))).get("jti")
        if isinstance(identifier, str) and re.fullmatch("[0-9a-f]{32}", identifier):
            return bytes.fromhex(identifier)
    found = [each.token for each in admin.listed().tokens if each.token.hex().startswith(text)]
    if len(found) == 1:
        return found[0]
    raise OperatorError(
        f"{len(found)} tokens that were issued begin with {text}; name one of those that "
        f"`dask ha token list --all` shows, or all {2 * TOKEN_ID_BYTES} characters of an id."
    )


def _seconds(text: str) -> int:
    found = re.fullmatch(r"([0-9]{1,6})([smhd])", text)
    if found is None:
        raise OperatorError(f"--lifetime {text} is no time; write it as 90s, 30m, 12h or 7d.")
    return int(found[1]) * _UNITS[found[2]]


def _scope(text: str) -> tuple[str, Any]:
    name, given, value = text.partition("=")
    if not given:
        raise OperatorError(
            f"--scope {text} says no value; write it as plugins=no, tasks_max=1000."
        )
    word = _WORDS.get(value.lower())
    return name, word if word is not None else int(value) if value.lstrip("-").isdigit() else value


def _date(seconds: int) -> str:
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%F %T} UTC"
    except (ValueError, OverflowError, OSError):
        raise ControlError(f"{seconds} is no date.") from None


def _fields(each: ListedToken) -> dict[str, Any]:
    return {**to_builtins(each), "token": each.token.hex()}


def _print(listed: Tokens, shown: list[ListedToken]) -> None:
    table = new_table("id", "subject", "role", "until", "scopes", "issued by", "state")
    for each in shown:
        state = "revoked" if each.revoked else "over" if each.expires < time.time() else "holds"
        scopes = "" if each.scopes == "{}" else each.scopes
        row = (each.token.hex()[:ID_CHARS], each.subject, each.role, _date(each.expires), scopes)
        table.add_row(*row, each.by, state)
    print_table(table)
    for key in listed.keys:
        click.echo(f"Key {key.kid[:ID_CHARS]} of peer {key.peer} signs since {_date(key.at)}.")
