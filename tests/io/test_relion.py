"""What RELION's columns mean: units, signs, which of two sources wins, and what is refused."""

import math

import numpy as np
import pytest
import torch

from gaussemble.errors import InputError
from gaussemble.io.relion import interpret, no_contrast_transfer
from gaussemble.io.star import StarFile, read_star
from gaussemble.physics.ctf import evaluate
from made_particles import OPTICS, rows, write_star_text

OLD = {  # RELION 3.0: no optics table, all in the particle table
    "rlnOpticsGroup": None,
    "rlnVoltage": "200",
    "rlnSphericalAberration": "2.0",
    "rlnAmplitudeContrast": "0.07",
    "rlnMagnification": "40000",
    "rlnDetectorPixelSize": "14",
}


@pytest.fixture
def star(tmp_path):
    """Makes a STAR file of three particles and reads it."""

    def make(optics: dict | None = OPTICS, **columns) -> StarFile:
        return read_star(write_star_text(tmp_path / "in.star", rows(3, **columns), optics))

    return make


def test_units_are_those_of_the_package(star):
    columns = {"rlnPhaseShift": "90", "rlnCtfBfactor": "20", "rlnCtfScalefactor": "0.5"}
    found = interpret(star(**columns))
    assert found.pixel_sizes.tolist() == [1.5] * 3
    assert found.image_sizes.tolist() == [16] * 3
    assert np.allclose(found.angles[2], np.deg2rad([20, 10, -40]))
    assert np.allclose(found.shift[2], [1.0, -0.5])
    ctf = found.ctf
    assert ctf.defocus_u.tolist() == [10000, 10001, 10002]
    assert ctf.defocus_v.tolist() == [9000, 9001, 9002]
    assert torch.allclose(ctf.defocus_angle, torch.tensor(math.pi / 4))
    assert ctf.voltage[0] == 300e3
    assert ctf.spherical_aberration[0] == pytest.approx(2.7e7)
    assert ctf.amplitude_contrast[0] == pytest.approx(0.1)
    assert torch.allclose(ctf.phase_shift, torch.tensor(math.pi / 2))
    assert (ctf.b_factor[0], ctf.scale[0]) == (20, 0.5)
    assert found.assumed == []


def test_relion_3_0_has_no_optics_table(star):
    found = interpret(star(None, **OLD))
    assert found.pixel_sizes == pytest.approx([3.5] * 3)
    assert found.ctf.voltage[0] == 200e3
    assert list(found.optics_group) == [0, 0, 0]
    assert found.image_sizes is None


def test_shifts_in_pixels_are_of_the_particle_s_pixel(star):
    columns = {"rlnOriginXAngst": None, "rlnOriginYAngst": None, "rlnOriginX": "2", "rlnOriginY": "-4"}
    assert interpret(star(**columns)).shift.tolist() == [[3, -6]] * 3
    assert interpret(star(**columns), pixel_size=2.0).shift.tolist() == [[4, -8]] * 3


def test_shifts_in_angstrom_win_over_pixels_and_it_is_said(star):
    found = interpret(star(rlnOriginX="2", rlnOriginY="-4"))
    assert found.shift[2].tolist() == [1.0, -0.5]
    assert any("differ by 6 Å" in sentence for sentence in found.assumed)


def test_what_is_filled_in_is_said(star):
    found = interpret(star(rlnOriginXAngst=None, rlnOriginYAngst=None, rlnDefocusV=None, rlnBeamTiltX="0.1"))
    assert not found.shift.any()
    assert torch.equal(found.ctf.defocus_v, found.ctf.defocus_u)
    said = " ".join(found.assumed)
    assert "centred" in said
    assert "rlnDefocusV" in said
    assert "rlnBeamTiltX" in said


def test_zero_aberrations_are_not_worth_a_word(star):
    assert interpret(star(rlnBeamTiltX="0.000", rlnOddZernike="[0,0.0]")).assumed == []


def test_negative_b_factors_of_warp_damp(star):
    found = interpret(star(rlnCtfBfactor=["-4", "0", "-8"]))
    assert found.ctf.b_factor.tolist() == [4, 0, 8]
    assert "rlnCtfBfactor" in found.assumed[0]
    with pytest.raises(InputError, match="both signs"):
        interpret(star(rlnCtfBfactor=["-4", "0", "8"]))


def test_without_ctf_the_function_is_one_everywhere(star):
    found = interpret(star(rlnDefocusU=None, rlnVoltage="wrong"), ctf=False)
    assert torch.allclose(evaluate(found.ctf, 16, 1.0), torch.ones(1), atol=1e-6)
    assert len(no_contrast_transfer(5)) == 5


@pytest.mark.parametrize(("column", "value"), [("rlnPixelSize", "1.5049"), ("rlnMagnification", "33333")])
def test_pixel_sizes_that_agree_but_for_rounding_are_one(star, column, value):
    found = interpret(star(**{"rlnDetectorPixelSize": "5", "rlnMagnification": "33330", column: value}))
    assert found.pixel_sizes.tolist() == [1.5] * 3


def test_a_given_pixel_size_settles_a_contradiction_and_is_said(star):
    found = interpret(star(rlnPixelSize="3"), pixel_size=2.5)
    assert found.pixel_sizes.tolist() == [2.5] * 3
    assert any("rlnPixelSize says 3 Å" in sentence for sentence in found.assumed)


