"""ARP and neighbour discovery, byte by byte."""

from __future__ import annotations

import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from ha_scheduler.vip import frames
from ha_scheduler.vip.frames import Claim

MAC = bytes.fromhex("020000000001")
V4 = ipaddress.IPv4Address("10.0.0.100")
V6 = ipaddress.IPv6Address("fd77::1:100")


def test_a_probe_claims_nothing_so_that_no_cache_of_a_neighbour_changes() -> None:
    frame = frames.arp_probe(V4, MAC)
    assert frame[:6] == frames.BROADCAST
    assert len(frame) == 42
    assert frames.arp_claim(frame) is None


def test_announcements_claim_the_address_as_request_and_as_reply() -> None:
    request, reply = frames.arp_announcements(V4, MAC)
    assert (request[20:22], reply[20:22]) == (b"\x00\x01", b"\x00\x02")
    assert frames.arp_claim(request) == frames.arp_claim(reply) == Claim(V4, "02:00:00:00:00:01")


def test_an_advertisement_overrides_and_names_the_link_address() -> None:
    packet = frames.advertisement(V6, MAC)
    assert packet[4] == 0x20  # override; neither router nor solicited
    assert frames.neighbour_claim(packet) == Claim(V6, "02:00:00:00:00:01")
    assert frames.neighbour_claim(frames.solicitation(V6, MAC)) is None


def test_a_solicitation_goes_to_the_group_of_the_last_three_bytes() -> None:
    assert frames.solicited_node(V6) == "ff02::1:ff01:100"


@given(st.binary(max_size=200))
def test_nothing_that_a_neighbour_sends_raises(packet: bytes) -> None:
    frames.arp_claim(packet)
    frames.neighbour_claim(packet)


@given(st.data())
def test_nor_does_a_claim_with_some_bytes_changed_or_cut(data: st.DataObject) -> None:
    good = bytearray(
        data.draw(
            st.sampled_from([frames.advertisement(V6, MAC), frames.arp_announcements(V4, MAC)[0]])
        )
    )
    good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    packet = bytes(good[: data.draw(st.integers(0, len(good)))])
    frames.arp_claim(packet)
    frames.neighbour_claim(packet)
