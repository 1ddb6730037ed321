"""The key ring: what it takes to verify tokens, told by a daemon to its engine and its watchers."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from ha_scheduler.protocol.codec import CellId, Message, MessageSet, Number

KEY_BYTES = 32  # Ed25519
TOKEN_ID_BYTES = 16
KEYS_MAX = 64  # of all daemons, with those that are being retired
REVOKED_MAX = 16 * 1024  # what one frame holds with room; beyond it keys are retired

Key = Annotated[bytes, Meta(min_length=KEY_BYTES, max_length=KEY_BYTES)]
TokenId = Annotated[bytes, Meta(min_length=TOKEN_ID_BYTES, max_length=TOKEN_ID_BYTES)]


class Ring(Message, tag="ring"):
    """The public keys that sign, and the ids of the tokens that are revoked, of one cell.

    ``predecessor``: the cell from whose ledger this one was founded, if any; its tokens hold here.
    ``version``: the index of the log as of which it is so. ``certificate_alone``: whether a process
    without this package is served as what its certificate says.
    """

    cell_id: CellId
    predecessor: CellId = ""
    version: Number = 0
    keys: Annotated[tuple[Key, ...], Meta(max_length=KEYS_MAX)] = ()
    revoked: Annotated[tuple[TokenId, ...], Meta(max_length=REVOKED_MAX)] = ()
    certificate_alone: bool = False


RINGS: MessageSet[Ring] = MessageSet(Ring)
