"""STAR files: what is read is what was written, and what is no particle table is refused in one line."""

import bz2
import gzip

import numpy as np
import pandas as pd
import pytest
import starfile
from gemmi import cif

from gaussemble.errors import InputError
from gaussemble.io import star_text as reader
from gaussemble.io.star import StarFile, numbers, optics_rows, read_star, write_star
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


AWKWARD = ["a b", "", "it's", 'say "x', "'q'", "#1", "a#b", "_rlnX", "data_x", "loop_", "<NA>", "None"]


def test_values_that_need_quotes_stay_what_they_were(tmp_path):
    """gemmi reads them from our file."""
    particles = pd.DataFrame({"word": AWKWARD, "rlnImageName": ["1@a b.mrcs"] * len(AWKWARD)})
    star = StarFile(tmp_path / "a.star", None, particles, {"general": {"rlnComment": "two words", "rlnNone": ""}})
    write_star(star.path, star)
    again = read_star(star.path)
    assert again.particles.equals(particles)
    assert again.other == star.other
    block = cif.read(str(star.path)).find_block("particles")
    assert list(map(cif.as_string, block.find_values("_word"))) == AWKWARD
    with pytest.raises(InputError, match="line ends"):
        write_star(star.path, star.with_column("word", "a\nb"))


def test_numbers_are_written_with_the_digits_that_poses_need(tmp_path):
    """9 significant ones: a float32 exactly, an angle in degrees to 1e-6, whatever its size; whole numbers whole."""
    generator = np.random.default_rng(0)
    exact = {
        "single": generator.uniform(-180, 180, 50).astype(np.float32),
        "small": np.full(50, 2.5e-8),
        "whole": np.full(50, 3.0),
        "uid": generator.integers(2**63, 2**64 - 1, 50, np.uint64),
    }
    angle = generator.uniform(-180, 180, 50)
    particles = pd.DataFrame({"rlnImageName": ["1@a.mrcs"] * 50, "rlnAngleRot": angle, **exact})
    star = StarFile(tmp_path / "a.star", pd.DataFrame({"rlnVoltage": [300.0]}), particles)
    write_star(star.path, star)
    again = read_star(star.path)
    for name, values in exact.items():
        assert np.array_equal(numbers(again, name).astype(values.dtype if name == "single" else float), values), name
        assert np.array_equal(numbers(star, name), values.astype(np.float64)), name
    assert list(again.particles["uid"]) == [str(value) for value in exact["uid"]]
    assert set(again.particles["whole"]) == {"3"}
    assert np.abs(numbers(again, "rlnAngleRot") - angle).max() < 1e-6
    assert numbers(again, "rlnVoltage")[0] == 300


def test_numbers_are_read_in_every_notation(tmp_path):
    given = ["1", "-0.5", "+2", "1e3", "1E-3", ".5", "7.", "00012"]
    star = read_star(write_star_text(tmp_path / "in.star", rows(8, rlnDefocusU=given)))
    assert numbers(star, "rlnDefocusU").tolist() == [1, -0.5, 2, 1000, 0.001, 0.5, 7, 12]


@pytest.mark.parametrize(("piece", "batch"), [(7, 3), (64, 1), (1 << 24, 2)])
def test_pieces_and_batches_leave_no_seam(tmp_path, monkeypatch, piece, batch):
    """starfile as the witness, of both tables."""
    path = write_star_text(tmp_path / "in.star", rows(11, rlnMicrographName="'a b'"))
    monkeypatch.setattr(reader, "PIECE", piece)
    monkeypatch.setattr(reader, "BATCH", batch)
    star = read_star(path)
    theirs = starfile.read(path, parse_as_string=[*star.particles, *star.optics])
    assert star.particles.equals(theirs["particles"].astype(reader.TEXT))
    assert star.optics.equals(theirs["optics"].astype(reader.TEXT))
    write_star(tmp_path / "out.star", star)
    assert read_star(tmp_path / "out.star").particles.equals(star.particles)


