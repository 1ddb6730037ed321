"""Who may begin a handshake, and who waits."""

from __future__ import annotations

from ha_scheduler.gate.admission import Admission, Limits, network_of

LIMITS = Limits(waiting=100, handshakes=4, silence_s=10.0, handshake_s=5.0)


def crowd(admission: Admission[str], network: str, count: int, now: float = 0.0) -> list[str]:
    names = [f"{network}/{number}" for number in range(count)]
    for name in names:
        admission.arrive(name, network, now)
        admission.speak(name)
    return names


def test_so_many_handshakes_are_under_way_and_no_more() -> None:
    admission: Admission[str] = Admission(LIMITS)
    names = crowd(admission, "a", 10)
    assert admission.begin(0.0) == names[:4]
    assert admission.begin(0.0) == []
    admission.over(names[1])
    admission.over(names[1])
    assert admission.begin(0.0) == names[4:5]
    assert len(admission) == 5


def test_a_crowd_begins_in_steps() -> None:
    admission: Admission[str] = Admission(Limits(handshakes=10, begins=4))
    names = crowd(admission, "a", 12)
    steps = []
    while admission.has_more:
        steps.append(admission.begin(0.0))
    assert steps == [names[:4], names[4:8], names[8:10]]


def test_a_crowd_of_one_network_delays_itself_and_nobody_else() -> None:
    admission: Admission[str] = Admission(LIMITS)
    crowd(admission, "a", 50)
    admission.begin(0.0)
    (other,) = crowd(admission, "b", 1)
    admission.expire(5.0)
    assert other in admission.begin(5.0)[:2]


def test_nobody_who_has_spoken_is_refused() -> None:
    admission: Admission[str] = Admission(LIMITS)
    names = crowd(admission, "a", 100)
    assert admission.is_full
    began: list[str] = []
    now = 0.0
    while chosen := admission.begin(now):
        began += chosen
        now += 5.0
        assert admission.expire(now) == []
    assert began == names


def test_whoever_is_silent_is_let_go_in_time() -> None:
    admission: Admission[str] = Admission(LIMITS)
    admission.arrive("early", "a", 0.0)
    admission.arrive("late", "a", 3.0)
    assert admission.expire(9.9) == []
    assert admission.expire(10.0) == ["early"]
    assert admission.expire(13.0) == ["late"]
    assert admission.is_idle


def test_for_a_newcomer_the_longest_silent_one_is_let_go() -> None:
    admission: Admission[str] = Admission(LIMITS)
    for number in range(100):
        assert admission.arrive(f"{number}", "a", 0.0) == []
    admission.speak("0")
    assert not admission.is_full
    assert admission.arrive("new", "b", 0.0) == ["1"]
    assert len(admission) == 100


def test_a_handshake_that_takes_long_gives_its_place_away() -> None:
    admission: Admission[str] = Admission(LIMITS)
    names = crowd(admission, "a", 8)
    admission.begin(0.0)
    admission.expire(4.9)
    assert admission.begin(4.9) == []
    admission.expire(5.0)
    assert admission.begin(5.0) == names[4:]


def test_a_site_of_ipv6_is_one_and_an_address_of_ipv4_is_one() -> None:
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff:2")
    assert network_of("2001:db8::1") != network_of("2001:db8:0:1::1")
    assert network_of("127.0.0.1") != network_of("127.0.0.2")
    assert network_of("::ffff:127.0.0.1") != network_of("::ffff:127.0.0.2")
    assert network_of("fe80::1%eth0") == network_of("fe80::2")
