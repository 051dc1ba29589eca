"""Consensus of a split: scale, files, noise spectrum, and what is said of maps and masks that do not fit."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from gaussemble.errors import InputError
from gaussemble.io.mrc import read_map, write_map
from gaussemble.io.store import open_store, write_particles, write_store
from gaussemble.physics.backprojection import Sums, divide
from gaussemble.physics.ctf import evaluate
from gaussemble.physics.fourier import to_real
from gaussemble.physics.masks import within_sphere
from gaussemble.physics.projection import mixture_to_map, project, shift_phases
from gaussemble.physics.symmetry import operators
from gaussemble.prepare.checks import check_poses
from gaussemble.prepare.consensus import Options, consensus, summed
from gaussemble.prepare.given import crop_map
from gaussemble.prepare.noise import noise_rows, noise_table
from gaussemble.prepare.slices import halves, sum_slices
from gaussemble.quantities import Map
from made_store import BOX, PIXEL, lopsided, make_particles, make_store


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    everything = torch.zeros(900, dtype=torch.bool)
    return make_store(tmp_path_factory.mktemp("store"), torch.Generator().manual_seed(0), absent=everything)


@pytest.fixture(scope="module")
def result(made, tmp_path_factory):
    out = tmp_path_factory.mktemp("consensus")
    consensus(particles=made.folder, out=out, options=Options())
    return out


def truth() -> Map:
    return Map(mixture_to_map(lopsided(), BOX, PIXEL), PIXEL)


def test_map_has_the_densitys_scale_and_place(result):
    sphere = torch.from_numpy(within_sphere(BOX))
    found, expected = read_map(result / "map.mrc"), truth().voxels[sphere]
    assert found.pixel_size == pytest.approx(PIXEL)
    assert found.origin == (0, 0, 0)
    voxels = found.voxels[sphere]
    # 2 % of scale: interpolation, and Wiener's damping at SNR 0.5
    assert (voxels @ expected / (expected @ expected)).item() == pytest.approx(1, abs=0.03)
    assert torch.corrcoef(torch.stack([voxels, expected]))[0, 1] > 0.98


def test_halves_alternate_and_share_nothing(made):
    """The sums of half 1 are those of the even rows alone."""
    store = open_store(made.folder)
    sums = sum_slices(store, halves(store, torch.arange(60)), 2, 1)
    even = torch.arange(0, 60, 2)
    alone = sum_slices(store, torch.stack([even, torch.zeros_like(even)], -1), 1, 1)
    assert torch.allclose(sums.cells[0], alone.cells[0], rtol=1e-3, atol=1e-2)
    assert not torch.allclose(sums.cells[1], alone.cells[0], rtol=1e-1)


def test_fsc_table(result):
    table = pd.read_csv(result / "fsc.csv")
    curves = ["fsc", "fsc_masked", "fsc_randomised", "fsc_corrected"]
    assert list(table) == ["ring", "frequency", "resolution", *curves]
    assert len(table) == BOX // 2 + 1
    assert table["frequency"].iloc[4] == pytest.approx(4 / (BOX * PIXEL))
    assert table["resolution"].iloc[4] == pytest.approx(BOX * PIXEL / 4)
    assert np.isinf(table["resolution"].iloc[0])
    assert table["fsc_masked"].iloc[1:8].min() > 0.9
    assert table["fsc"].notna().all()


def test_noise_is_that_of_the_images(made, result):
    """White noise of sd s has |F|² = s² box² in every ring. The remaining error of the map may only add to it."""
    table = pd.read_csv(result / "noise.csv")
    assert list(table) == ["optics_group", "ring", "frequency", "power"]
    assert set(table["optics_group"]) == {0, 1}
    relative = table["power"] / (made.noise**2 * BOX**2)
    by_ring = relative.groupby(table["ring"]).mean()
    # rings 4 to 15 have 100 coefficients x 900 particles: 1 % of sampling; up to 8 % of signal in the lowest
    assert by_ring[4:16].between(0.98, 1.05).all()
    assert by_ring[1:4].between(0.9, 1.25).all()


def test_noise_of_a_particle_is_measured_against_the_other_half(made, tmp_path):
    """With few particles the own half has fitted the noise: the estimate would be far too low."""
    few = make_store(tmp_path / "few", torch.Generator().manual_seed(3), count=12, snr=0.05)
    consensus(particles=few.folder, out=tmp_path, options=Options(check="warn", mask_threshold=-1e9))
    table = pd.read_csv(tmp_path / "noise.csv").groupby("ring")["power"].mean()
    assert (table / (few.noise**2 * BOX**2))[4:16].min() > 0.85


def test_absent_optics_group_gets_the_mean_of_the_others():
    power = torch.tensor([[1.0, 2.0], [np.nan, np.nan], [3.0, 4.0]])
    table = noise_table(power, PIXEL, 2)
    assert table["power"].tolist() == [1, 2, 2, 3, 3, 4]
    assert table["optics_group"].tolist() == [0, 0, 1, 1, 2, 2]


def test_noise_rows_have_every_group(made):
    rows = noise_rows(open_store(made.folder), 50)
    assert len(rows) == 100
    assert (rows < 600).sum() == 50
    assert {0, 1} == set((rows % 2).tolist())


def test_mask_covers_the_molecule(result):
    mask = read_map(result / "mask.mrc").voxels
    density = truth().voxels
    assert (density * mask).sum() / density.sum() > 0.97
    assert mask.mean() < 0.35
    assert mask.min() == 0


def test_inverted_contrast_is_found(tmp_path, generator, capsys):
    made = make_store(tmp_path / "store", generator, count=300, sign=-1)
    with pytest.raises(InputError, match=r"contrast looks inverted: set particles.contrast.*-\d"):
        consensus(particles=made.folder, out=tmp_path / "out", options=Options())
    assert not (tmp_path / "out").exists()
    consensus(particles=made.folder, out=tmp_path / "out", options=Options(check="warn", mask_threshold=-1e9))
    assert "contrast looks inverted" in capsys.readouterr().err


def given(tmp_path, density: Map):
    path = tmp_path / "given.mrc"
    write_map(path, density)
    return path


def test_given_map_is_written_in_the_particles_scale_and_keeps_its_frame(made, tmp_path, capsys):
    """And the half-maps are the particles' all the same."""
    path = given(tmp_path, Map(truth().voxels * 0.01, PIXEL, (-7.0, 3.0, 11.0)))
    consensus(particles=made.folder, out=tmp_path / "out", map=path, options=Options())
    found = read_map(tmp_path / "out" / "map.mrc")
    assert found.origin == (-7, 3, 11)
    assert torch.allclose(found.voxels, truth().voxels, atol=0.05 * float(truth().voxels.max()))
    half = read_map(tmp_path / "out" / "half1.mrc")
    assert half.origin == (-7, 3, 11)
    assert not torch.allclose(half.voxels, found.voxels, atol=0.01)
    assert "correlation with the particles' own reconstruction" in capsys.readouterr().err


