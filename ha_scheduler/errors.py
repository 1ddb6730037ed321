"""What can go wrong, by whose fault it is.

::

    HAError
    ├── OperatorError          what the operator said or prepared is wrong; exit status 2
    ├── CertificateRefused     remote: the other end's certificate does not let it do this
    └── ControlError           remote: a peer could not be asked, or answered with an error

``ha_scheduler.storage`` has a tree of its own (``StorageError``), so that the layers below stay
free of imports; ``ha_scheduler.cli`` treats what it raises at start as an operator's error.
"""

from __future__ import annotations

EXIT_FAILED = 1  # the command was understood, and did not succeed
EXIT_BAD_INPUT = 2  # nothing was done, because of what the operator said or prepared


class HAError(Exception):
    """Base of the errors of this package. Its text is one sentence for a person."""


class OperatorError(HAError):
    """Operator: one sentence that names the mistake, then what to do about it.

    Raised before anything is changed on disk. The command line prints it and exits with 2.
    """

    exit_status = EXIT_BAD_INPUT


class CertificateRefused(HAError):
    """Remote: the certificate is valid, but not one for what its holder asks for."""


class ControlError(HAError, ConnectionError):
    """Remote: a peer did not answer a control request, or answered with an error.

    A ``ConnectionError`` too: for who asks in a loop it is one more way of not reaching a peer.
    """

    exit_status = EXIT_FAILED
