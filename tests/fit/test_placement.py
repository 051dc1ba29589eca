"""A model that lies on the density is told from one that does not, and where it would lie is found."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gaussemble.errors import InputError
from gaussemble.fit.placement import best_translation, better_place, check_fit, coarsened, fit_score, mean_value
from gaussemble.io.atoms import Atoms, read_atoms
from gaussemble.quantities import Map
from made_blobs import BOX, ORIGIN, PIXEL, blobs_map, chain_of_points, write_model
from made_models import write_points

RESOLUTION = 10.0
MODEL, MAP = Path("model.cif"), Path("map.mrc")


@pytest.fixture(scope="module")
def density() -> Map:
    points = chain_of_points()
    return blobs_map(points, np.full(len(points), 6.0), 3.0)


@pytest.fixture
def atoms(tmp_path) -> Atoms:
    return read_atoms(write_model(tmp_path / "model.cif", chain_of_points()))


def moved(atoms: Atoms, shift) -> Atoms:
    return replace(atoms, position=atoms.position + np.asarray(shift, float))


def test_score_tells_fitted_from_shifted(density, atoms):
    assert fit_score(atoms.position, density, 15.0, 0) > 10
    for shift in ([15, 0, 0], [0, 15, 0], [-15, 0, 0]):
        assert fit_score(atoms.position + shift, density, 15.0, 0) < 1.5
    assert fit_score(moved(atoms, [60, 0, 0]).position, density, 15.0, 0) <= 0.5
    # axes in the wrong order
    swapped = (atoms.position - density.center)[:, ::-1] + density.center
    assert fit_score(swapped, density, 15.0, 0) < 3


def test_mean_value_is_the_map_between_voxels():
    """A map that is linear in x, y and z is read off exactly, in its frame; outside it is 0."""
    z, y, x = torch.meshgrid(*[torch.arange(BOX).float()] * 3, indexing="ij")
    linear = Map(1 + x + 10 * y + 100 * z, PIXEL, ORIGIN)
    place = np.asarray(ORIGIN) + PIXEL * np.array([[3.25, 7.5, 11.0]])
    assert mean_value(place, linear) == pytest.approx(1 + 3.25 + 75 + 1100, rel=1e-6)
    assert mean_value(np.asarray(ORIGIN) - [[10.0, 0, 0]], linear) == 0


def test_coarse_maps_stay_in_place():
    """Blocks of 2 or 3 voxels: the centre of mass is where it was, whatever does not fill a block left out."""
    for box in (192, 193, 200):
        voxels = torch.zeros(box, box, box)
        voxels[60:66, 30:36, 12:18] = 1.0  # whole blocks of 2 and of 3
        coarse = coarsened(Map(voxels, 1.0, ORIGIN))
        assert coarse.box <= 96
        z, y, x = np.nonzero(coarse.voxels.numpy())
        middle = np.array([x.mean(), y.mean(), z.mean()]) * coarse.pixel_size + np.asarray(coarse.origin)
        assert np.allclose(middle, np.add(ORIGIN, [14.5, 32.5, 62.5]))


@pytest.mark.parametrize("shift", [(0, 0, 0), (9, -30, 21), (-36, 12, 3), (500, -400, 300)])
def test_translation_is_found_to_a_voxel(density, atoms, shift):
    found = best_translation(atoms.position + np.array(shift, float), density)
    assert np.abs(found + shift).max() <= PIXEL / 2 + 1e-6


def test_fitted_model_is_left_alone(density, atoms, capsys):
    check_fit(MODEL, MAP, atoms, density, RESOLUTION, 0)
    told = capsys.readouterr().err
    assert "model.cif lies on the map with z = " in told
    assert "WARNING" not in told
    assert better_place(atoms.position, density, RESOLUTION, fit_score(atoms.position, density, 15.0, 0), 0) is None


def test_shifted_model_is_refused_with_the_way_back(density, atoms):
    # 0.3 Å: a tenth of a voxel
    with pytest.raises(InputError, match=r"not fitted in map.mrc.*shift the model by \(-?\d") as error:
        check_fit(MODEL, MAP, moved(atoms, [0, 20, 0]), density, RESOLUTION, 0)
    told = str(error.value).split("shift the model by (")[1].split(")")[0]
    assert np.allclose([float(value) for value in told.split(",")], [0, -20, 0], atol=0.35)


def test_model_a_little_aside_is_doubted_with_the_way_back(density, atoms, capsys):
    check_fit(MODEL, MAP, moved(atoms, [4.5, 0, 0]), density, RESOLUTION, 0)
    told = capsys.readouterr().err
    assert "WARNING: model.cif: shift the model by (-4." in told


def test_frame_of_origin_zero_is_recognised(density, atoms):
    """The map's header has an origin that the program which fitted the model did not know of."""
    with pytest.raises(
        InputError, match=r"model outside the map: .* the model seems to be in the frame of origin"
    ) as error:
        check_fit(MODEL, MAP, moved(atoms, -np.asarray(ORIGIN)), density, RESOLUTION, 0)
    assert "shift the model by (100.0, -20.0, 7.0) Å" in str(error.value)
    assert "or give the map the origin (0.0, 0.0, 0.0) Å" in str(error.value)
    assert "\n" not in str(error.value)


