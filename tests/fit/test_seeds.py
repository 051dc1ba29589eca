"""Seeds lie on the density, carry its mass, and fill what an atomic model leaves open."""

from pathlib import Path

import gemmi
import numpy as np
import pytest
import torch
from scipy.spatial import KDTree

from gaussemble.errors import InputError
from gaussemble.fit.seeds import START, Options, cluster, seeds
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
from made_density import gemmi_density

FRAME = np.asarray(ORIGIN) + BOX // 2 * PIXEL  # the box's origin in files
DEMO = Path(__file__).parents[2] / "resources/demo_molecule.cif"


def moments(center: np.ndarray, amplitude: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    weight = amplitude / amplitude.sum()
    mean = weight @ center
    return mean, (center - mean).T @ ((center - mean) * weight[:, None])


def test_five_seeds_find_five_blobs(tmp_path):
    paths = write_inputs(tmp_path, blobs_map())
    seeds(**paths, options=Options(count=5, resolution=12))
    mixture = read_mixture(tmp_path / "seeds" / "seeds.npz")
    distance, nearest = KDTree(mixture.center.numpy()).query(BLOBS)
    assert sorted(np.asarray(nearest).tolist()) == list(range(5))
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
    distance, _ = KDTree(stored).query(BLOBS + FRAME)
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


@pytest.mark.parametrize(("count", "moving"), [(1, "A/41-60"), (59, "A/60"), (60, "A/60")])
def test_no_clusters_without_a_part_of_their_own(fitted, tmp_path, count, moving):
    paths, points = fitted
    model = write_model(tmp_path / "model.cif", points)
    options = Options(resolution=10, count=count, moving=moving)
    if count == 1:
        with pytest.raises(
            InputError, match="option count, 1: too few or too many for a part that moves and the others"
        ):
            seeds(**paths, model=model, options=options)
    else:
        seeds(**paths, model=model, options=options)
        with np.load(tmp_path / "seeds" / "seeds.npz") as stored:
            assert stored["moving"].sum() == 1
            assert np.isfinite(stored["amplitude"]).all()


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


@pytest.fixture(scope="module")
def molecule(tmp_path_factory) -> dict:
    """The demo's molecule in its map at 12 Å by gemmi, with noise; a model that lacks chain C; where the atoms are."""
    folder = tmp_path_factory.mktemp("molecule")
    structure = gemmi.read_structure(str(DEMO))
    density = gemmi_density(structure, 64, 4.0, 12.0)
    signal = density.voxels[density.voxels > 0.1 * density.voxels.max()].std()
    random = torch.Generator().manual_seed(0)
    noise = torch.randn(density.voxels.shape, generator=random) * signal / 5
    place = {chain.name: np.array([a.pos.tolist() for r in chain for a in r]) for chain in structure[0]}
    del structure[0]["C"]
    structure.make_mmcif_document().write_file(str(folder / "part.cif"))
    return {"density": density, "noise": noise, "model": folder / "part.cif", "place": place}


def added(molecule: dict, folder: Path, voxels: torch.Tensor) -> tuple[np.ndarray, np.ndarray, float]:
    """What is seeded beside the model: places (Å, map frame), amplitudes; the sum of the model's own amplitudes."""
    density = molecule["density"]
    paths = write_inputs(folder, density.with_voxels(voxels), torch.ones_like(voxels))
    seeds(**paths, model=molecule["model"], options=Options(resolution=12))
    mixture = read_mixture(folder / "seeds" / "seeds.npz")
    given = 532 + 425  # residues of chains A and B
    places = mixture.center[given:].double().numpy() + density.center
    return places, mixture.amplitude[given:].double().numpy(), float(mixture.amplitude[:given].sum())


def test_missing_domain_is_filled_and_nothing_else(molecule, tmp_path):
    places, amplitude, own = added(molecule, tmp_path, molecule["density"].voxels + molecule["noise"])
    missing = molecule["place"]["C"]
    # 342 of 1299 residues; those within reach of the model's neck (2 + 12 / 2 Å) are its own
    assert 0.8 * 342 < len(places) < 1.1 * 342
    share = amplitude.sum() / (amplitude.sum() + own)
    assert share == pytest.approx(342 / 1299, rel=0.15)
    astray, _ = KDTree(missing).query(places)
    assert astray.max() < 8  # Å: nothing elsewhere; a surface at 12 Å resolution is a few Å out
    assert np.median(astray) < 2.5
    distance, _ = KDTree(places).query(missing)
    assert np.quantile(distance, 0.95) < 9  # Å: and all of it; Gaussians of a residue's mass are 6 Å apart
    assert np.allclose(amplitude @ places / amplitude.sum(), missing.mean(0), atol=2)


def test_nanodisc_round_the_model_is_filled(molecule, tmp_path):
    """A belt of lipid, half as dense as protein, round chain A: the model has none of it."""
    density = molecule["density"]
    axis = np.arange(64) * 4.0
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    middle = molecule["place"]["A"].mean(0)
    radius = np.hypot(x - middle[0], y - middle[1])
    solid = density.voxels[density.voxels > 0.3 * density.voxels.max()].mean().item()
    belt = 0.5 * solid * ((radius > 40) & (radius < 56) & (np.abs(z - middle[2]) < 16))
    everything = np.concatenate(list(molecule["place"].values()))
    distance, _ = KDTree(everything).query(np.stack([x, y, z], -1).reshape(-1, 3))
    belt *= (distance > 10).reshape(belt.shape)
    whole = molecule["density"].voxels + torch.from_numpy(belt).float() + molecule["noise"]
    places, amplitude, _ = added(molecule, tmp_path, whole)
    to_missing, _ = KDTree(molecule["place"]["C"]).query(places)
    lipid = to_missing > 8
    # the belt's mass, and each voxel of the belt within a Gaussian's reach
    assert amplitude[lipid].sum() == pytest.approx(belt.sum(), rel=0.1)
    inside = np.stack([x[belt > 0], y[belt > 0], z[belt > 0]], 1)
    astray, _ = KDTree(inside).query(places[lipid])
    assert astray.max() < 5  # Å: a voxel and the noise
    reach, _ = KDTree(places[lipid]).query(inside)
    assert np.quantile(reach, 0.95) < 9


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


def test_the_neutral_fit_is_told_what_may_grow_and_what_follows_what(fitted, tmp_path):
    paths, points = fitted
    model = write_model(tmp_path / "model.cif", points)
    for given, count, residual, grow, bonds in (
        (None, None, True, True, 0),
        (None, 20, True, False, 0),
        (model, None, True, True, 59),
        (model, None, False, False, 59),
        (model, 12, True, False, 0),
    ):
        seeds(**paths, model=given, options=Options(resolution=10, count=count, residual=residual))
        with np.load(tmp_path / "seeds" / "seeds.npz") as stored:
            assert bool(stored["grow"]) is grow
            assert bool(stored["model"]) is (given is not None)
            assert len(stored.get("bonds", ())) == bonds
            assert len(stored["center"]) == (count or (60 if given else START))
            if bonds:
                assert np.allclose(stored["center"][stored["bonds"][:, 0]], points[:-1] + FRAME, atol=1e-3)


def test_the_model_is_written_as_it_was_taken(fitted, tmp_path):
    paths, points = fitted
    model = write_model(tmp_path / "model.cif", points)
    seeds(**paths, model=model, options=Options(resolution=10, selection="A/1-20"))
    taken = gemmi.read_structure(str(tmp_path / "seeds" / "model.cif"))[0]
    assert np.allclose([site.atom.pos.tolist() for site in taken.all()], points[:20] + FRAME, atol=1e-3)


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


def test_refuses_what_cannot_be_meant(fitted, tmp_path):
    paths, points = fitted
    model = write_model(tmp_path / "model.cif", points)
    density = blobs_map()
    write_map(tmp_path / "empty.mrc", density.with_voxels(torch.zeros_like(density.voxels)))
    with pytest.raises(InputError, match=r"empty.mrc: no voxel above 0"):
        seeds(**paths | {"mask": tmp_path / "empty.mrc"}, model=model, options=Options(resolution=10))
    with pytest.raises(InputError, match="option count, 61, is more than the model's 60 atoms"):
        seeds(**paths, model=model, options=Options(resolution=10, count=61))
    with pytest.raises(InputError, match="options selection, ncs: they choose a part of a model; give a model"):
        seeds(**paths, options=Options(selection="A", ncs=True))
    with pytest.raises(InputError, match="options model_number: they choose"):
        seeds(**paths, options=Options(model_number=0))
    with pytest.raises(InputError, match="selection, B, finds no atom"):
        seeds(**paths, model=model, options=Options(selection="B"))
    corner = torch.zeros_like(density.voxels)
    corner[:6, :6, :6] = 1.0
    write_map(tmp_path / "corner.mrc", density.with_voxels(corner))
    with pytest.raises(InputError, match="check"):
        seeds(**paths | {"mask": tmp_path / "corner.mrc"}, model=model, options=Options(resolution=10))
    assert not paths["out"].exists()


def test_selection_seeds_a_part_and_density_the_rest(fitted, tmp_path):
    paths, points = fitted
    model = write_model(tmp_path / "model.cif", points)
    part = write_model(tmp_path / "part.cif", points[:40])
    found = []
    for path, selection in ((model, "A/1-40"), (part, None)):
        seeds(**paths, model=path, options=Options(resolution=10, selection=selection))
        found.append(read_mixture(paths["out"] / "seeds.npz"))
    assert len(found[0]) > 40
    assert torch.equal(found[0].center, found[1].center)
    assert torch.equal(found[0].amplitude, found[1].amplitude)


def test_cluster_splits_by_weight():
    position = np.array([[0.0, 0, 0], [1, 0, 0], [10, 0, 0], [11, 0, 0]])
    beads = cluster(position, np.array([3.0, 1, 1, 1]), 2, 0)
    order = np.argsort(beads.position[:, 0])
    assert np.allclose(beads.position[order, 0], [0.25, 10.5])
    assert np.allclose(beads.weight[order], [4, 2])
    assert np.allclose(beads.spread[order] ** 2, [0.1875 / 3, 0.25 / 3])


def test_cluster_gives_as_many_as_there_are_places():
    """Points that stand many times in one place leave centres without points, which go where they are wanted."""
    position = np.repeat([[0.0, 0, 0], [5, 0, 0], [0, 9, 0], [0, 0, 14]], [200, 2, 2, 2], axis=0)
    for seed in range(10):
        beads = cluster(position, np.ones(len(position)), 4, seed)
        assert sorted(beads.weight) == [2, 2, 2, 200]


def test_parts_that_move_take_their_scale_from_the_rest(tmp_path):
    """The map has nothing where the model's last third is at rest, but elsewhere, where nothing is seeded."""
    points = chain_of_points()
    elsewhere = points[40:] * [-1, -1, 1]
    density = blobs_map(np.concatenate([points[:40], elsewhere]), np.full(60, 6.0), 3.0)
    paths, model = write_inputs(tmp_path, density), write_model(tmp_path / "model.cif", points)
    seeds(**paths, model=model, options=Options(resolution=10, moving="A/41-60"))
    mixture = read_mixture(tmp_path / "seeds" / "seeds.npz")
    assert np.allclose(mixture.center.numpy(), points, atol=1e-3)
    assert mixture.amplitude.numpy() == pytest.approx(6.0 * 0.93, rel=0.04)  # what is within 2 + 10 / 2 Å of the points
    with np.load(tmp_path / "seeds" / "seeds.npz") as stored:
        assert stored["moving"].tolist() == 40 * [False] + 20 * [True]
        assert not stored["grow"]
    seeds(**paths, model=model, options=Options(resolution=10))
    with np.load(tmp_path / "seeds" / "seeds.npz") as stored:
        assert "moving" not in stored
        assert len(stored["center"]) > 70


def test_clusters_of_a_model_are_of_parts_that_move_or_of_others(fitted, tmp_path):
    paths, points = fitted
    model = write_model(tmp_path / "model.cif", points)
    seeds(**paths, model=model, options=Options(resolution=10, count=12, moving="A/41-60"))
    mixture = read_mixture(tmp_path / "seeds" / "seeds.npz")
    with np.load(tmp_path / "seeds" / "seeds.npz") as stored:
        moving = stored["moving"]
    assert moving.tolist() == 8 * [False] + 4 * [True]
    for part, own in ((points[:40], ~moving), (points[40:], moving)):
        weight = mixture.amplitude.numpy()[own]
        assert np.allclose(weight @ mixture.center.numpy()[own] / weight.sum(), part.mean(0), atol=0.1)
    assert mixture.amplitude[moving].sum().item() == pytest.approx(
        mixture.amplitude[~moving].sum().item() / 2, rel=1e-3
    )


def test_what_moves_has_no_say_in_whether_the_model_lies_on_the_map(tmp_path, capsys):
    """Most of the map is where the model's longer part would have to be shifted to."""
    points = chain_of_points()
    shown = np.concatenate([points[:20], points[20:] + np.array([24, 0, 0])])
    density = blobs_map(shown, np.full(60, 6.0), 3.0)
    paths, model = write_inputs(tmp_path, density), write_model(tmp_path / "model.cif", points)
    seeds(**paths, model=model, options=Options(resolution=10))
    before = capsys.readouterr().err
    seeds(**paths, model=model, options=Options(resolution=10, moving="A/21-60"))
    after = capsys.readouterr().err
    assert "shift the model by" in before
    assert "shift the model by" not in after


@pytest.mark.parametrize(
    ("moving", "given", "message"),
    [
        ("A", True, "option moving, 'A': all atoms of the model; leave out the part that the map shows"),
        ("B", True, "option moving, 'B', finds no atom of the seeds' model; its chains are A"),
        ("A/((", True, r"option moving, 'A/\(\(': no selection such as A"),
        ("A/41-60", False, "options moving: they choose a part of a model"),
    ],
)
def test_parts_that_cannot_move_are_refused(fitted, tmp_path, moving, given, message):
    paths, points = fitted
    model = write_model(tmp_path / "model.cif", points) if given else None
    with pytest.raises(InputError, match=message):
        seeds(**paths, model=model, options=Options(resolution=10, moving=moving))
    assert not (tmp_path / "seeds" / "seeds.npz").exists()