def rotated(voxels: torch.Tensor) -> torch.Tensor:
    """Turned by 90 degrees about z and by 90 about x: still a map, but of other poses."""
    return voxels.rot90(1, (1, 2)).rot90(1, (0, 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda voxels: -voxels, "contrast inverted: correlation .* is -(0.9|1.0)"),
        (lambda voxels: voxels.roll(-1, 2).flip(2), "other hand: .* mirror image (0.9|1.0)"),
        (lambda voxels: voxels.roll(-1, 1).flip(1), "other hand: .* mirror image (0.9|1.0)"),
        (lambda voxels: voxels.roll(-1, 0).flip(0), "other hand: .* mirror image (0.9|1.0)"),
        (lambda voxels: voxels.roll((-1, -1, -1), (0, 1, 2)).flip(0, 1, 2), "other hand: .* mirror image (0.9|1.0)"),
        (rotated, "does not belong to these particles, or is turned .* is "),
    ],
)
def test_given_map_that_is_wrong_is_refused(made, tmp_path, change, message):
    path = given(tmp_path, Map(change(truth().voxels).contiguous(), PIXEL))
    with pytest.raises(InputError, match=message):
        consensus(particles=made.folder, out=tmp_path / "out", map=path, options=Options())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("box", "pixel"), [(BOX, 2 * PIXEL), (BOX + 4, PIXEL), (BOX // 2, PIXEL)])
def test_given_map_of_another_box_is_refused_with_both_named(made, tmp_path, box, pixel):
    path = given(tmp_path, Map(torch.ones(box, box, box), pixel))
    with pytest.raises(InputError, match=rf"box {box} at {pixel:g} Å/pixel, .* box {BOX} at {PIXEL:g} Å/pixel"):
        consensus(particles=made.folder, out=tmp_path / "out", map=path, options=Options())


def test_given_map_of_finer_pixels_is_cropped(made, tmp_path):
    """Same field of view; the density per voxel is that of the coarse grid, at the same place in the map's frame."""
    fine = Map(mixture_to_map(lopsided(), 2 * BOX, PIXEL / 2), PIXEL / 2, (1.0, 2.0, 3.0))
    consensus(particles=made.folder, out=tmp_path / "out", map=given(tmp_path, fine), options=Options())
    found = read_map(tmp_path / "out" / "map.mrc")
    assert found.box == BOX
    assert np.allclose(found.center, fine.center, atol=1e-4)
    assert torch.corrcoef(torch.stack([found.voxels.flatten(), truth().voxels.flatten()]))[0, 1] > 0.998


@pytest.mark.parametrize(("box", "small"), [(40, 24), (41, 24), (40, 25), (41, 25)])
def test_crop_keeps_place_and_density(box, small):
    """Even and odd: the same Gaussians sampled coarsely, density per volume kept."""
    mixture, pixel = lopsided(), 160 / box
    coarse = 160 / small
    fine = mixture_to_map(mixture, box, pixel) / pixel**3
    expected = mixture_to_map(mixture, small, coarse) / coarse**3
    found = crop_map(fine, small)
    assert (found - expected).norm() / expected.norm() < 0.03  # Gaussians of 1.05 coarse voxels: their aliases


def test_given_mask_is_used_and_checked(made, tmp_path):
    mask = torch.zeros(BOX, BOX, BOX)
    mask[8:24, 8:24, 8:24] = 1
    path = given(tmp_path, Map(mask, PIXEL))
    consensus(particles=made.folder, out=tmp_path / "out", mask=path, options=Options())
    assert torch.equal(read_map(tmp_path / "out" / "mask.mrc").voxels, mask)
    path = given(tmp_path, Map(5 * mask, PIXEL))
    with pytest.raises(InputError, match="a mask goes from 0 to 1"):
        consensus(particles=made.folder, out=tmp_path / "out", mask=path, options=Options())
    path = given(tmp_path, Map(1 - mask, PIXEL))
    with pytest.raises(InputError, match="the mask misses the molecule"):
        consensus(particles=made.folder, out=tmp_path / "out", mask=path, options=Options())


def test_cropped_odd_boxes_have_their_place_in_the_header(made, tmp_path, generator):
    made = make_store(tmp_path / "store", generator, count=200, snr=5.0)
    field = BOX * PIXEL
    report = {"image_size": 65, "image_pixel_size": field / 65}
    (made.folder / "report.json").write_text(json.dumps(report))
    consensus(particles=made.folder, out=tmp_path / "out", options=Options())
    found = read_map(tmp_path / "out" / "map.mrc")
    assert np.allclose(found.center, 32 * field / 65, atol=1e-3)


def rewritten(made, folder, **changes):
    """The store of the fixture with other particles' fields, images and halves as they are."""
    store = open_store(made.folder)
    particles = replace(store.particles, **{name: change(store.particles) for name, change in changes.items()})
    shutil.copytree(made.folder, folder)
    write_particles(folder, particles, store.box, store.pixel_size, store.half.numpy(), store.image.numpy())
    return folder


def transposed(particles):
    return particles.rotation.mT.contiguous()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rotation": transposed}, "poses appear inverted: .* by 0.[0-8].*, and by (0.9|1.0).* rotations that turn"),
        ({"shift": lambda particles: 3 * particles.shift}, None),
    ],
)
def test_inverted_poses_are_named_beside_a_map(made, tmp_path, changes, message):
    """Wrong poses of another kind are not blamed on the wrong one."""
    path = given(tmp_path, truth())
    folder = rewritten(made, tmp_path / "store", **changes)
    if message:
        with pytest.raises(InputError, match=message):
            consensus(particles=folder, out=tmp_path / "out", map=path, options=Options())
    else:
        assert check_poses(truth(), open_store(folder), "C1", path) is None


