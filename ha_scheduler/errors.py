"""The errors of this package, by origin.

::

    HAError
    ├── OperatorError          wrong input or preparation; exit status 2
    ├── CertificateRefused     remote: the other end's certificate does not allow this
    ├── ControlError           remote: no answer of a peer, or an error
    ├── SetAside               remote: what a client sent has ended scheduler processes
    └── SessionTaken           remote: another process goes on with the session of this client

``ha_scheduler.storage`` has a tree of its own (``StorageError``), so that the layers below stay
free of imports; at start ``ha_scheduler.cli`` treats its errors as the operator's.
"""

from __future__ import annotations

EXIT_FAILED = 1  # the command was valid, and did not succeed
EXIT_BAD_INPUT = 2  # nothing was done


class HAError(Exception):
    """Base of the errors of this package. The text is one sentence for a person."""


class OperatorError(HAError):
    """Operator: one sentence that names the mistake and its remedy.

    Raised before anything is changed on disk. The command line prints it and exits with 2.
    """

    exit_status = EXIT_BAD_INPUT


class CertificateRefused(HAError):
    """Remote: the certificate is valid, but not for this request."""


class ControlError(HAError, ConnectionError):
    """Remote: a peer did not answer a control request, or answered with an error.

    A ``ConnectionError`` too, for callers that retry.
    """

    exit_status = EXIT_FAILED


class SetAside(HAError, RuntimeError):
    """Remote: what a client sent has ended scheduler processes, and is not read or run again.

    Of all futures of a graph, and of a call. The text says what it is and how they ended.
    """


class SessionTaken(HAError, RuntimeError):
    """Remote: another process has attached to this client's session, or resumed its journal.

    Of all futures that the client had, which is closed. The text says since when.
    """
