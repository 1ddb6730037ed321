"""Tokens from Python: what ``dask ha token`` does.

::

    from ha_scheduler.cli.token_admin import TokenAdmin

    admin = TokenAdmin(ControlClient(cell, peer_files(directory, "a")))
    issued = admin.issue("alice", "client", lifetime_s=3600, scopes={"plugins": False})
    admin.revoke(issued.token)

It takes the certificate of a peer, or an admin's token. Every method raises ``ControlError``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, TypeVar

from ha_scheduler.cli.control import ControlClient
from ha_scheduler.errors import ControlError
from ha_scheduler.protocol.control import (
    Issued,
    LoginRequest,
    RenewRequest,
    Request,
    RevokeRequest,
    RotateRequest,
    Status,
    Taken,
    TokenRequest,
    Tokens,
    TokensRequest,
)

LEADER_S_MAX = 3.0  # some elections
POLL_S = 0.1

_T = TypeVar("_T")


class TokenAdmin:
    """The tokens of one cell."""

    def __init__(self, control: ControlClient) -> None:
        self._control = control

    def issue(
        self,
        subject: str,
        role: str,
        *,
        lifetime_s: int = 0,
        scopes: Mapping[str, Any] | None = None,
        thumbprint: bytes = b"",
    ) -> Issued:
        """A new token. ``lifetime_s``: 0 for that of the role."""
        wanted = TokenRequest(subject, role, lifetime_s, dict(scopes or {}), thumbprint)
        return self._of_leader(wanted, Issued)

    def renew(self, token: bytes) -> Issued:
        """The same for as long again; also a while after its end."""
        return self._of_leader(RenewRequest(token), Issued)

    def login(self, credential: bytes) -> Issued:
        """A token for whom the command of the site says that this is."""
        return self._of_leader(LoginRequest(credential), Issued)

    def listed(self) -> Tokens:
        """What was issued, and the keys that sign."""
        return self._of_leader(TokensRequest(), Tokens)

    def revoke(self, token: bytes) -> None:
        """The token with this id holds no longer, anywhere."""
        self._of_leader(RevokeRequest(token), Taken)

    def rotate(self, *, drop_old: bool = False) -> None:
        """The leader signs with a new key. ``drop_old``: tokens of all other keys end now."""
        self._of_leader(RotateRequest(drop_old), Taken)

    def _of_leader(self, request: Request, wanted: type[_T]) -> _T:
        return self._control.request(self._leader(), request, wanted)

    def _leader(self) -> str:
        """Who leads; during a change of leaders it is waited for."""
        deadline = time.monotonic() + LEADER_S_MAX
        while True:
            answers = self._control.of_all(self._control.status)
            leaders = [
                (answer.term, name)
                for name, answer in answers.items()
                if isinstance(answer, Status) and answer.role == "leader"
            ]
            if leaders:
                return max(leaders)[1]
            if time.monotonic() > deadline:
                reasons = [str(e) for e in answers.values() if isinstance(e, ControlError)]
                raise ControlError(" ".join(["No peer leads at the moment.", *reasons]))
            time.sleep(POLL_S)