@pytest.mark.parametrize("inverted", [(), ("shift",), ("rotation",), ("shift", "rotation")])
def test_each_inversion_has_its_name(tmp_path, generator, inverted):
    """Shifts of 12 Å, so that their sign is seen at 20 Å; right data are not blamed."""
    particles = make_particles(600, generator)
    particles = replace(particles, shift=3 * particles.shift)
    transform = project(lopsided(), particles.rotation, BOX, PIXEL) * evaluate(particles.ctf, BOX, PIXEL)
    images = to_real(transform * shift_phases(particles.shift, BOX, PIXEL), BOX)
    images = images + 2 * images.std() * torch.randn(images.shape, generator=generator)
    values = {"shift": -particles.shift, "rotation": transposed(particles)}
    write_store(tmp_path, replace(particles, **{name: values[name] for name in inverted}), images, PIXEL)
    found = check_poses(truth(), open_store(tmp_path), "C1", tmp_path / "given.mrc")
    expected = {(): None, ("shift",): "shifts", ("rotation",): "poses"}.get(inverted, "poses and shifts")
    if expected is None:
        assert found is None
    else:
        assert found is not None
        assert f"{tmp_path}: {expected} appear inverted" in found


def test_inverted_poses_without_a_map_make_no_claim(made, tmp_path, capsys):
    folder = rewritten(made, tmp_path / "store", rotation=transposed)
    consensus(particles=folder, out=tmp_path / "out", options=Options(mask_threshold=-1e9))
    assert "inverted" not in capsys.readouterr().err


