"""``ha://`` addresses, and what distributed's own address functions make of them."""

from __future__ import annotations

import pytest
from distributed.comm import (
    get_address_host,
    normalize_address,
    parse_address,
    resolve_address,
    unparse_address,
)
from distributed.core import coerce_to_address
from distributed.utils import get_ip

from ha_scheduler.cell.address import is_loopback
from ha_scheduler.comm import directory
from ha_scheduler.comm.address import (
    ADDRESSES_MAX,
    Endpoint,
    HAAddressError,
    is_ha,
    parse,
    unparse,
)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("ha://a", "ha://a:8786"),
        ("ha://a:8786,b:8786,c", "ha://a:8786,b:8786,c:8786"),
        ("ha:// a , b:1 ,", "ha://a:8786,b:1"),
        ("a,b", "ha://a:8786,b:8786"),
        ("ha://a,a:8786", "ha://a:8786"),
        ("ha://[::1],[fe80::1]:7", "ha://[::1]:8786,[fe80::1]:7"),
        ("ha://tls://a:1,tls://b:2", "ha://a:1,b:2"),
    ],
)
def test_every_spelling_becomes_one(text: str, canonical: str) -> None:
    assert unparse(parse(text)) == canonical
    assert unparse(parse(canonical)) == canonical


@pytest.mark.parametrize(
    "text",
    [
        "ha://",
        "ha://,",
        "ha://:8786",
        "ha://a:b",
        "ha://a:0",
        "ha://a:65536",
        "ha://::1",
        "ha://[::1",
    ],
)
def test_what_is_no_address_is_refused_with_the_text_in_the_message(text: str) -> None:
    with pytest.raises(HAAddressError):
        parse(text)


def test_a_list_too_long_is_a_mistake() -> None:
    with pytest.raises(HAAddressError, match="more than"):
        parse("ha://" + ",".join(f"h{i}" for i in range(ADDRESSES_MAX + 1)))


def test_loopback_is_recognised_without_a_resolver() -> None:
    assert is_loopback("localhost")
    assert is_loopback("127.9.9.9")
    assert is_loopback("::1")
    assert not is_loopback("10.0.0.1")
    assert not is_loopback("example.invalid")


def test_only_the_scheme_makes_an_address_ha() -> None:
    assert is_ha("ha://a")
    assert not is_ha("tls://a")
    assert not is_ha(None)


ADDRESS = "ha://127.0.0.1:8786,localhost:8787"


def test_distributed_keeps_the_commas() -> None:
    """comm/addressing.py: parse, normalise, coerce, resolve; core.py:1569."""
    assert parse_address(ADDRESS) == ("ha", "127.0.0.1:8786,localhost:8787")
    assert unparse_address(*parse_address(ADDRESS)) == ADDRESS
    assert normalize_address(ADDRESS) == ADDRESS
    assert coerce_to_address(ADDRESS) == ADDRESS
    assert resolve_address("ha://127.0.0.1,localhost:8787") == ADDRESS


def test_the_host_of_a_cell_is_the_likeliest_leaders() -> None:
    """nanny.py:253 and worker.py:1298 choose the interface to listen on by it."""
    directory.forget_directories()
    assert get_address_host(ADDRESS) == "127.0.0.1"
    directory.directory_of(parse(ADDRESS)).connected(Endpoint("localhost", 8787))
    assert get_address_host(ADDRESS) == "localhost"
    assert get_ip(get_address_host("ha://127.0.0.1")) == "127.0.0.1"
    directory.forget_directories()