NO_PIXEL_SIZE = {name: values for name, values in OPTICS.items() if name != "rlnImagePixelSize"}
TWO_GROUPS = {name: values * 2 for name, values in OPTICS.items()} | {
    "rlnOpticsGroup": ["1", "2"],
    "rlnOpticsGroupName": ["first", "second"],
}


def test_each_particle_has_the_pixel_size_of_its_group(star):
    """Of the shifts in pixels too: 2 pixels of 1 Å are 2 Å, of 3 Å they are 6 Å."""
    optics = TWO_GROUPS | {"rlnImagePixelSize": ["1", "3"], "rlnImageSize": ["30", "10"], "rlnVoltage": ["300", "200"]}
    columns = {"rlnOriginXAngst": None, "rlnOriginYAngst": None, "rlnOriginX": "2", "rlnOriginY": "-4"}
    found = interpret(star(optics, rlnOpticsGroup=["2", "1", "2"], **columns))
    assert found.pixel_sizes.tolist() == [3, 1, 3]
    assert found.image_sizes.tolist() == [10, 30, 10]
    assert found.shift.tolist() == [[6, -12], [2, -4], [6, -12]]
    assert found.ctf.voltage.tolist() == [200e3, 300e3, 200e3]
    with pytest.raises(InputError, match=r"3 Å in row 0 .*1 Å in row 1"):
        _ = found.pixel_size
    given = interpret(star(optics, rlnOpticsGroup=["2", "1", "2"], **columns), pixel_size=2.0)
    assert given.shift.tolist() == [[4, -8]] * 3
    assert given.pixel_size == 2
    assert "rlnImagePixelSize says 1 to 3 Å" in given.assumed[0]


def test_helical_segments_are_single_particles_and_it_is_said(star):
    assert "rlnRandomSubset" in interpret(star(rlnHelicalTubeID="1")).assumed[0]


def test_images_of_tilts_are_single_particles(star):
    """As Warp and M write them: names in a stack, with the depth in the tomogram beside them."""
    assert len(interpret(star(rlnCoordinateZ="5")).angles) == 3


def test_magnifications_of_relion_3_0_are_each_particle_s_own(star):
    found = interpret(star(None, **OLD | {"rlnMagnification": ["40000", "40000", "20000"]}))
    assert found.pixel_sizes == pytest.approx([3.5, 3.5, 7.0])


@pytest.mark.parametrize(
    ("optics", "columns", "message"),
    [
        (NO_PIXEL_SIZE, {}, "no pixel size.*particles.pixel_size"),
        (OPTICS, {"rlnPixelSize": "3"}, "contradictory pixel sizes: 1.5 Å by rlnImagePixelSize, 3 Å by rlnPixelSize"),
        (
            TWO_GROUPS,
            {"rlnOpticsGroup": ["1", "2", "2"], "rlnPixelSize": ["1.5", "2", "1.5"]},
            "1.5 Å by rlnImagePixelSize, 2 Å by rlnPixelSize in row 1 .*optics group second",
        ),
        (None, OLD | {"rlnMagnification": "0"}, "rlnMagnification is 0"),
        (OPTICS | {"rlnImagePixelSize": ["0"]}, {}, "row 0 .*rlnImagePixelSize is 0, expected"),
        (OPTICS | {"rlnImageSize": ["0"]}, {}, "rlnImageSize is 0, expected 1 to"),
        (TWO_GROUPS, {"rlnOpticsGroup": None}, "2 optics groups, but no column rlnOpticsGroup"),
        (OPTICS, {"rlnAngleTilt": None, "rlnAnglePsi": None}, "no column rlnAngleTilt, rlnAnglePsi: .*no poses"),
        (OPTICS, {"rlnAngleRot": ["1", "nan", "2"]}, "row 1 .*rlnAngleRot is 'nan'"),
        (OPTICS, {"rlnOriginYAngst": None}, "rlnOriginXAngst stands without rlnOriginYAngst"),
        (OPTICS, {"rlnDefocusU": None}, "no column rlnDefocusU.*particles.ctf to false"),
        (OPTICS, {"rlnVoltage": "300000"}, "rlnVoltage is 300000, expected 10 to 3000 kV"),
        (OPTICS, {"rlnAmplitudeContrast": "7"}, "rlnAmplitudeContrast is 7, expected 0 to 1"),
        (OPTICS | {"rlnImageDimensionality": ["3"]}, {}, "subtomograms are not supported"),
        (OPTICS, {"rlnImageName": "a.mrc", "rlnOriginZAngst": "1"}, "volumes as images, with rlnOriginZAngst: subtomo"),
        (OPTICS, {"rlnTomoVisibleFrames": "[1,1]"}, r"2D stacks of tilt series \(rlnTomoVisibleFrames\)"),
        (OPTICS | {"rlnCtfDataAreCtfPremultiplied": ["1"]}, {}, "multiplied by their CTF are not supported"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(star, optics, columns, message):
    with pytest.raises(InputError, match=message) as refusal:
        interpret(star(optics, **columns))
    assert "in.star" in str(refusal.value)
    assert "\n" not in str(refusal.value)
