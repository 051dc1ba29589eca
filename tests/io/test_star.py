"""STAR files: what is read is what was written, and what is no particle table is refused in one line."""

import numpy as np
import pytest
from gemmi import cif

from gaussemble.errors import InputError
from gaussemble.io.star import numbers, optics_rows, read_star, write_star
from made_particles import OPTICS, rows, star_text, write_star_text


def test_every_value_stays_the_text_that_it_was(tmp_path):
    """000123 stays no 123, 1e4 no 10000.0, and digits are neither lost nor added."""
    odd = ["007", "1e4", "0.1000000000000001", "nan"]
    path = write_star_text(tmp_path / "in.star", rows(4, rlnGroupName=odd, rlnBeamTiltX=["[1,2]"] * 4))
    write_star(tmp_path / "out.star", read_star(path))
    before, after = cif.read(str(path)), cif.read(str(tmp_path / "out.star"))
    for block in ("optics", "particles"):
        old, new = before.find_block(block)[0].loop, after.find_block(block)[0].loop
        assert (old.tags, old.values) == (new.tags, new.values)


def test_rows_are_filtered_in_the_file_s_order_with_all_columns(tmp_path):
    star = read_star(write_star_text(tmp_path / "in.star", rows(5)))
    chosen = star.rows([4, 0, 3])
    assert list(chosen.particles["rlnDefocusU"]) == ["10000", "10003", "10004"]
    assert list(chosen.particles.columns) == list(star.particles.columns)
    assert chosen.optics is star.optics
    mask = np.array([True, False, False, True, True])
    assert chosen.particles.equals(star.rows(mask).particles)


def test_writing_twice_gives_the_same_bytes(tmp_path):
    star = read_star(write_star_text(tmp_path / "in.star", rows(3)))
    write_star(tmp_path / "a.star", star)
    write_star(tmp_path / "b.star", read_star(tmp_path / "a.star"))
    assert (tmp_path / "a.star").read_bytes() == (tmp_path / "b.star").read_bytes()


@pytest.mark.parametrize("block", ["", "particles", "images", "model_class_1"])
def test_the_particles_may_stand_in_any_block(tmp_path, block):
    path = write_star_text(tmp_path / "in.star", rows(2), None, block)
    star = read_star(path)
    assert (len(star), star.block, star.optics) == (2, block, None)
    write_star(tmp_path / "out.star", star)
    assert read_star(tmp_path / "out.star").block == block


def test_windows_line_ends_and_comments_are_no_values(tmp_path):
    text = "# first\r\ndata_\r\n\r\nloop_\r\n_rlnImageName #1\r\n_rlnDefocusU #2\r\n# between\r\n1@a.mrcs 5.5\r\n"
    (tmp_path / "in.star").write_bytes(text.encode())
    assert numbers(read_star(tmp_path / "in.star"), "rlnDefocusU") == [5.5]


def test_a_single_particle_may_be_written_as_a_list(tmp_path):
    (tmp_path / "in.star").write_text("data_particles\n\n_rlnImageName 1@a.mrcs\n_rlnDefocusU 5.5\n")
    assert numbers(read_star(tmp_path / "in.star"), "rlnDefocusU") == [5.5]


def test_optics_are_found_by_group_not_by_order(tmp_path):
    optics = {"rlnOpticsGroup": ["7", "3"], "rlnVoltage": ["200", "300"]}
    star = read_star(write_star_text(tmp_path / "in.star", rows(3, rlnOpticsGroup=["3", "7", "3"]), optics))
    assert list(optics_rows(star)) == [1, 0, 1]
    assert list(numbers(star, "rlnVoltage")) == [300, 200, 300]


def test_the_particle_s_own_value_comes_before_its_group_s(tmp_path):
    star = read_star(write_star_text(tmp_path / "in.star", rows(2, rlnVoltage=["120", "100"])))
    assert list(numbers(star, "rlnVoltage")) == [120, 100]
    assert numbers(star, "rlnPhaseShift") is None


def test_a_group_that_the_optics_table_lacks_is_named(tmp_path):
    star = read_star(write_star_text(tmp_path / "in.star", rows(3, rlnOpticsGroup=["1", "1", "2"])))
    with pytest.raises(InputError, match=r"row 2 .*optics group 2; the table has 1"):
        optics_rows(star)


def test_a_value_that_is_no_number_is_named_with_its_row(tmp_path):
    star = read_star(write_star_text(tmp_path / "in.star", rows(3, rlnDefocusU=["1", "2", "x"])))
    with pytest.raises(InputError, match=r"in\.star: row 2 .*rlnDefocusU is 'x'"):
        numbers(star, "rlnDefocusU")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no data_ block"),
        ("junk\n", "no data_ block"),
        ("data_particles\n", "no rows; it has data_particles"),
        ("data_\n\nloop_\n_rlnImageName #1\n", "empty"),
        ("data_\n\nloop_\n_rlnImageName #1\n_b #2\n1@a.mrcs 1 2\n", "as many values in each row"),
        ("data_job\n\n_rlnJobTypeLabel relion.class2d\n", "the settings of a job .*no column rlnImageName"),
        ("data_a\n_b c\n\ndata_d\n_e f\n", r"no column rlnImageName\); it has data_a \(1 values\), data_d \(1"),
        (star_text(rows(1), OPTICS) + star_text(rows(1), None), "data_particles stands twice"),
        (star_text(rows(1), None, "a") + star_text(rows(1), None, "b"), "2 blocks have a column rlnImageName"),
    ],
)
def test_what_is_no_particle_table_is_refused(tmp_path, text, message):
    (tmp_path / "in.star").write_text(text)
    with pytest.raises(InputError, match=message) as refusal:
        read_star(tmp_path / "in.star")
    assert str(tmp_path / "in.star") in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_binary_and_missing_files_are_refused(tmp_path):
    (tmp_path / "a.cs").write_bytes(b"\x93NUMPY\x01\x00\xff\xfe")
    with pytest.raises(InputError, match="not a text file"):
        read_star(tmp_path / "a.cs")
    with pytest.raises(InputError, match="no such file"):
        read_star(tmp_path / "b.star")
