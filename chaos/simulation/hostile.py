"""The engine of a leader that runs code of its enemies: it proposes whatever it likes.

Guarantee: what it proposes goes the product's way, through ``peer.proposals``; what that refuses
ends this engine, as in the product, and the next one goes on. Of the records some are right, some
have one field wrong, some are another author's, come twice or late, or are no records at all.
"""

from __future__ import annotations

import random
from typing import Any

import msgspec

from chaos.simulation.peer import Process
from ha_scheduler.ledger import records
from ha_scheduler.ledger.calls import pack_payload
from ha_scheduler.peer.engine.proposals import ProposalError, Proposals
from ha_scheduler.raft.errors import RaftError

FORMER_MAX = 50  # records that are proposed again


class HostileEngine:
    """The hostile engines of one world, one after the other."""

    def __init__(self, rng: random.Random) -> None:
        self.proposed = self.refused = 0
        self._rng = rng
        self._former: list[bytes] = []

    def propose(self, process: Process) -> None:
        """Some records, until one of them is its last."""
        term = process.node.term
        proposals = Proposals(process.driver.propose_batch, term, lambda call: call())
        for number in range(1, self._rng.randint(2, 6)):
            data = self._data(term)
            try:
                proposals.offer(number, data)
            except ProposalError:
                self.refused += 1
                return
            except RaftError:
                return  # it leads no more
            self.proposed += 1

    def _data(self, term: int) -> bytes:
        rng = self._rng
        draw = rng.random()
        if draw < 0.15 and self._former:
            return rng.choice(self._former)
        data = self._record(term, self._kind())
        if draw < 0.25:
            place = rng.randrange(len(data))
            return data[:place] + rng.randbytes(rng.randrange(3)) + data[place + 1 :]
        self._former = [*self._former[-FORMER_MAX:], data]
        return data

    def _kind(self) -> type[Any]:
        return self._rng.choice(list(records.KINDS.values()))

    def _record(self, term: int, kind: type[Any]) -> bytes:
        """One of that kind, whose fields need not fit each other."""
        fields = msgspec.structs.fields(kind)
        values = {field.name: self._value(field.name, field.type, term) for field in fields}
        if kind is records.Called and self._rng.random() < 0.8:
            changes = tuple(self._change(term) for _ in range(self._rng.randrange(3)))
            values |= {"payload": pack_payload(changes, b"a"), "blob": 0, "blob_parts": 0}
        return msgspec.msgpack.encode([kind.__struct_config__.tag, *values.values()])

    def _change(self, term: int) -> bytes:
        usual = (records.ValueSet, records.ValueDeleted, records.Restarted)
        kind = self._rng.choice(usual) if self._rng.random() < 0.8 else self._kind()
        return self._record(term, kind)

    def _value(self, name: str, annotation: Any, term: int) -> Any:
        """A value of the right type, mostly of a small set, so that records meet."""
        rng, small = self._rng, self._rng.randrange(4)
        if name == "term":
            return term if rng.random() < 0.9 else rng.choice((0, term + 1, 2**62))
        if name == "graph":
            return (term if rng.random() < 0.9 else term + 1) << 32 | small
        if name == "graphs":
            return tuple(term << 32 | n for n in range(small))
        if name == "format":
            return records.FORMAT
        return self._of(msgspec.inspect.type_info(annotation), term)

    def _of(self, info: Any, term: int) -> Any:
        rng, small = self._rng, self._rng.randrange(4)
        match info:
            case msgspec.inspect.IntType():
                return small if rng.random() < 0.95 else rng.choice((2**32 - 1, 2**63 - 1))
            case msgspec.inspect.StrType():
                return rng.choice((f"c{small}", f"s{small}", ""))
            case msgspec.inspect.BytesType():
                return rng.choice((b"k%d" % small, b"", b"x" * 100))
            case msgspec.inspect.BoolType():
                return rng.random() < 0.5
            case msgspec.inspect.EnumType():
                return rng.choice(list(info.cls))
            case msgspec.inspect.VarTupleType(item_type=item):
                return tuple(sorted({self._of(item, term) for _ in range(small)}, key=repr))
            case msgspec.inspect.StructType():
                fields = msgspec.structs.fields(info.cls)
                return tuple(self._value(field.name, field.type, term) for field in fields)
            case _:
                return rng.choice((small, "", ()))
