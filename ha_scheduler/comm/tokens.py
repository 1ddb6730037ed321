"""Which token a connection of this process shows.

distributed hands a connector a TLS context, and the token is beside the certificate in it. A
context that is older than this package (an ``ha://`` address loads it) does not say of which files
it was made, so whoever has it is asked.
"""

from __future__ import annotations

import gc
import ssl
from typing import Any
from weakref import WeakKeyDictionary

import dask
import distributed

from ha_scheduler.protocol.introduction import Introduction, Kind
from ha_scheduler.security.contexts import Reloading
from ha_scheduler.security.token_source import find_token

TOKEN_FILE = "ha.token-file"

#: The names of tokens by the kind of a connection. A task's client is where a worker is.
_NAMES = {Kind.CLIENT: ("client", "worker"), Kind.WORKER: ("worker",)}
_OWNERS = (distributed.Client, distributed.Worker, distributed.Nanny)
_found: WeakKeyDictionary[ssl.SSLContext, str] = WeakKeyDictionary()


def token_of(introduction: Introduction, context: ssl.SSLContext) -> bytes | None:
    """The token to show, if this process has one. Raises ``OperatorError``."""
    names = _NAMES.get(Kind(introduction.kind), ())  # none: an engine, known by its certificate
    named = dask.config.get(TOKEN_FILE, None)
    certificate = certificate_of(context)
    found = (find_token(name, certificate, named) for name in names)
    return next(filter(None, found), None)


def certificate_of(context: ssl.SSLContext) -> str | None:
    """The file of the certificate that a context shows, if it is known."""
    if isinstance(context, Reloading):
        return str(context.files.cert_file)
    if context not in _found:
        found = _of_its_owner(context)
        if found is None:
            return None
        _found[context] = found
    return _found[context]


def _of_its_owner(context: ssl.SSLContext) -> str | None:
    """Of the client, worker or nanny that has it. It is looked for among all objects, once.

    distributed lists a client when it has started, which is too late.
    """
    for owner in gc.get_objects():
        mine = issubclass(type(owner), _OWNERS) and getattr(owner, "connection_args", {})
        if mine and mine.get("ssl_context") is context:
            role = "client" if isinstance(owner, distributed.Client) else "worker"
            return _file(owner.security.get_tls_config_for_role(role))
    return None


def _file(tls: dict[str, Any]) -> str | None:
    certificate = tls.get("cert")
    return None if certificate is None or "\n" in certificate else str(certificate)
