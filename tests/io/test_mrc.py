"""MRC files, against headers that are written here byte by byte, and against mrcfile's own checks."""

import bz2
import gzip
import itertools

import mrcfile
import numpy as np
import pytest
import torch

from gaussemble.errors import InputError
from gaussemble.io.mrc import open_stack, read_map, read_stack_header, write_map, write_stack
from gaussemble.quantities import Map
from made_particles import write_mrc

TYPES = ["i1", "i2", "f4", "u2", "f2"]


def _voxels(box: int = 4) -> np.ndarray:
    """(z, y, x) all different, exact in every mode."""
    return np.arange(box**3).reshape(box, box, box)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", TYPES)
def test_maps_of_any_mode_and_endianness_have_the_same_voxels(tmp_path, kind, order):
    path = write_mrc(tmp_path / "a.mrc", _voxels().astype(kind), 2.5, order=order)
    density = read_map(path)
    assert density.voxels.dtype == torch.float32
    assert np.array_equal(density.voxels, _voxels())
    assert density.pixel_size == pytest.approx(2.5)


@pytest.mark.parametrize("axes", list(itertools.permutations((1, 2, 3))))
def test_axes_in_any_order_become_z_y_x(tmp_path, axes):
    """`axes` are those of columns, rows, sections; the start indices are in the same order."""
    position = {1: 0, 2: 1, 3: 2}
    stored = _voxels().transpose([2 - position[axis] for axis in axes[::-1]]).astype("f4")
    start = tuple({1: 10, 2: 20, 3: 30}[axis] for axis in axes)
    density = read_map(write_mrc(tmp_path / "a.mrc", stored, 2.0, axes=axes, start=start))
    assert np.array_equal(density.voxels, _voxels())
    assert density.origin == (20, 40, 60)


def test_the_header_s_origin_wins_over_start_indices(tmp_path):
    path = write_mrc(tmp_path / "a.mrc", _voxels().astype("f4"), 2.0, start=(1, 1, 1), origin=(3.0, -4.0, 5.0))
    density = read_map(path)
    assert density.origin == (3, -4, 5)
    assert list(density.center) == [7, 0, 9]  # voxel 4 // 2 of 2 Å


def test_a_map_is_the_same_after_writing_and_valid(tmp_path):
    density = Map(torch.from_numpy(_voxels(5)).float(), 1.25, (1.5, -2.0, 3.0))
    write_map(tmp_path / "a.mrc", density)
    again = read_map(tmp_path / "a.mrc")
    assert torch.equal(again.voxels, density.voxels)
    assert (again.pixel_size, again.origin) == (1.25, density.origin)
    assert mrcfile.validate(tmp_path / "a.mrc")
    first = (tmp_path / "a.mrc").read_bytes()
    write_map(tmp_path / "a.mrc", density)
    assert first == (tmp_path / "a.mrc").read_bytes()


def test_a_compressed_map_is_read(tmp_path):
    write_mrc(tmp_path / "a.mrc", _voxels().astype("f4"), 2.0)
    (tmp_path / "a.mrc.gz").write_bytes(gzip.compress((tmp_path / "a.mrc").read_bytes()))
    assert np.array_equal(read_map(tmp_path / "a.mrc.gz").voxels, _voxels())


def test_a_given_voxel_size_wins_and_is_said(tmp_path, capsys):
    path = write_mrc(tmp_path / "a.mrc", _voxels().astype("f4"), 1.0)
    assert read_map(path, 3.5).pixel_size == 3.5
    assert "header says 1 Å" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("data", "header", "message"),
    [
        (np.zeros((4, 4, 5), "f4"), {}, "5 x 4 x 4 voxels; expected a cubic box"),
        (np.zeros((4, 4, 4), "f4"), {"pixel_size": 0.0}, "no voxel size"),
        (np.zeros((4, 4, 4), "f4"), {"axes": (1, 1, 3)}, "axes"),
        (np.zeros((4, 4, 4), "c8"), {}, "MRC mode 4"),
        (np.full((4, 4, 4), np.nan, "f4"), {}, "64 voxels are not finite"),
    ],
)
def test_maps_that_cannot_be_used_are_refused(tmp_path, data, header, message):
    path = write_mrc(tmp_path / "a.mrc", data, **({"pixel_size": 2.0} | header))
    with pytest.raises(InputError, match=message):
        read_map(path)


def test_what_is_not_mrc_is_refused(tmp_path):
    (tmp_path / "a.mrc").write_bytes(b"not a map" * 200)
    (tmp_path / "b.mrc").write_bytes(b"short")
    for name, message in (("a.mrc", "MRC mode"), ("b.mrc", "cannot be read"), ("c.mrc", "no such file")):
        with pytest.raises(InputError, match=message):
            read_map(tmp_path / name)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", TYPES)
def test_stacks_of_any_mode_and_endianness_are_mapped(tmp_path, kind, order):
    images = np.arange(3 * 4 * 5).reshape(3, 4, 5).astype(kind)
    path = write_mrc(tmp_path / "a.mrcs", images, 1.5, order=order, extended=b"x" * 160)
    assert np.array_equal(open_stack(path), images)
    assert read_stack_header(path).pixel_size == pytest.approx(1.5)