def test_frame_of_the_centre_is_recognised(density, atoms):
    with pytest.raises(InputError, match="starts at the box's centre: shift the model by") as error:
        check_fit(MODEL, MAP, moved(atoms, -density.center), density, RESOLUTION, 0)
    assert "shift the model by (160.0, 40.0, 67.0) Å" in str(error.value)


def test_map_that_lost_its_origin_is_told_which(density, atoms):
    """As programs do that write the voxels alone; the model stands where the map was."""
    bare = Map(density.voxels, PIXEL)
    with pytest.raises(InputError, match=r"or give the map the origin \((.*)\) Å") as error:
        check_fit(MODEL, MAP, atoms, bare, RESOLUTION, 0)
    told = str(error.value).split("the origin (")[1].split(")")[0]
    assert np.allclose([float(value) for value in told.split(",")], ORIGIN, atol=0.35)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_other_hand_is_told(density, atoms, axis, capsys):
    """A map that was flipped, whose model was fitted in the other one."""
    flipped = density.with_voxels(density.voxels.flip(axis))
    score = fit_score(atoms.position, flipped, 15.0, 0)
    place = better_place(atoms.position, flipped, RESOLUTION, score, 0)
    assert place is not None
    assert place.mirrored
    assert place.score > 10
    try:
        check_fit(MODEL, MAP, atoms, flipped, RESOLUTION, 0)
        told = capsys.readouterr().err
    except InputError as error:
        told = str(error)
    assert "the map seems to be of the other hand; flip the map" in told


def test_other_molecule_finds_no_place(density, tmp_path):
    """A straight rod of the same length lies on the coil nowhere."""
    rod = np.stack([np.zeros(60), np.zeros(60), 1.6 * np.arange(60) - 48], 1)
    atoms = read_atoms(write_model(tmp_path / "rod.cif", rod))
    with pytest.raises(InputError, match=r"not fitted in map.mrc.*; fit the model into the map first"):
        check_fit(MODEL, MAP, atoms, density, RESOLUTION, 0)


def test_box_that_is_left_is_told_with_the_first_atom(density, tmp_path):
    """The rod again, reaching out of the box."""
    rod = np.stack([np.zeros(60), np.zeros(60), 2.5 * np.arange(60) - 48], 1)
    atoms = read_atoms(write_model(tmp_path / "rod.cif", rod))
    with pytest.raises(
        InputError, match=r"model outside the map: 17 of 60 atoms, the first in A/ALA 44 at \(160.0, 40.0, 126.5"
    ):
        check_fit(MODEL, MAP, atoms, density, RESOLUTION, 0)


def test_flat_map_has_no_score(tmp_path):
    atoms = read_atoms(write_points(tmp_path / "model.cif", chain_of_points()))
    flat = Map(torch.ones(BOX, BOX, BOX), PIXEL, (-60.0, -60.0, -60.0))
    assert fit_score(atoms.position, flat, 5.0, 0) < 1
