"""TLS contexts: the one place where they are made, for every port and every caller.

Guarantees: TLS 1.3 alone, and both sides show a certificate of the cell. No session is resumed, as
the certificate of whoever resumes one is not looked at again: an expired one got in like that. What
is changed in the files is in force for the next connection; those in use live on.

A changed authority takes a new context. OpenSSL adds what it loads to what a context has, so
reloading into the old one would go on to trust the authority that was removed. asyncio, tornado and
distributed keep the context that they were given, so that is a ``Reloading``, which makes each
connection with its newest inner one.

Host names are not checked: a VIP moves between hosts, and workers listen at addresses unknown when
their certificate was made. Roles and names in the subject are, after the handshake.
"""

from __future__ import annotations

import logging
import ssl
import threading
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ha_scheduler.cell.tls_files import TlsFiles
from ha_scheduler.errors import OperatorError
from ha_scheduler.security.private import check_private

LOOK_EVERY_S = 1.0  # how often, at most, the files are looked at; a look takes some microseconds

logger = logging.getLogger(__name__)

_alive: weakref.WeakSet[Reloading] = weakref.WeakSet()


def server_context(files: TlsFiles) -> Reloading:
    """For listening, with callers of the same cell. Raises ``OperatorError``."""
    return Reloading(files, ssl.PROTOCOL_TLS_SERVER)


def client_context(files: TlsFiles) -> Reloading:
    """For connecting to servers of the same cell. Raises ``OperatorError``."""
    return Reloading(files, ssl.PROTOCOL_TLS_CLIENT)


def web_context(files: TlsFiles) -> Reloading:
    """For listening to browsers and scrapers, who have no certificate. Raises ``OperatorError``."""
    return Reloading(files, ssl.PROTOCOL_TLS_SERVER, asks=ssl.CERT_NONE)


def enrolment_context(files: TlsFiles) -> Reloading:
    """For listening to nodes that have no certificate yet, or one that is to be renewed.

    Raises ``OperatorError``.
    """
    return Reloading(files, ssl.PROTOCOL_TLS_SERVER, asks=ssl.CERT_OPTIONAL)


def harden(context: ssl.SSLContext) -> None:
    """Have a context that was made elsewhere, such as upstream's, speak TLS 1.3 without tickets.

    Raises ``OperatorError`` if it was told not to.
    """
    if isinstance(context, Reloading):
        return
    check_version(context.maximum_version)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_TICKET
    if context.protocol is ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0


def check_version(newest: ssl.TLSVersion) -> None:
    """Raises ``OperatorError`` if a process that speaks nothing newer fits no cell."""
    if newest not in (ssl.TLSVersion.MAXIMUM_SUPPORTED, ssl.TLSVersion.TLSv1_3):
        raise OperatorError(
            f"This process is told to speak no TLS newer than {newest.name}, and a cell speaks "
            "TLS 1.3 alone; leave out distributed.comm.tls.max-version, or tls_max_version of "
            "Security."
        )


def reload_all() -> list[OperatorError]:
    """Look at the files of all contexts of this process now. Returns why some stay as they are."""
    return [error for context in list(_alive) if (error := context.look()) is not None]


class Reloading(ssl.SSLContext):
    """A context of ``files`` as they are now."""

    def __new__(
        cls, files: TlsFiles, protocol: Any, *, asks: ssl.VerifyMode = ssl.CERT_REQUIRED
    ) -> Reloading:
        """``asks``: whether the other side is to show a certificate."""
        return super().__new__(cls, protocol)

    def __init__(
        self, files: TlsFiles, protocol: Any, *, asks: ssl.VerifyMode = ssl.CERT_REQUIRED
    ) -> None:
        """Raises ``OperatorError``."""
        self.files = files
        self._kind = protocol
        self._asks = asks
        self._alpn: list[str] = []
        self._lock = threading.Lock()
        self._looked = time.monotonic()
        self._seen = _state(files)
        self._said = ""
        self._inner = made(files, protocol, asks=asks)
        # What asyncio and tornado read of a context.
        self.check_hostname = False
        self.verify_mode = self._inner.verify_mode
        self.minimum_version = ssl.TLSVersion.TLSv1_3
        _alive.add(self)

    def wrap_socket(self, *args: Any, **options: Any) -> ssl.SSLSocket:
        return self._newest().wrap_socket(*args, **options)

    def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:
        return self._newest().wrap_bio(*args, **options)

    def set_alpn_protocols(self, alpn_protocols: Sequence[str]) -> None:  # type: ignore[override]
        with self._lock:
            self._alpn = list(alpn_protocols)
            self._inner.set_alpn_protocols(self._alpn)

    def look(self) -> OperatorError | None:
        """Take in the files if they have changed. Returns why not, if they cannot be used."""
        with self._lock:
            self._looked = time.monotonic()
            seen = _state(self.files)
            if seen == self._seen:
                return None
            try:
                inner = made(self.files, self._kind, asks=self._asks)
            except OperatorError as error:  # perhaps half copied: the next look may find them whole
                self._say(str(error))
                return error
            if self._alpn:
                inner.set_alpn_protocols(self._alpn)
            self._inner, self._seen, self._said = inner, seen, ""
        logger.info(
            "connections are made with the renewed %s from now on",
            self.files.cert_file,
            extra={"action": "certificate_reloaded"},
        )
        return None

    def _newest(self) -> ssl.SSLContext:
        if time.monotonic() - self._looked > LOOK_EVERY_S:
            self.look()
        return self._inner

    def _say(self, reason: str) -> None:
        if reason == self._said:
            return
        self._said = reason
        logger.warning(
            "changed certificates are not used, and those of before are: %s",
            reason,
            extra={"action": "certificate_not_reloaded"},
        )


def made(
    files: TlsFiles,
    protocol: Any,
    *,
    asks: ssl.VerifyMode = ssl.CERT_REQUIRED,
    owner: int | None = None,
) -> ssl.SSLContext:
    """A context of ``files`` that does not change. ``owner`` as for ``check_private``.

    Raises ``OperatorError``.
    """
    check_private(files.key_file, "key", owner=owner)
    context = ssl.SSLContext(protocol)
    context.check_hostname = False
    context.verify_mode = asks
    harden(context)
    try:
        context.load_verify_locations(cafile=files.ca_file)
        # Without a callback OpenSSL would ask for a password at the terminal, and a daemon hang.
        context.load_cert_chain(files.cert_file, files.key_file, password=lambda: "")
    except OSError as error:  # ssl.SSLError is one
        reason = getattr(error, "reason", None) or error.strerror or str(error)
        raise OperatorError(
            f"TLS cannot use {files.cert_file}, {files.key_file} and {files.ca_file}: {reason}; "
            f"create them with `dask-ha-scheduler init`."
        ) from error
    return context


def _state(files: TlsFiles) -> tuple[object, ...]:
    """What differs when a file has been written or replaced."""
    return tuple(_stat(path) for path in (files.ca_file, files.cert_file, files.key_file))


def _stat(path: Path) -> object:
    try:
        found = path.stat()
    except OSError as error:
        return error.errno
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
