"""Seeds lie on the density, carry its mass, and fill what an atomic model leaves open."""

import gemmi
import numpy as np
import pytest
import torch
from scipy.spatial import KDTree

from gaussemble.errors import InputError
from gaussemble.fit.seeds import Options, cluster, derived_count, seeds
from gaussemble.io.mixtures import read_mixture
from gaussemble.io.mrc import write_map
from gaussemble.quantities import Map
from made_blobs import (
    BLOBS,
    BOX,
    MASS,
    ORIGIN,
    PIXEL,
    WIDTH,
    blobs_map,
    chain_of_points,
    write_inputs,
    write_model,
)


def moments(center: np.ndarray, amplitude: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    weight = amplitude / amplitude.sum()
    mean = weight @ center
    return mean, (center - mean).T @ ((center - mean) * weight[:, None])


def test_five_seeds_find_five_blobs(tmp_path):
    paths = write_inputs(tmp_path, blobs_map())
    seeds(**paths, options=Options(count=5, resolution=12))
    mixture = read_mixture(tmp_path / "seeds" / "seeds.npz")
    distance, nearest = KDTree(mixture.center.numpy()).query(BLOBS)
    assert sorted(nearest) == list(range(5))
    # a third of a voxel: neighbours at 15 Å = 3.3 widths share some skirts
    assert distance.max() < PIXEL / 3
    # amplitudes are sums over voxels; a few percent goes where cells meet
    assert np.allclose(mixture.amplitude[nearest], MASS, rtol=0.05)
    assert mixture.amplitude.sum().item() == pytest.approx(MASS.sum(), rel=1e-2)
    # the threshold takes a little of each blob's skirt away
    assert np.allclose(mixture.width.numpy(), WIDTH, rtol=0.12)


def test_files_are_in_the_map_frame(tmp_path):
    paths = write_inputs(tmp_path, blobs_map())
    seeds(**paths, options=Options(count=5, resolution=12))
    stored = np.load(tmp_path / "seeds" / "seeds.npz")["center"]
    frame = np.asarray(ORIGIN) + BOX // 2 * PIXEL
    distance, _ = KDTree(stored).query(BLOBS + frame)
    assert distance.max() < PIXEL / 3
    pseudo = gemmi.read_structure(str(tmp_path / "seeds" / "seeds.cif"))
    assert np.allclose([site.atom.pos.tolist() for site in pseudo[0].all()], stored, atol=2e-3)


def test_many_seeds_keep_mass_centre_and_extent(tmp_path):
    density = blobs_map()
    paths = write_inputs(tmp_path, density)
    seeds(**paths, options=Options(count=200, resolution=9))
    mixture = read_mixture(tmp_path / "seeds" / "seeds.npz")
    assert len(mixture) == 200
    assert mixture.amplitude.min() > 0
    assert mixture.amplitude.sum().item() == pytest.approx(density.voxels.sum().item(), rel=1e-2)
    mean, spread = moments(mixture.center.double().numpy(), mixture.amplitude.double().numpy())
    true_mean, true_spread = moments(BLOBS, MASS)
    assert np.allclose(mean, true_mean, atol=0.1)
    # each blob adds its own variance, of which seeds carry most by their places and the rest by their widths
    assert np.allclose(np.diag(spread), np.diag(true_spread) + WIDTH**2, rtol=0.1)
    assert np.allclose(spread - np.diag(np.diag(spread)), true_spread - np.diag(np.diag(true_spread)), atol=3)


def test_only_the_mask_counts_and_solvent_does_not(tmp_path):
    density = blobs_map()
    axis = (torch.arange(BOX) - BOX // 2) * PIXEL
    above = (axis > -15)[:, None, None].expand(BOX, BOX, BOX).float()  # z: leaves out the blob at z = -33
    solvent = torch.full_like(density.voxels, -2e-4)  # as a refined map's: slightly negative, everywhere
    paths = write_inputs(tmp_path, density.with_voxels(density.voxels + solvent), above)
    seeds(**paths, options=Options(count=20, resolution=12))
    mixture = read_mixture(tmp_path / "seeds" / "seeds.npz")
    assert mixture.center[:, 2].min() > -15
    # the solvent of all of the mask would take away 8; what is near the blobs takes 3 % of 13
    assert mixture.amplitude.sum().item() == pytest.approx(13, rel=0.05)


def test_seed_decides(tmp_path):
    paths = write_inputs(tmp_path, blobs_map())
    found = []
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        seeds(**paths | {"out": tmp_path / folder}, options=Options(count=50, resolution=12, seed=seed))
        found.append(read_mixture(tmp_path / folder / "seeds.npz").center)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@pytest.fixture
def fitted(tmp_path) -> tuple[dict, np.ndarray]:
    points = chain_of_points()
    density = blobs_map(points, np.full(len(points), 6.0), 3.0)
    return write_inputs(tmp_path, density), points


def test_beads_of_a_model_stand_on_its_residues_and_carry_the_mass(fitted, tmp_path):
    paths, points = fitted
    model = write_model(tmp_path / "model.cif", points)
    seeds(**paths, model=model, options=Options(resolution=10))
    mixture = read_mixture(tmp_path / "seeds" / "seeds.npz")
    assert len(mixture) == len(points)  # nothing is left over
    assert np.allclose(mixture.center.numpy(), points, atol=1e-3)
    assert mixture.amplitude.numpy() == pytest.approx(6.0, rel=0.02)
    # a point at 10 Å resolution: 0.225 * 10
    assert mixture.width.numpy() == pytest.approx(2.25, rel=1e-3)


@pytest.mark.parametrize("grouping", ["atom", "residue", "calpha"])
def test_removed_part_is_filled_again(fitted, tmp_path, grouping):
    paths, points = fitted
    kept, removed = points[:40], points[40:]
    model = write_model(tmp_path / "part.cif", kept)
    seeds(**paths, model=model, options=Options(resolution=10, atoms=grouping))
    mixture = read_mixture(tmp_path / "seeds" / "seeds.npz")
    rest = mixture.center.numpy()[40:]
    # as many as would keep the mean mass, but for the two points or so beside the kept part
    assert 16 <= len(rest) <= 22
    distance, _ = KDTree(rest).query(removed[3:])
    assert distance.max() < 5  # Å: each removed point has a seed nearer than the next point but one
    astray, _ = KDTree(removed).query(rest)
    assert astray.max() < 6  # Å: the density is a tube of standard deviation 3 and seeds fill it
    weight = mixture.amplitude.numpy()[40:]
    # on its axis on average; the end beside the kept part, 1 Å or so of z, belongs to the beads
    assert np.allclose(weight @ rest / weight.sum(), removed[1:].mean(0), atol=1.0)
    assert mixture.amplitude.sum().item() == pytest.approx(360, rel=0.01)
    assert mixture.amplitude[40:].sum().item() == pytest.approx(6.0 * 18, rel=0.15)


def test_residual_can_be_left(fitted, tmp_path):
    paths, points = fitted
    model = write_model(tmp_path / "part.cif", points[:40])
    seeds(**paths, model=model, options=Options(resolution=10, residual=False))
    mixture = read_mixture(tmp_path / "seeds" / "seeds.npz")
    assert len(mixture) == 40
    # not the mass of what is not there: within 2 + 10 / 2 Å stand 1 - exp(-(7 / 3)² / 2) = 93 % of a tube of
    # standard deviation 3 Å, and some of the next two points
    assert 0.93 * 240 < mixture.amplitude.sum().item() < 0.93 * 252


def test_beads_can_be_fewer_and_wider(fitted, tmp_path):
    paths, points = fitted
    model = write_model(tmp_path / "model.cif", points)
    seeds(**paths, model=model, options=Options(resolution=10, count=12))
    mixture = read_mixture(tmp_path / "seeds" / "seeds.npz")
    assert len(mixture) == 12
    distance, _ = KDTree(mixture.center.numpy()).query(points)
    assert distance.max() < 15  # five points of 3.8 Å share one
    assert mixture.width.min() > 2.5
    mean, _ = moments(mixture.center.double().numpy(), mixture.amplitude.double().numpy())
    assert np.allclose(mean, points.mean(0), atol=0.05)


def test_one_width_if_given(fitted):
    paths, _ = fitted
    seeds(**paths, options=Options(resolution=10, width=3.25))
    assert torch.all(read_mixture(paths["out"] / "seeds.npz").width == 3.25)


def test_refuses_other_grids_dark_maps_and_too_many(tmp_path):
    density = blobs_map()
    paths = write_inputs(tmp_path, density)
    write_map(tmp_path / "small.mrc", Map(torch.ones(20, 20, 20), PIXEL, ORIGIN))
    with pytest.raises(InputError, match=r"small.mrc: box 20 at 3 Å, but .* has 40 at 3 Å"):
        seeds(**paths | {"mask": tmp_path / "small.mrc"}, options=Options())
    write_map(tmp_path / "dark.mrc", density.with_voxels(-density.voxels))
    with pytest.raises(InputError, match="invert a dark map"):
        seeds(**paths | {"map": tmp_path / "dark.mrc"}, options=Options())
    with pytest.raises(InputError, match="count, 60000, is more than"):
        seeds(**paths, options=Options(count=60_000))
    assert not paths["out"].exists()


def test_derived_count_follows_volume_and_resolution():
    # the 50S subunit at 8 Å, where the published number is 3082
    assert 3082 / 2 < derived_count(1.45e6 * 1.1, 8.0) < 3082 * 2.1
    assert derived_count(1e6, 10.0) == 2000
    assert derived_count(1e3, 10.0) == 64
    assert derived_count(1e8, 3.0) == 4096


def test_cluster_splits_by_weight():
    position = np.array([[0.0, 0, 0], [1, 0, 0], [10, 0, 0], [11, 0, 0]])
    beads = cluster(position, np.array([3.0, 1, 1, 1]), 2, 0)
    order = np.argsort(beads.position[:, 0])
    assert np.allclose(beads.position[order, 0], [0.25, 10.5])
    assert np.allclose(beads.weight[order], [4, 2])
    assert np.allclose(beads.spread[order] ** 2, [0.1875 / 3, 0.25 / 3])
