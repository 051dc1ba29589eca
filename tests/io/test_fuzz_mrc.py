"""Damaged MRC files are one line for the user: never a traceback, a hang, or memory beyond the file's size."""

import bz2
import gzip
import itertools
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gaussemble.errors import InputError
from gaussemble.io.mrc import MODES, read_map, read_stack_header
from made_particles import write_mrc

COUNT, SIZE = 3, 4
FIELDS = {"nx": 0, "ny": 4, "nz": 8, "mode": 12, "mx": 28, "my": 32, "mz": 36, "mapc": 64, "nsymbt": 92, "stamp": 212}
NUMBERS = st.one_of(
    st.integers(-3, 20), st.sampled_from([-(2**31), 2**31 - 1, 2**24, 10**6]), st.integers(-(2**31), 2**31 - 1)
)
FUZZ = settings(
    max_examples=150,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # each example writes its own file
)


def _good(order: str = "<", kind: str = "f4") -> bytearray:
    """A stack that is right, of small whole numbers, with a pixel size and 20 bytes of extended header."""
    images = np.arange(COUNT * SIZE * SIZE).reshape(COUNT, SIZE, SIZE).astype(kind)
    packed = bytearray(1024)
    mode = next(number for number, name in MODES.items() if name == kind)
    struct.pack_into(f"{order}10i", packed, 0, SIZE, SIZE, COUNT, mode, 0, 0, 0, SIZE, SIZE, COUNT)
    struct.pack_into(f"{order}6f", packed, 40, *(1.5 * n for n in (SIZE, SIZE, COUNT)), 90, 90, 90)
    struct.pack_into(f"{order}3i", packed, 64, 1, 2, 3)
    struct.pack_into(f"{order}2i", packed, 88, 0, 20)
    packed[208:216] = b"MAP " + (b"\x44\x44\0\0" if order == "<" else b"\x11\x11\0\0")
    return packed + bytes(20) + images.astype(images.dtype.newbyteorder(order)).tobytes()


def _hold(path, content: bytes) -> None:
    """What may come of a file: one line, or images that all lie in it."""
    path.write_bytes(content)
    try:
        stack = read_stack_header(path)
        if stack.packing is None:
            assert stack.offset + int(np.prod([int(n) for n in stack.shape])) * stack.dtype.itemsize <= len(content)
        assert min(stack.shape) >= 1
        mapped = stack.open()
        assert mapped.shape == stack.shape
        last = np.empty((1, *stack.shape[1:]), np.float32)
        stack.read(np.array([stack.shape[0] - 1]), last)
        assert np.array_equal(last[0], mapped[-1].astype(np.float32), equal_nan=True)
        assert stack.pixel_size is None or stack.pixel_size > 0
    except InputError as error:
        assert "\n" not in str(error)
        assert str(path) in str(error)
    try:
        assert np.isfinite(read_map(path).voxels).all()
    except InputError as error:
        assert "\n" not in str(error)


@FUZZ
@given(
    order=st.sampled_from("<>"),
    kind=st.sampled_from(sorted(MODES.values())),
    changes=st.lists(st.tuples(st.sampled_from(sorted(FIELDS)), NUMBERS), min_size=1, max_size=3),
)
def test_numbers_of_the_header_may_be_anything(tmp_path, order, kind, changes):
    content = _good(order, kind)
    for name, number in changes:
        struct.pack_into(f"{order}i", content, FIELDS[name], number)
    _hold(tmp_path / "a.mrcs", bytes(content))


@FUZZ
@given(
    changes=st.lists(st.tuples(st.integers(0, 1243), st.integers(0, 255)), max_size=8),
    length=st.integers(0, 1300),
)
def test_any_bytes_may_change_and_the_end_may_be_missing(tmp_path, changes, length):
    content = _good()
    for place, value in changes:
        if place < len(content):
            content[place] = value
    _hold(tmp_path / "a.mrcs", bytes(content[:length]))


@FUZZ
@given(st.binary(max_size=1500))
def test_any_bytes_are_read_or_refused(tmp_path, content):
    _hold(tmp_path / "a.mrcs", content)


@FUZZ
@given(
    pack=st.sampled_from([gzip.compress, bz2.compress]),
    changes=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=3),
    length=st.integers(3, 300),
)
def test_compressed_files_may_be_damaged(tmp_path, pack, changes, length):
    content = bytearray(pack(bytes(_good())))
    for place, value in changes:
        if place < len(content):
            content[place] = value
    _hold(tmp_path / "a.mrcs.gz", bytes(content[:length]))


@pytest.mark.parametrize(("order", "kind"), list(itertools.product("<>", sorted(MODES.values()))))
def test_what_is_not_damaged_has_the_right_count(tmp_path, order, kind):
    """The base of the above; bytes after the last image and a wrong stamp change nothing."""
    content = _good(order, kind)
    for stamp, tail in ((content[212:216], b""), (bytes(4), b"more"), (b"\xff\xff\xff\xff", bytes(5000))):
        content[212:216] = stamp
        (tmp_path / "a.mrcs").write_bytes(bytes(content) + tail)
        stack = read_stack_header(tmp_path / "a.mrcs")
        assert stack.shape == (COUNT, SIZE, SIZE)
        assert np.array_equal(stack.open().ravel(), np.arange(COUNT * SIZE * SIZE))


def test_a_small_file_that_unpacks_without_end_is_cut(tmp_path):
    """A gzip of zeros that promises three images is unpacked up to these and no further."""
    path = write_mrc(tmp_path / "a.mrcs", np.ones((3, 4, 4), "f4"))
    path.write_bytes(gzip.compress(path.read_bytes() + bytes(10**8)))
    stack = read_stack_header(path)
    assert stack.open().base is not None
    assert stack.open().sum() == 48
