"""The site's own word on who somebody is: a command of the operator's (``--token-command``).

It gets a credential on standard input: an OIDC token, a Kerberos ticket, a name and password. If it
ends with 0, what it has printed is who that is and what the token may say::

    {"subject": "alice", "role": "client", "lifetime_s": 28800, "scopes": {"plugins": false}}

Guarantee: no token is issued for anything else: another status, other output, ``TIMEOUT_S``. The
credential is in no argument, environment or log. At most ``AT_ONCE`` run; others wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import Any

import msgspec

from ha_scheduler.protocol.control import TokenRequest

TIMEOUT_S = 10.0
AT_ONCE = 4
ANSWER_BYTES_MAX = 16 * 1024


class SiteRefused(Exception):
    """Remote or operator: the command of the site does not say yes."""


class _Answer(msgspec.Struct, forbid_unknown_fields=True):
    subject: str
    role: str = "client"
    lifetime_s: int = 0
    scopes: dict[str, Any] = {}


class SiteCommand:
    """One program, without arguments."""

    def __init__(self, program: str | None) -> None:
        self._program = program
        self._running = asyncio.Semaphore(AT_ONCE)

    async def identify(self, credential: bytes) -> TokenRequest:
        """The token that the holder of the credential may have. Raises ``SiteRefused``."""
        if self._program is None:
            raise SiteRefused(
                "this cell knows no command that tells who somebody is; ask your operator for a "
                "token, or start the peers with --token-command"
            )
        async with self._running:
            said = await self._run(self._program, credential)
        try:
            answer = msgspec.json.decode(said, type=_Answer)
        except (ValueError, RecursionError):
            raise SiteRefused(
                "the command of the site printed no claims; its operator finds in docs/tokens.md "
                "what it is to print"
            ) from None
        return TokenRequest(answer.subject, answer.role, answer.lifetime_s, answer.scopes)

    async def _run(self, program: str, credential: bytes) -> bytes:
        environment = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        try:
            process = await asyncio.create_subprocess_exec(
                program,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env=environment,
                cwd="/",
            )
        except OSError as error:
            raise SiteRefused(f"the command of the site cannot be run: {error.strerror}") from error
        try:
            async with asyncio.timeout(TIMEOUT_S):
                assert process.stdin is not None
                assert process.stdout is not None
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    process.stdin.write(credential)
                    await process.stdin.drain()
                    process.stdin.close()
                said = await process.stdout.read(ANSWER_BYTES_MAX + 1)
                more = await process.stdout.read(1) if len(said) > ANSWER_BYTES_MAX else b""
                status = await process.wait() if not more else 1
        except TimeoutError:
            raise SiteRefused(f"the command of the site took over {TIMEOUT_S:g} s") from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        if status:
            raise SiteRefused("the command of the site does not know this credential")
        return said
