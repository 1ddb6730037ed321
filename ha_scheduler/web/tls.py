"""TLS of HTTP: TLS 1.3 with the certificate of the process, and no certificate of the caller.

Browsers, Prometheus and load balancers have tokens or nothing; asking for a certificate would have
a browser open a dialogue.
"""

from __future__ import annotations

import ssl

from ha_scheduler.cell.tls_files import TlsFiles
from ha_scheduler.errors import OperatorError


def http_context(files: TlsFiles) -> ssl.SSLContext:
    """For serving. Raises ``OperatorError``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0  # what is resumed is not verified again
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(files.cert_file, files.key_file, password=lambda: "")
    except OSError as error:
        reason = getattr(error, "reason", None) or error.strerror or str(error)
        raise OperatorError(
            f"HTTP cannot be served with {files.cert_file} and {files.key_file}: {reason}; name a "
            f"certificate and its key."
        ) from error
    return context