@pytest.mark.parametrize("packing", [gzip, bz2])
def test_compressed_files_are_read_as_they_are(tmp_path, packing):
    content = star_text(rows(3)).encode()
    path = tmp_path / "in.star.gz"
    path.write_bytes(packing.compress(content))
    assert len(read_star(path)) == 3
    path.write_bytes(packing.compress(content)[:-20])
    with pytest.raises(InputError, match="cannot be read"):
        read_star(path)


def test_rows_after_a_blank_line_are_counted(tmp_path):
    """RELION would stop there in silence."""
    (tmp_path / "in.star").write_text(
        "data_\nloop_\n_rlnImageName\n_b\n1@a 1\n\n \t\n2@a 2\n# no row\n3@a 3 # nor this\n"
    )
    assert list(read_star(tmp_path / "in.star").particles["b"]) == ["1", "2", "3"]


def test_an_empty_value_alone_in_its_row_is_a_row(tmp_path):
    (tmp_path / "in.star").write_text("data_\nloop_\n_rlnImageName\n1@a\ndata_b\nloop_\n_c\n\"\"\nx\n''\n")
    star = read_star(tmp_path / "in.star")
    assert list(star.other["b"]["c"]) == ["", "x", ""]
    write_star(tmp_path / "out.star", star)
    assert list(read_star(tmp_path / "out.star").other["b"]["c"]) == ["", "x", ""]


def test_rows_may_start_as_blocks_do(tmp_path):
    (tmp_path / "in.star").write_text("data_\nloop_\n_rlnImageName\n_b\n1@a 1\ndata_set/2@a 2\n_3@a 3\ndata_c\n")
    assert list(read_star(tmp_path / "in.star").particles["b"]) == ["1", "2", "3"]


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
        ("data_\n\nloop_\n_rlnImageName #1\n_b #2\n_c #3\n1@a 1 2\n1@a 1\n", "line 8, of data_: 2 values for 3 labels"),
        ("data_\nloop_\n_rlnImageName\n_b\n1@a 'b\n", "line 5: a quote is not closed"),
        ("data_\nloop_\n_rlnImageName\n_b\n_b\n1@a b b\n", "line 5, of data_: the column b stands twice"),
        ("data_\n_rlnImageName #1\n_b #2\n1@a b\n", "line 4, of data_: .*is loop_ missing"),
        ("data_\nloop_\n_rlnImageName\n1@a\nloop_\n_b\n1\n", "line 5, of data_: a second table"),
        ("\ufeffdata_a\nloop_\n_rlnFourierShellCorrelation\n1\n", "this is a Fourier shell correlation"),
        (star_text(rows(1), None, "a") + star_text(rows(1), None, "b"), "2 blocks have a column rlnImageName"),
    ],
)
def test_what_is_no_particle_table_is_refused(tmp_path, text, message):
    (tmp_path / "in.star").write_text(text)
    with pytest.raises(InputError, match=message) as refusal:
        read_star(tmp_path / "in.star")
    assert str(tmp_path / "in.star") in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_other_encodings_are_refused(tmp_path):
    text = star_text(rows(2, rlnMicrographName="Müller"))
    (tmp_path / "a.star").write_text(text, encoding="utf-8")
    assert read_star(tmp_path / "a.star").particles["rlnMicrographName"][0] == "Müller"
    (tmp_path / "a.star").write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match="no text in UTF-8"):
        read_star(tmp_path / "a.star")
    (tmp_path / "a.star").write_text(text, encoding="utf-16")
    with pytest.raises(InputError, match="text in UTF-16; save it as UTF-8"):
        read_star(tmp_path / "a.star")


def test_binary_and_missing_files_are_refused(tmp_path):
    (tmp_path / "a.cs").write_bytes(b"\x93NUMPY\x01\x00\xff\xfe")
    with pytest.raises(InputError, match="not a text file"):
        read_star(tmp_path / "a.cs")
    with pytest.raises(InputError, match="no such file"):
        read_star(tmp_path / "b.star")