def test_expanded_particles_have_no_symmetry_left_to_apply(made, tmp_path, capsys):
    store = open_store(made.folder)
    twice = torch.arange(len(store)).repeat_interleave(2)
    shutil.copytree(made.folder, tmp_path / "store")
    write_particles(
        tmp_path / "store", store.particles[twice], BOX, PIXEL, store.half[twice].numpy(), store.image[twice].numpy()
    )
    with pytest.raises(InputError, match=r"1800 rows of 900 images are symmetry-expanded already.*set consensus.symm"):
        consensus(particles=tmp_path / "store", out=tmp_path / "out", options=Options(symmetry="C2"))
    with pytest.raises(InputError, match="symmetry 'Q2' is not known"):
        consensus(particles=tmp_path / "store", out=tmp_path / "out", options=Options(symmetry="Q2"))
    consensus(particles=tmp_path / "store", out=tmp_path / "out", options=Options(padding=1))
    assert "consensus: 900 particles in 1800 rows, C1, " in capsys.readouterr().err


def test_symmetry_is_applied_to_all_maps(made, tmp_path):
    consensus(particles=made.folder, out=tmp_path, options=Options(symmetry="C2", mask_threshold=-1e9))
    for name in ("map", "half1", "half2"):
        voxels = read_map(tmp_path / f"{name}.mrc").voxels[1:, 1:, 1:]
        assert torch.allclose(voxels, voxels.flip(1, 2), atol=1e-4 * float(voxels.max()))


def test_expansion_and_symmetry_give_the_same_map(made, tmp_path):
    """Copies turned as particles.expand turns them, in C1; and the images once, with consensus.symmetry."""
    store = open_store(made.folder)
    group = operators("D2").float()
    copies = store.particles[torch.arange(len(store)).repeat_interleave(4)]
    rows = torch.arange(len(store)).repeat_interleave(4)
    turned = replace(copies, rotation=(store.particles.rotation[:, None] @ group).flatten(end_dim=1))
    shutil.copytree(made.folder, tmp_path / "store")
    write_particles(tmp_path / "store", turned, BOX, PIXEL, store.half[rows].numpy(), store.image[rows].numpy())
    expanded = summed(open_store(tmp_path / "store"), Options()).cells
    once = summed(store, Options(symmetry="D2")).cells
    first, second = (divide(Sums(cells, BOX, 2)) for cells in (expanded, once))
    assert torch.allclose(first, second, atol=1e-3 * float(second.abs().max()))
