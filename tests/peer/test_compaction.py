"""Goal: the log is cut neither too early, nor past what somebody needs, nor too late.

Method: sentences about small limits, and a model that hypothesis drives: a log, a moving applied
index and a reader that lags behind as it likes.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ha_scheduler.peer.consensus import compaction
from ha_scheduler.peer.consensus.compaction import HARD_FACTOR, Compaction
from ha_scheduler.raft.messages import Entry, EntryKind, entry_size
from ha_scheduler.storage.port import Space

AMPLE = Space(log_bytes=0, room_bytes=1 << 40)
ENTRIES = 100  # the limits of these tests
KEEP = 20
BUCKET = 10
BYTES = 40_000
KEEP_BYTES = 8_000
BUCKET_BYTES = 2_000
ENTRY_BYTES = 3_000  # the largest


@pytest.fixture(autouse=True, scope="module")
def _small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compaction, "ENTRIES_MAX", ENTRIES)
        patch.setattr(compaction, "KEEP_ENTRIES", KEEP)
        patch.setattr(compaction, "BUCKET_ENTRIES", BUCKET)
        patch.setattr(compaction, "BYTES_MAX", BYTES)
        patch.setattr(compaction, "KEEP_BYTES", KEEP_BYTES)
        patch.setattr(compaction, "BUCKET_BYTES", BUCKET_BYTES)
        yield


def entry(index: int, size: int = 1, term: int = 1) -> Entry:
    return Entry(term, index, EntryKind.NORMAL, bytes(size))


def test_the_log_is_cut_above_its_limit_but_not_past_a_reader() -> None:
    log = Compaction(1, 0, AMPLE)
    log.appended([entry(n) for n in range(1, 91)])
    assert log.choose(90, 90) is None, "below the limit"
    log.appended([entry(n) for n in range(91, 121)])
    assert log.choose(120, 5) is None, "somebody still has to read entry 6"
    assert log.choose(120, 47) == 40
    chosen = log.choose(120, 120)
    assert chosen is None, "now it is below the limit"


def test_a_hopelessly_slow_reader_is_given_up() -> None:
    log = Compaction(1, 0, AMPLE)
    log.appended([entry(n) for n in range(1, 402)])
    chosen = log.choose(401, 5)
    assert chosen is not None
    assert 300 < chosen <= 381


def test_nothing_unapplied_is_cut_whatever_the_limits() -> None:
    log = Compaction(1, 0, AMPLE)
    log.appended([entry(n) for n in range(1, 1001)])
    assert (log.choose(35, 1000) or 0) <= 35


def test_replaced_entries_are_counted_once() -> None:
    log = Compaction(1, 0, AMPLE)
    log.appended([entry(n) for n in range(1, 91)])
    for _ in range(10):
        log.appended([entry(n, term=2) for n in range(55, 91)])
    assert log.choose(90, 90) is None


def test_what_an_earlier_run_left_behind_counts_with_the_bytes_it_takes() -> None:
    log = Compaction(1001, 1050, Space(log_bytes=4 * BYTES, room_bytes=1 << 40))
    assert (log.entries, log.size) == (50, 4 * BYTES)
    chosen = log.choose(1050, 1050)
    assert chosen is not None
    assert chosen <= 1050
    assert log.size <= 2 * KEEP_BYTES + 4 * BYTES // 5, "a bucket is ten entries of fifty"


def test_a_log_of_millions_is_accounted_in_a_thousand_buckets() -> None:
    log = Compaction(1, 5_000_000, Space(log_bytes=1 << 33, room_bytes=1 << 40))
    assert len(log._buckets) <= compaction.OLD_BUCKETS_MAX
    assert log.choose(5_000_000, 5_000_000) == 4_995_000


def test_on_a_small_disk_the_log_takes_half_of_the_room_at_most() -> None:
    log = Compaction(1, 0, Space(log_bytes=0, room_bytes=BYTES))
    for n in range(1, 91):
        log.appended([entry(n, 1_000)])
        log.choose(n, 0)  # nobody reads; only the hard limit cuts
        assert log.size <= BYTES // 2 + BUCKET_BYTES + ENTRY_BYTES


_steps = st.lists(
    st.tuples(
        st.integers(1, 30),  # entries appended
        st.integers(0, ENTRY_BYTES - 100),  # bytes of each
        st.integers(0, 20),  # entries of the end that are replaced
        st.floats(0, 1),  # how much of what may be applied is
        st.floats(0, 1),  # how much of what is applied the slowest reader has read
    ),
    max_size=60,
)


@given(steps=_steps, old=st.integers(0, 300), room=st.sampled_from([BYTES, 1 << 40]))
def test_whatever_happens_the_log_is_cut_safely_and_stays_bounded(
    steps: list[tuple[int, int, int, float, float]], old: int, room: int
) -> None:
    first, last, applied = 1, old, old
    sizes = dict.fromkeys(range(1, old + 1), 100)
    log = Compaction(1, old, Space(100 * old, room))
    bytes_max = min(BYTES, (100 * old + room) // compaction.ROOM_SHARE)
    for count, size, replaced, applies, reads in steps:
        start = max(applied, last - replaced) + 1
        new = [entry(n, size) for n in range(start, start + count)]
        for gone in range(start, last + 1):
            del sizes[gone]
        sizes.update((e.index, entry_size(e)) for e in new)
        last = start + count - 1
        log.appended(new)
        applied += int((last - applied) * applies)
        readers = int(applied * reads)
        hopeless = len(sizes) > ENTRIES * HARD_FACTOR or log.size > bytes_max * HARD_FACTOR
        chosen = log.choose(applied, readers)
        if chosen is not None:
            assert first <= chosen <= applied
            assert hopeless or chosen <= readers, "somebody still has to read it"
            for gone in range(first, chosen + 1):
                del sizes[gone]
            first = chosen + 1
        assert log.entries == len(sizes) == last - first + 1
        slack = BUCKET_BYTES + ENTRY_BYTES  # of the bucket that ends past what is applied
        unapplied = sum(sizes[n] for n in range(max(applied + 1, first), last + 1))
        assert log.size <= bytes_max * HARD_FACTOR + unapplied + slack
        if applied == readers:
            assert log.entries <= ENTRIES + (last - applied) + BUCKET
            assert log.size <= bytes_max + unapplied + slack
