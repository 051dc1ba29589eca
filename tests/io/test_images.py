"""Image names lead to the right image of the right stack, wherever it lies, or to one clear line."""

import gzip

import numpy as np
import pytest

from gaussemble.errors import InputError
from gaussemble.io.images import open_images, with_paths_from_here
from gaussemble.io.star import StarFile, read_star
from made_particles import rows, write_mrc, write_star_text

NAME = "rlnImageName"


def _stack(path, count: int, first: float = 0.0, size: int = 6):
    """Image i of the stack is first + i everywhere."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = first + np.arange(count, dtype="f4")
    return write_mrc(path, np.broadcast_to(values[:, None, None], (count, size, size)).astype("f4"), 1.5)


@pytest.fixture
def named(tmp_path, monkeypatch):
    """Makes a STAR file job/in.star with these image names; the working directory is elsewhere."""
    (tmp_path / "here").mkdir()
    (tmp_path / "job").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def make(names: list[str]) -> StarFile:
        return read_star(write_star_text(tmp_path / "job" / "in.star", rows(len(names), rlnImageName=names)))

    return make


def test_each_row_gets_its_image(tmp_path, named):
    """Stacks are interleaved, out of order and used twice."""
    _stack(tmp_path / "job" / "a.mrcs", 5, 100)
    _stack(tmp_path / "job" / "b.mrcs", 3, 200)
    images = open_images(named(["2@a.mrcs", "000003@b.mrcs", "1@a.mrcs", "3@a.mrcs", "4@a.mrcs", "2@a.mrcs"]))
    expected = np.array([101, 202, 100, 102, 103, 101])
    for chosen in (slice(None), slice(2, 5), np.array([0, 1, 5])):
        found = images.read(chosen)
        assert found.shape[1:] == (6, 6)
        assert (found == expected[chosen][:, None, None]).all()
    assert images.name(1) == f"3@{tmp_path}/job/b.mrcs"


@pytest.mark.parametrize("place", ["here/s/a.mrcs", "job/s/a.mrcs", "s/a.mrcs", "data/s/a.mrcs", "data/a.mrcs"])
def test_stacks_are_found_and_written_paths_resolve_from_here(tmp_path, named, place):
    _stack(tmp_path / place, 2, 7)
    star = named(["2@s/a.mrcs"])
    images = open_images(star, tmp_path / "data")
    assert images.read(slice(0, 1))[0, 0, 0] == 8
    written = with_paths_from_here(star, images).particles[NAME].tolist()
    assert written == (["2@s/a.mrcs"] if place.startswith("here") else [f"2@{tmp_path / place}"])


def test_the_working_directory_comes_first(tmp_path, named):
    for place, value in (("here", 1), ("job", 2), ("data", 3)):
        _stack(tmp_path / place / "a.mrcs", 1, value)
    assert open_images(named(["1@a.mrcs"]), tmp_path / "data").read(slice(None)).max() == 1


def test_a_path_below_here_is_written_relative(tmp_path, named, monkeypatch):
    _stack(tmp_path / "job" / "a.mrcs", 1)
    monkeypatch.chdir(tmp_path)
    star = named(["000001@a.mrcs"])
    assert with_paths_from_here(star, open_images(star)).particles[NAME].tolist() == ["000001@job/a.mrcs"]


def test_a_path_that_says_it_is_a_stack_is_that_path(tmp_path, named):
    """RELION takes n@x.mrc for a map; n@x.mrc:mrcs is how it, and we, name images in a stack of that name."""
    _stack(tmp_path / "job" / "a.mrc", 2, 5)
    star = named(["2@job/a.mrc:mrcs"])
    images = open_images(star)
    assert images.read(slice(None)).mean() == 6
    assert with_paths_from_here(star, images).particles[NAME].tolist() == [f"2@{tmp_path}/job/a.mrc:mrcs"]


def test_a_file_s_name_alone_means_its_only_image(tmp_path, named):
    _stack(tmp_path / "job" / "a.mrc", 1, 5)
    star = named(["a.mrc"])
    images = open_images(star)
    assert images.read(slice(None)).max() == 5
    assert with_paths_from_here(star, images).particles[NAME].tolist() == [f"{tmp_path}/job/a.mrc"]


@pytest.mark.parametrize("bad", ["0@a.mrcs", "x@a.mrcs", "1.5@a.mrcs", "-1@a.mrcs", "1@", "nan"])
def test_names_that_are_none_are_refused_with_their_row(tmp_path, named, bad):
    _stack(tmp_path / "job" / "a.mrcs", 3)
    with pytest.raises(InputError, match=r"in\.star: row 1 .*expected n@path"):
        open_images(named(["1@a.mrcs", bad, "2@a.mrcs"]))


def test_wrong_stacks_are_refused_with_file_and_row(tmp_path, named):
    _stack(tmp_path / "job" / "a.mrcs", 3)
    with pytest.raises(
        InputError, match=r"in\.star: 1 of 2 stacks are missing: row 2 .*'missing\.mrcs'.*particles\.datadir"
    ):
        open_images(named(["1@a.mrcs", "2@a.mrcs", "1@missing.mrcs"]))
    with pytest.raises(InputError, match=r"in\.star: row 1 .*image 4 of a stack of 3: .*job/a\.mrcs"):
        open_images(named(["1@a.mrcs", "4@a.mrcs"]))
    with pytest.raises(InputError, match=r"row 0 .*no image number, but 3 images"):
        open_images(named(["a.mrcs"]))
    write_mrc(tmp_path / "job" / "c.mrcs", np.zeros((2, 6, 5), "f4"))
    with pytest.raises(InputError, match=r"c\.mrcs .*row 0.*5 x 6 pixels, expected square"):
        open_images(named(["1@c.mrcs"]))


def test_two_stacks_of_one_name_are_not_taken_for_one(tmp_path, named):
    _stack(tmp_path / "data" / "a.mrcs", 3)
    with pytest.raises(InputError, match=r"'x/a\.mrcs' and 'y/a\.mrcs' are both found as"):
        open_images(named(["1@x/a.mrcs", "1@y/a.mrcs"]), tmp_path / "data")


def test_missing_stacks_are_listed(tmp_path, named):
    """Ten of them by name, with the first row that needs each."""
    _stack(tmp_path / "job" / "a.mrcs", 3)
    names = ["1@a.mrcs", *(f"{i // 2 + 1}@m{i // 2}.mrcs" for i in range(24)), "2@a.mrcs"]
    with pytest.raises(
        InputError, match=r"12 of 13 stacks are missing: row 1 .*'m0\.mrcs'.* 'm9\.mrcs' and 2 more"
    ) as error:
        open_images(named(names), tmp_path / "job")
    assert "row 3 (from 0) 'm1.mrcs'" in str(error.value)
    assert "m10" not in str(error.value)
    assert str(tmp_path / "job") in str(error.value)
    assert "\n" not in str(error.value)


def test_images_may_have_different_sizes(tmp_path, named):
    _stack(tmp_path / "job" / "a.mrcs", 3)
    _stack(tmp_path / "job" / "b.mrcs", 3, 50, size=8)
    images = open_images(named(["1@a.mrcs", "3@b.mrcs", "2@a.mrcs"]))
    assert images.sizes.tolist() == [6, 8, 6]
    assert images.read(np.array([0, 2])).shape == (2, 6, 6)
    assert images.read(slice(1, 2))[0, 0, 0] == 52


def test_the_same_image_is_known_by_its_file(tmp_path, named):
    """A path written in two ways, and a link; the same number in another stack is another image."""
    _stack(tmp_path / "job" / "a.mrcs", 3)
    _stack(tmp_path / "job" / "b.mrcs", 3)
    images = open_images(named(["3@a.mrcs", "3@b.mrcs", "000003@./a.mrcs", "1@a.mrcs", "3@b.mrcs"]))
    assert images.first_rows().tolist() == [0, 1, 0, 3, 1]


def test_compressed_stacks_are_read_and_said_once(tmp_path, named, capsys):
    for name in "abcdef":  # more than are kept unpacked
        path = _stack(tmp_path / "job" / f"{name}.mrcs", 3, 100 * ord(name))
        (tmp_path / "job" / f"{name}.mrcs.gz").write_bytes(gzip.compress(path.read_bytes()))
    names = [f"{i % 3 + 1}@{name}.mrcs.gz" for i, name in enumerate("abcdefabcdef")] + ["2@a.mrcs"]
    found = open_images(named(names)).read(slice(None))[:, 2, 2]
    assert found.tolist() == [100 * ord(name) + i % 3 for i, name in enumerate("abcdefabcdef")] + [9701]
    assert capsys.readouterr().err.count("6 of 7 stacks are compressed") == 1
