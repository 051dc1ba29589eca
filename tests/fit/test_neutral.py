"""The neutral fit: a known mixture is found again from its map, in absolute scale and place."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch

from gaussemble.errors import InputError
from gaussemble.fit import projections
from gaussemble.fit.growth import missing_density
from gaussemble.fit.neutral import (
    Options,
    begin,
    consensus_resolution,
    fit_mixture,
    grow,
    grow_beside,
    judge,
    make_parameters,
    neutral,
)
from gaussemble.fit.parameters import MixtureParameters
from gaussemble.fit.projections import AMPLITUDES, Target, make_goal, make_target, pooled_correlation
from gaussemble.fit.restraints import Restraints, bond_angles, distances, geometry, penalty, unrestrained
from gaussemble.io.files import write_csv
from gaussemble.io.mixtures import read_mixture, write_mixture
from gaussemble.io.mrc import read_map, write_map
from gaussemble.physics.band_limited import band_limited_map
from gaussemble.physics.projection import mixture_to_map, project
from gaussemble.physics.rings import shell_correlation
from gaussemble.physics.symmetry import operators
from gaussemble.quantities import Map, Mixture
from tiny import BOX, PIXEL, molecule

FREE = unrestrained()


@pytest.fixture
def density() -> Map:
    return Map(mixture_to_map(molecule(), BOX, PIXEL), PIXEL, (10.0, -20.0, 30.0))


def rough(shift: float = 3.0) -> Mixture:
    """Seeds that stand a few Å off, with wrong amplitudes and widths."""
    truth, generator = molecule(), torch.Generator().manual_seed(1)
    center = truth.center + shift * torch.randn(24, 3, generator=generator)
    return Mixture(center, torch.full((24,), float(truth.amplitude.mean())), torch.full((24,), 8.0))


def whole(density: Map, finest: float = 12.0) -> Target:
    """The map as a target, with a mask that takes all of it."""
    return make_target(density, torch.ones(BOX, BOX, BOX), finest, 0)


def fitted(target: Target, seed: Mixture, options: Options, restraints: Restraints = FREE) -> Mixture:
    parameters, _ = fit_mixture(target, seed, restraints, options)
    with torch.no_grad():
        return parameters()


@pytest.mark.parametrize("finest", [12.0, 20.0, 30.0])
def test_views_of_a_map_cut_to_a_band_are_those_of_its_mixture(density, finest):
    """Scale, place and sign; a cut map's voxels are fewer, and the sum over them must not be."""
    target = whole(density, finest)
    assert target.box < BOX or finest == 12.0
    expected = project(molecule(), target.rotation[:20], target.box, target.pixel_size)[:, : target.box // 2 - 1]
    found = target.views[:20, : target.box // 2 - 1]
    assert float((found - expected).norm() / expected.norm()) < 0.05  # interpolation in the padded transform


@pytest.mark.parametrize("finest", [12.0, 30.0])
def test_missing_density_is_what_gaussians_left_out_would_give(density, finest):
    """In the cut map too, whose voxels are fewer: a mixture of another scale would hide it, or leave all of it."""
    target, truth = whole(density, finest), molecule()
    absent = truth.center[:, 2] > truth.center[:, 2].median()
    expected = target.drawn(truth.select(absent)).clamp(min=0)
    found = missing_density(truth.select(~absent), target, finest)
    nothing = missing_density(truth, target, finest)
    assert float(nothing.sum() / found.sum()) < 0.02
    assert float((found * expected).sum() / (found.norm() * expected.norm())) > 0.95
    assert float(found.sum() / target.share) == pytest.approx(float(truth.amplitude[absent].sum()), rel=0.1)


@pytest.mark.parametrize("steps", [1, 9])
def test_few_steps_and_resolutions_beyond_the_box_are_fitted(density, steps):
    """9 steps and a warm-up of one: the scheduler would divide by zero; no ring reaches 500 Å."""
    found = fitted(whole(density, 500.0), rough(), Options(steps=steps, rounds=1))
    assert torch.isfinite(found.center).all()


@pytest.mark.parametrize("form", ["direct", "decoder"])
def test_parameters_start_at_the_seed(form):
    seed = rough()
    with torch.no_grad():
        start = MixtureParameters(seed, max_move=8.0, pixel_size=4.0, form=form)()
    assert torch.allclose(start.center, seed.center)
    assert torch.allclose(start.amplitude, seed.amplitude, rtol=1e-5)
    assert torch.allclose(start.width, seed.width, rtol=1e-5)


@pytest.mark.parametrize("form", ["direct", "decoder"])
def test_parameters_can_be_set_to_stand_elsewhere(form):
    seed, generator = rough(), torch.Generator().manual_seed(3)
    center = seed.center + 3 * torch.randn(24, 3, generator=generator).clamp(-2, 2)
    wanted = Mixture(center, seed.amplitude * 1.5, seed.width + 2.0)
    parameters = MixtureParameters(seed, max_move=8.0, pixel_size=4.0, form=form)
    for _ in range(2):  # also where they do not stand at the seeds any more
        parameters.start_at(wanted)
        with torch.no_grad():
            found = parameters()
        assert torch.allclose(found.center, wanted.center, atol=1e-3)
        assert torch.allclose(found.amplitude, wanted.amplitude, rtol=1e-3)
        assert torch.allclose(found.width, wanted.width, rtol=1e-3)


def test_the_loss_sees_correlation_and_a_tenth_of_amplitude(density):
    """Nothing at the truth; only amplitudes differ at twice the truth: (2 - 1)² of each of two relative errors."""
    target, chosen = whole(density), torch.arange(600)
    goal, truth = make_goal(target, 14.0, torch.device("cpu")), molecule()
    loss, error = goal.loss(truth, chosen)
    assert float(loss) < 0.02  # views are interpolated
    assert float(error) < 0.01
    double, error = goal.loss(Mixture(truth.center, 2 * truth.amplitude, truth.width), chosen)
    assert float(error) == pytest.approx(1, rel=0.02)
    assert float(double) == pytest.approx(float(loss) + 2 * AMPLITUDES, rel=0.05)
    correlation = pooled_correlation(-3 * goal.views[chosen], goal.views[chosen], goal.last)
    assert torch.allclose(correlation, -torch.ones(goal.last))
    wide = truth.center.clone().requires_grad_()
    loss, _ = goal.loss(Mixture(wide, truth.amplitude, 50 * truth.width), chosen)
    (slope,) = torch.autograd.grad(loss, wide)
    assert torch.isfinite(slope).all()


def test_a_sharpened_map_is_matched_by_its_correlation(monkeypatch):
    """Its ripples go below zero: positive Gaussians have its phases and not the amplitudes of all of its rings."""
    truth = molecule()
    sharp = Mixture(
        torch.cat([truth.center, truth.center]), torch.cat([truth.amplitude, -0.8 * truth.amplitude]),
        torch.cat([truth.width, 1.6 * truth.width]),
    )  # fmt: skip
    target = whole(Map(band_limited_map(sharp, BOX, PIXEL), PIXEL), 12.0)
    lows = []
    for weight in (AMPLITUDES, 1.0):
        monkeypatch.setattr(projections, "AMPLITUDES", weight)
        _, rounds = fit_mixture(target, rough(1.0), FREE, Options(rounds=2, steps=200))
        lows.append(rounds[-1].lowest_fsc)
    assert lows[0] > 0.98
    assert 1 - lows[0] < 0.6 * (1 - lows[1])


def test_the_map_is_explained_in_absolute_terms(density):
    found = fitted(whole(density), rough(), Options(rounds=2, steps=150))
    # rings of equal weight: the total mass is one ring of many, hence the per cent
    assert float(found.amplitude.sum()) == pytest.approx(float(molecule().amplitude.sum()), rel=0.02)
    voxels = band_limited_map(found, BOX, PIXEL)
    assert float((voxels - density.voxels).norm() / density.voxels.norm()) < 0.1
    assert float(shell_correlation(voxels, density.voxels)[:16].min()) > 0.97
    # a shift of half a voxel, or a swapped axis, would be far outside
    center = (found.amplitude[:, None] * found.center).sum(0) / found.amplitude.sum()
    truth = (molecule().amplitude[:, None] * molecule().center).sum(0) / molecule().amplitude.sum()
    assert float((center - truth).norm()) < 0.3


def test_no_gaussian_leaves_its_seed_farther_than_allowed(density):
    seed = rough()
    found = fitted(whole(density, 24.0), seed, Options(rounds=1, steps=40, max_move=1.0))
    assert float((found.center - seed.center).abs().max()) <= 1.0


def test_same_seed_same_mixture(density):
    first, second = (fitted(whole(density, 24.0), rough(), Options(rounds=1, steps=10)) for _ in range(2))
    assert torch.equal(first.center, second.center)


def test_decoder_at_zero_and_direct_parameters_give_the_same_mixture(density):
    """Both stop where the error does; Gaussians that overlap share their mass a little differently."""
    target, seed = whole(density), rough(1.0)
    direct, decoded = (fitted(target, seed, Options(rounds=2, form=form)) for form in ("direct", "decoder"))
    maps = [band_limited_map(found, BOX, PIXEL) for found in (direct, decoded)]
    assert float((maps[0] - maps[1]).norm() / maps[0].norm()) < 0.02
    # seeds stood 1.7 Å off on average
    assert float((direct.center - decoded.center).norm(dim=-1).median()) < 0.5


def test_growth_stops_when_the_map_is_explained(density):
    """From 4 Gaussians of a molecule of 24: more of them and finer, not more than needed."""
    few = Mixture(rough().center[::6], torch.full((4,), 4.0), torch.full((4,), 12.0))
    target = whole(density, 14.0)
    parameters, rounds = grow(target, few, Options(steps=150))
    resolutions, numbers = [one.resolution for one in rounds], [one.gaussians for one in rounds]
    assert resolutions == sorted(resolutions, reverse=True)
    assert resolutions[0] == 50
    assert resolutions[-1] == 14
    assert numbers == sorted(numbers)
    assert rounds[-1].lowest_fsc >= 0.95
    assert 8 <= numbers[-1] <= 64
    with torch.no_grad():
        found = parameters()
    assert len(found) == numbers[-1]
    # to 14 Å of a map that goes on to 12: mass and place, not only correlation
    assert float(found.amplitude.sum()) == pytest.approx(float(molecule().amplitude.sum()), rel=0.03)
    truth = (molecule().amplitude[:, None] * molecule().center).sum(0) / molecule().amplitude.sum()
    assert float(((found.amplitude[:, None] * found.center).sum(0) / found.amplitude.sum() - truth).norm()) < 0.5


def test_growth_keeps_to_its_bound_and_says_what_was_reached(density, capsys):
    few = Mixture(rough().center[::6], torch.full((4,), 4.0), torch.full((4,), 12.0))
    target, options = whole(density, 14.0), Options(steps=60, most=8, target=0.999)
    _, rounds = grow(target, few, options)
    assert max(one.gaussians for one in rounds) <= 8
    judge(rounds, target, options)
    said = capsys.readouterr().err
    assert said.count("WARNING") == 1
    assert "below the target 0.999" in said
    with pytest.raises(InputError, match="option strict: the FSC with the map is"):
        judge(rounds, target, options.model_copy(update={"strict": True}))


def three_fold() -> Mixture:
    """The molecule beside the z axis and its two copies."""
    unit = molecule()
    moved = Mixture(0.6 * unit.center + torch.tensor([30.0, 8.0, 5.0]), unit.amplitude, unit.width)
    group = operators("C3").float()
    center = torch.einsum("oij,gj->ogi", group, moved.center).flatten(end_dim=1)
    return Mixture(center, moved.amplitude.repeat(3), moved.width.repeat(3))


@pytest.mark.parametrize("ordered", [True, False], ids=["copies", "anyhow"])
def test_symmetric_mixtures_are_exactly_symmetric_and_no_worse(ordered):
    density = Map(mixture_to_map(three_fold(), BOX, PIXEL), PIXEL)
    target, generator = whole(density, 14.0), torch.Generator().manual_seed(2)
    near = three_fold().center + torch.randn(72, 3, generator=generator) * (0.5 if ordered else 4.0)
    seed = Mixture(near, torch.ones(72), torch.full((72,), 7.0))
    lows = {}
    for name in ("C1", "C3"):
        options = Options(rounds=2, steps=150, symmetry=name)
        start, kept = begin(seed, FREE, options)
        parameters, rounds = fit_mixture(target, start, kept, options)
        lows[name] = rounds[-1].lowest_fsc
    assert len(start) == 24
    with torch.no_grad():
        found = parameters()
    assert len(found) == 72
    turned = torch.einsum("ij,gj->gi", operators("C3")[1].float(), found.center)
    # the copies are the turned ones themselves, up to their order and float32
    assert float(torch.cdist(turned.double(), found.center.double()).min(1).values.max()) < 1e-3
    assert lows["C3"] >= lows["C1"] - 0.01
    assert lows["C3"] > 0.95


@pytest.mark.parametrize("extra", [0, 5])
def test_the_asymmetric_unit_of_a_model_keeps_its_bonds_and_mass(extra):
    """The first chain's, counted anew; Gaussians on what the model leaves are symmetric to none and cost it nothing."""
    generator = torch.Generator().manual_seed(4)
    model, more = three_fold(), 40 * torch.randn(extra, 3, generator=generator)
    parts = torch.cat([model.center, more]), torch.cat([model.amplitude, torch.full((extra,), 0.3)])
    seed = Mixture(*parts, torch.full((72 + extra,), 5.0))
    bonds = torch.tensor([[start + row, start + row + 1] for start in (0, 24, 48) for row in range(23)])
    kept = Restraints(bonds, torch.zeros(0, 3).long(), distances(seed.center, bonds), torch.zeros(0))
    unit, found = begin(seed, kept, Options(symmetry="C3"))
    assert torch.equal(unit.center[:24], model.center[:24])
    assert len(unit) == 24 + round(extra / 3)
    assert torch.equal(found.bonds, bonds[:23])
    assert torch.allclose(distances(unit.center, found.bonds), found.distance)
    assert float(3 * unit.amplitude.sum()) == pytest.approx(float(seed.amplitude.sum()), rel=1e-4)


def test_an_unknown_group_is_refused(density):
    with pytest.raises(InputError, match="symmetry 'Q3' is not known"):
        make_parameters(rough(), whole(density), Options(symmetry="Q3"))


def test_distances_and_angles_are_those_of_geometry():
    center = torch.tensor([[0.0, 0, 0], [3, 0, 0], [3, 4, 0], [3, 8, 0]], dtype=torch.float64, requires_grad=True)
    bonds, angles = torch.tensor([[0, 1], [1, 2], [2, 3]]), torch.tensor([[0, 1, 2], [1, 2, 3]])
    assert distances(center, bonds).tolist() == [3, 4, 4]
    assert torch.allclose(
        bond_angles(center, angles).detach(), torch.tensor([math.pi / 2, math.pi]).double(), atol=1e-5
    )
    kept = Restraints(bonds, angles, torch.tensor([4.0, 4, 4]).double(), torch.tensor([math.pi / 3, math.pi]).double())
    # one distance of three off by 1 Å; one angle of two by 30 degrees, at 4 Å
    expected = 1 / 3 + (4 * math.pi / 6) ** 2 / 2
    assert float(penalty(center, kept).detach()) == pytest.approx(expected, rel=1e-4)
    penalty(center, kept).backward()
    assert torch.isfinite(center.grad).all()


def test_restraints_keep_the_geometry_while_the_fit_improves():
    """A chain fitted to a map of itself bent and noisy: without restraints its distances scatter."""
    generator, count = torch.Generator().manual_seed(5), 40
    turn = torch.linspace(0, 3.5 * math.pi, count)
    chain = torch.stack([18 * turn.cos(), 14 * turn.sin(), 1.6 * torch.arange(count) - 32], dim=-1)
    bent = chain + torch.stack([0.004 * chain[:, 2] ** 2, torch.zeros(count), torch.zeros(count)], dim=-1)
    voxels = mixture_to_map(Mixture(bent, torch.full((count,), 6.0), torch.full((count,), 4.0)), 40, 3.0)
    noise = 0.05 * float(voxels.max()) * torch.randn(voxels.shape, generator=generator)
    target = make_target(Map(voxels + noise, 3.0), torch.ones(40, 40, 40), 10.0, 0)
    bonds = torch.stack([torch.arange(count - 1), torch.arange(1, count)], dim=-1)
    angles = torch.stack([torch.arange(count - 2), torch.arange(1, count - 1), torch.arange(2, count)], dim=-1)
    kept = Restraints(bonds, angles, distances(chain, bonds), bond_angles(chain, angles))
    seed = Mixture(chain, torch.full((count,), 6.0), torch.full((count,), 4.0))
    shapes, lows = [], []
    for weight in (0.0, 0.3):
        parameters, rounds = fit_mixture(target, seed, kept, Options(rounds=2, steps=150, restraint=weight))
        with torch.no_grad():
            shapes.append(geometry(parameters.unique().center, chain, kept))
        lows.append(rounds[-1].lowest_fsc)
    assert shapes[1]["distance_rmsd"] < 0.3 * shapes[0]["distance_rmsd"]
    assert shapes[1]["angle_rmsd_degrees"] < 0.5 * shapes[0]["angle_rmsd_degrees"]
    # the chain still follows the bend, whose positions are 1.9 Å away (rms)
    assert shapes[1]["position_rmsd"] > 1.0
    with torch.no_grad():
        assert float((parameters.unique().center - bent).norm(dim=-1).square().mean().sqrt()) < 1.0


def consensus_folder(folder, density: Map) -> None:
    """map.mrc, mask.mrc and fsc.csv as the stage consensus leaves them."""
    write_map(folder / "map.mrc", density)
    write_map(folder / "mask.mrc", density.with_voxels(torch.ones(BOX, BOX, BOX)))
    frequency = np.arange(BOX // 2 + 1) / (BOX * PIXEL)
    fsc = np.where(frequency < 1 / 14, 1.0, 0.0)
    columns = {"ring": range(BOX // 2 + 1), "frequency": frequency, "resolution": 0.0, "fsc": fsc, "fsc_masked": fsc}
    write_csv(folder / "fsc.csv", pd.DataFrame(columns))


def test_stage_writes_files_in_the_map_frame(tmp_path, density):
    consensus_folder(tmp_path / "consensus", density)
    write_mixture(tmp_path / "seeds.npz", rough(), density)
    neutral(
        consensus=tmp_path / "consensus",
        seeds=tmp_path / "seeds.npz",
        out=tmp_path / "out",
        options=Options(steps=40, rounds=1),
    )
    stored = np.load(tmp_path / "out/mixture.npz")["center"]
    mixture = read_mixture(tmp_path / "out/mixture.npz")
    # voxel 16 of 6 Å behind an origin at (10, -20, 30)
    assert np.allclose(stored - mixture.center.numpy(), [106, 76, 126], atol=1e-4)
    fitted = read_map(tmp_path / "out/map.mrc")
    assert fitted.origin == pytest.approx(density.origin)
    assert fitted.pixel_size == pytest.approx(PIXEL)
    table = pd.read_csv(tmp_path / "out/fsc.csv")
    assert list(table.columns) == ["ring", "frequency", "resolution", "fsc", "fsc_masked"]
    assert table["fsc"][1:8].min() > 0.9
    assert torch.load(tmp_path / "out/decoder.pt", weights_only=True)["change.values"].shape == (24, 5)
    growth = pd.read_csv(tmp_path / "out/growth.csv")
    columns = ["gaussians", "resolution", "lowest_fsc", "resolution_target", "resolution_0.5", "seconds", "negative"]
    assert list(growth.columns) == columns
    assert growth["gaussians"].tolist() == [24]
    assert json.loads((tmp_path / "out/geometry.json").read_text())["bonds"] == 0


@pytest.mark.parametrize("symmetry", ["C1", "C3"])
def test_new_gaussians_come_beside_a_models_which_keep_order_and_geometry(symmetry):
    """A model of half of what the map holds: the rows of bonds are those of the seeds."""
    truth = three_fold()
    target = whole(Map(mixture_to_map(truth, BOX, PIXEL), PIXEL), 14.0)
    model = truth.select(torch.cat([torch.arange(12) + start for start in (0, 24, 48)]))
    bonds = torch.tensor([[start + row, start + row + 1] for start in (0, 12, 24) for row in range(11)])
    kept = Restraints(bonds, torch.zeros(0, 3).long(), distances(model.center, bonds), torch.zeros(0))
    options = Options(steps=100, rounds=2, symmetry=symmetry, max_move=6.0, target=0.98)
    start, kept = begin(model, kept, options)
    parameters, rounds = grow_beside(target, start, kept, options)
    assert [one.gaussians for one in rounds][:2] == [36, 54]
    assert rounds[-1].lowest_fsc > rounds[0].lowest_fsc + 0.05
    assert rounds[-1].lowest_fsc > 0.95
    with torch.no_grad():
        found = parameters.unique()
    moved = found.center[: len(start)] - start.center
    assert float(moved.abs().max()) <= 6.0
    shape = geometry(found.center[: len(start)], start.center, kept)
    assert shape["distance_rmsd"] < 0.5
    assert float(found.amplitude.min()) > 0


def test_growth_from_a_models_seeds_reports_its_geometry(tmp_path, density):
    consensus_folder(tmp_path, density)
    few = rough().select(torch.arange(4))
    write_mixture(tmp_path / "seeds.npz", few, density, bonds=np.array([[2, 3]]), angles=np.array([[1, 2, 3]]))
    options = Options(steps=20, grow="yes", most=8, resolution=30.0)
    neutral(consensus=tmp_path, seeds=tmp_path / "seeds.npz", out=tmp_path / "out", options=options)
    shape = json.loads((tmp_path / "out/geometry.json").read_text())
    assert (shape["bonds"], shape["angles"]) == (1, 1)
    assert pd.read_csv(tmp_path / "out/growth.csv")["gaussians"].tolist()[:3] == [4, 6, 8]


@pytest.mark.parametrize("symmetry", ["C1", "C3"])
def test_the_start_of_growth_keeps_to_the_bound_too(density, symmetry):
    options = Options(steps=20, most=10, symmetry=symmetry)
    start, _ = begin(rough(), FREE, options)
    parameters, rounds = grow(whole(density, 30.0), start, options)
    assert max(one.gaussians for one in rounds) <= 10
    with torch.no_grad():
        assert float(parameters().amplitude.sum()) == pytest.approx(float(molecule().amplitude.sum()), rel=0.2)


def test_resolution_comes_from_the_corrected_curve(tmp_path, density):
    consensus_folder(tmp_path, density)
    # ring 13 (14.8 Å) is the last at 1, ring 14 (13.7 Å) at 0; 0.143 lies between
    assert 13.7 < consensus_resolution(tmp_path / "fsc.csv") < 14.8
    table = pd.read_csv(tmp_path / "fsc.csv")
    # ring 9 is at 21.3 Å, ring 10 at 19.2 Å
    write_csv(tmp_path / "fsc.csv", table.assign(fsc_corrected=np.where(table["ring"] < 10, 1.0, 0.0)))
    assert 19.2 < consensus_resolution(tmp_path / "fsc.csv") < 21.4


def test_a_mask_of_another_box_is_refused(tmp_path, density):
    consensus_folder(tmp_path, density)
    write_map(tmp_path / "mask.mrc", Map(torch.ones(8, 8, 8), PIXEL))
    with pytest.raises(InputError, match=r"mask\.mrc: box 8, but the map's is 32"):
        neutral(consensus=tmp_path, seeds=tmp_path / "seeds.npz", out=tmp_path / "out", options=Options())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ("mask", r"mask\.mrc: no voxel above 0\.5"),
        ("dark", r"map\.mrc: no positive density inside the mask"),
        ("many", r"seeds\.npz: 24 Gaussians, but .*mask\.mrc holds 8 voxels"),
        ("fine", r"option resolution is 5 Å, but pixels of 6 Å .* hold nothing finer than 12 Å"),
        ("bonds", r"seeds\.npz: array bonds names Gaussian 24, but there are 24"),
    ],
)
def test_wrong_input_is_told_in_one_line(tmp_path, density, spoil, message):
    consensus_folder(tmp_path, density)
    mask = torch.zeros(BOX, BOX, BOX)
    mask[16:18, 16:18, 16:18] = 1
    write_mixture(tmp_path / "seeds.npz", rough(), density)
    if spoil == "mask":
        write_map(tmp_path / "mask.mrc", density.with_voxels(torch.zeros(BOX, BOX, BOX)))
    if spoil == "many":
        write_map(tmp_path / "mask.mrc", density.with_voxels(mask))
    if spoil == "dark":
        write_map(tmp_path / "map.mrc", density.with_voxels(-density.voxels))
    if spoil == "bonds":
        arrays = dict(np.load(tmp_path / "seeds.npz"))
        np.savez(tmp_path / "seeds.npz", **arrays, bonds=np.array([[0, 24]]))
    options = Options(resolution=5.0 if spoil == "fine" else None)
    with pytest.raises(InputError, match=message) as caught:
        neutral(consensus=tmp_path, seeds=tmp_path / "seeds.npz", out=tmp_path / "out", options=options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
