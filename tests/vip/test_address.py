"""What operators write for the virtual address."""

from __future__ import annotations

import ipaddress

import pytest

from ha_scheduler.errors import OperatorError
from ha_scheduler.vip.address import HostAddress, locate, parse


def host_address(device: str, text: str, *, expires: bool = False) -> HostAddress:
    return HostAddress(device, ipaddress.ip_interface(text), expires)


HOST = [
    host_address("lo", "127.0.0.1/8"),
    host_address("eth0", "10.0.0.1/24"),
    host_address("eth1", "10.1.0.1/24"),
    host_address("eth1", "fd77::1/64"),
]


@pytest.mark.parametrize(
    ("text", "device"),
    [("10.0.0.100/24", "eth0"), ("10.1.0.7/32", "eth1"), ("fd77::100/64", "eth1")],
)
def test_the_interface_is_that_of_the_network(text: str, device: str) -> None:
    assert locate(parse(text), None, HOST).device == device


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is no address"),
        ("vip.example.org", "is no address"),
        ("10.0.0.100", "add its length, as in --vip 10.0.0.100/24"),
        ("fd77::100", "--vip fd77::100/64"),
        ("10.0.0.300/24", "is no address"),
        ("10.0.0.0/24", "the address of the network"),
        ("10.0.0.255/24", "the address of the network"),
        ("127.0.0.5/8", "no address that a host can have for others"),
        ("224.0.0.1/4", "no address that a host can have for others"),
        ("fe80::1/64", "no address that a host can have for others"),
    ],
)
def test_what_is_no_address_is_refused_with_what_to_write(text: str, says: str) -> None:
    with pytest.raises(OperatorError, match=says):
        parse(text)


def test_an_address_in_no_network_of_the_host_needs_its_interface_named() -> None:
    with pytest.raises(OperatorError, match="needs --vip-interface: no interface of this host"):
        locate(parse("192.168.7.7/24"), None, HOST)
    assert locate(parse("192.168.7.7/24"), "eth1", HOST).device == "eth1"


def test_two_interfaces_in_one_network_need_one_named() -> None:
    twins = [host_address("eth0", "10.0.0.1/24"), host_address("eth1", "10.0.0.2/24")]
    with pytest.raises(OperatorError, match="eth0, eth1 have"):
        locate(parse("10.0.0.100/24"), None, twins)


def test_a_lasting_address_of_the_host_is_no_virtual_one() -> None:
    with pytest.raises(OperatorError, match=r"ip address delete 10\.0\.0\.1/24 dev eth0"):
        locate(parse("10.0.0.1/24"), None, HOST)


def test_one_that_expires_was_left_behind_by_a_daemon_that_was_killed() -> None:
    left = [*HOST, host_address("eth0", "10.0.0.100/24", expires=True)]
    assert locate(parse("10.0.0.100/24"), None, left).device == "eth0"
