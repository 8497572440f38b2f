from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.entry import Entry
from gateway.segment import carried, carry, frame, framed, frames, list_of, size_of

ENTRIES = st.builds(
    Entry,
    sequence=st.integers(0, 2**62),
    topic=st.text(max_size=20),
    partition=st.integers(0, 100),
    key=st.binary(max_size=40),
    value=st.binary(max_size=300),
    headers=st.lists(st.tuples(st.text(max_size=10), st.binary(max_size=20)), max_size=3),
    timestamp_ms=st.integers(0, 2**50),
)
GROUPS = st.lists(st.lists(ENTRIES, min_size=1, max_size=4), max_size=6)


def groups_in(data: bytes) -> list[list[Entry]]:
    return [found.entries for found in frames(data)]


@pytest.mark.req("BEY-03")
@given(GROUPS, st.data())
def test_any_truncation_yields_a_prefix_of_whole_groups(groups, data) -> None:
    file = b"".join(map(frame, groups))
    assert groups_in(file) == groups
    cut = data.draw(st.integers(0, len(file)))
    found = groups_in(file[:cut])
    assert found == groups[: len(found)]
    if cut == len(file):
        assert found == groups


@given(GROUPS.filter(bool), st.data())
def test_a_flipped_bit_yields_a_prefix(groups, data) -> None:
    file = bytearray(b"".join(map(frame, groups)))
    position = data.draw(st.integers(0, len(file) - 1))
    file[position] ^= 1 << data.draw(st.integers(0, 7))
    found = groups_in(bytes(file))
    assert found == groups[: len(found)]
    assert len(found) < len(groups)


@given(GROUPS, st.integers(1, 100))
def test_zeros_allocated_ahead_end_the_segment(groups, zeros) -> None:
    assert groups_in(b"".join(map(frame, groups)) + bytes(zeros)) == groups


@given(st.lists(st.binary(max_size=50), max_size=5))
def test_carry_gives_back_its_events(values) -> None:
    [entry] = next(frames(carry(7, values))).entries
    assert carried(entry) == values
    assert entry.topic == ""


def test_frames_start_anywhere_a_frame_starts(tmp_path: Path) -> None:
    first = frame([Entry(1, "t", 0, b"k", b"v", [], 0)])
    second = frame([Entry(2, "t", 0, b"k", b"v", [], 0)])
    [found] = frames(first + second, len(first))
    assert found.entries[0].sequence == 2
    assert found.end == len(first) + len(second)


@given(GROUPS)
def test_what_an_earlier_version_wrote_is_read(groups) -> None:
    file = b""
    for group in groups:
        file += framed(msgspec.msgpack.encode([entry[:-1] for entry in group]))
    assert groups_in(file) == [[entry._replace(origin="") for entry in group] for group in groups]


@given(st.binary(max_size=70_000))
def test_bytes_are_packed_as_messagepack_has_them(data) -> None:
    assert size_of(data) + data == msgspec.msgpack.encode(data)


@pytest.mark.parametrize("length", [1, 15, 16, 300])
def test_lists_are_packed_as_messagepack_has_them(length) -> None:
    assert list_of(length) + bytes(length) == msgspec.msgpack.encode([0] * length)