def test_a_stack_is_the_same_after_writing_and_says_so(tmp_path, generator):
    images = torch.randn(3, 6, 6, generator=generator)
    write_stack(tmp_path / "a.mrcs", images, 1.5)
    assert np.array_equal(open_stack(tmp_path / "a.mrcs"), images)
    assert mrcfile.validate(tmp_path / "a.mrcs")
    with mrcfile.open(tmp_path / "a.mrcs") as file:
        assert file.is_image_stack()
        assert float(file.voxel_size.x) == 1.5
        assert float(file.header.rms) == pytest.approx(float(images.std(correction=0)), rel=1e-5)


def test_headers_without_stamp_or_pixel_size_are_read(tmp_path):
    images = np.arange(32).reshape(2, 4, 4).astype("f4")
    path = write_mrc(tmp_path / "a.mrcs", images)
    damaged = bytearray(path.read_bytes())
    damaged[208:216] = bytes(8)
    path.write_bytes(damaged)
    assert np.array_equal(open_stack(path), images)
    assert read_stack_header(path).pixel_size is None


def test_stacks_that_cannot_be_used_are_refused(tmp_path):
    path = write_mrc(tmp_path / "a.mrcs", np.zeros((3, 4, 4), "f4"))
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    with pytest.raises(InputError, match="10 bytes short of the 3 images of 4 x 4"):
        open_stack(path)
    path.write_bytes(whole[:1000])
    with pytest.raises(InputError, match="1000 bytes, a header has 1024"):
        open_stack(path)
    with pytest.raises(InputError, match="mode 4"):
        open_stack(write_mrc(path, np.zeros((3, 4, 4), "c8")))


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
def test_compressed_stacks_are_those_that_were_compressed(tmp_path, pack):
    """Whatever the file is called; a run, single images and one twice."""
    images = np.arange(5 * 4 * 4).reshape(5, 4, 4).astype("i2")
    path = write_mrc(tmp_path / "a.mrcs", images, 1.5, order=">", extended=b"x" * 10)
    path.write_bytes(pack(path.read_bytes()))
    stack = read_stack_header(path)
    assert (stack.shape, stack.pixel_size) == (images.shape, 1.5)
    assert np.array_equal(stack.open(), images)
    found = np.empty((4, 4, 4), np.float32)
    stack.read(np.array([1, 2, 4, 1]), found)
    assert np.array_equal(found, images[[1, 2, 4, 1]])


def test_compressed_stacks_leave_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    for name in "abcdefg":
        path = write_mrc(tmp_path / f"{name}.mrcs", np.full((2, 4, 4), ord(name), "f4"))
        path.write_bytes(gzip.compress(path.read_bytes()))
        assert open_stack(path)[1, 2, 2] == ord(name)
        assert not list((tmp_path / "temporary").iterdir())
    path.write_bytes(gzip.compress(write_mrc(tmp_path / "h.mrcs", np.zeros((2, 4, 4), "f4")).read_bytes()))
    assert open_stack(path)[1, 2, 2] == 0  # not what the file of this name held before


def test_damaged_compressed_stacks_are_refused(tmp_path):
    path = write_mrc(tmp_path / "a.mrcs", np.random.default_rng(0).standard_normal((3, 16, 16)).astype("f4"))
    whole = path.read_bytes()
    path.write_bytes(gzip.compress(whole)[:-500])
    with pytest.raises(InputError, match=r"a\.mrcs: cannot be unpacked"):
        open_stack(path)
    path.write_bytes(gzip.compress(whole[:-10]))
    with pytest.raises(InputError, match="holds 10 bytes less"):
        open_stack(path)
    path.write_bytes(gzip.compress(whole)[:8])
    with pytest.raises(InputError, match="cannot be unpacked"):
        read_stack_header(path)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", TYPES)
def test_images_are_read_by_position(tmp_path, kind, order):
    images = np.arange(6 * 4 * 5).reshape(6, 4, 5).astype(kind)
    stack = read_stack_header(write_mrc(tmp_path / "a.mrcs", images, order=order, extended=b"x" * 7))
    for index in ([0, 1, 2, 3, 4, 5], [5, 4, 0], [1, 2, 2, 3, 5], [3]):
        found = np.full((len(index), 4, 5), np.nan, np.float32)
        stack.read(np.array(index), found)
        assert np.array_equal(found, images[index])


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("stamp", [b"\x44\x44\0\0", b"\x11\x11\0\0", bytes(4), b"junk"])
def test_a_wrong_stamp_does_not_matter(tmp_path, order, stamp):
    images = np.arange(32).reshape(2, 4, 4).astype("f4")
    path = write_mrc(tmp_path / "a.mrcs", images, 1.5, order=order)
    whole = bytearray(path.read_bytes())
    whole[212:216] = stamp
    path.write_bytes(whole)
    assert np.array_equal(open_stack(path), images)


def test_a_stack_that_shrinks_after_the_check_is_refused(tmp_path):
    path = write_mrc(tmp_path / "a.mrcs", np.zeros((3, 4, 4), "f4"))
    stack = read_stack_header(path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match="ended 10 bytes early"):
        stack.read(np.arange(3), np.empty((3, 4, 4), np.float32))


def test_more_bytes_than_images_do_not_matter(tmp_path):
    path = write_mrc(tmp_path / "a.mrcs", np.ones((3, 4, 4), "f4"))
    path.write_bytes(path.read_bytes() + b"junk" * 100)
    assert open_stack(path).shape == (3, 4, 4)
