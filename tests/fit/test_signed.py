"""Gaussians of negative amplitude: where they come in the neutral fit, and what takes them afterwards."""

import numpy as np
import pytest
import torch

from gaussemble.analysis.models import matter, transition_to_atoms
from gaussemble.errors import InputError
from gaussemble.fit.growth import Round
from gaussemble.fit.neutral import Options, grow, grow_beside, judge, neutral
from gaussemble.fit.parameters import MixtureParameters
from gaussemble.fit.penalties import WanderPenalty
from gaussemble.fit.projections import Target, make_target
from gaussemble.fit.restraints import unrestrained
from gaussemble.fit.signed import out_of_reach, refined
from gaussemble.io.mixtures import read_mixture, write_mixture
from gaussemble.io.mrc import write_map
from gaussemble.model.decoders import anchor_positions
from gaussemble.model.encoders import GaussianEncoder
from gaussemble.model.heterogeneity import DeformableMixture, single_design
from gaussemble.physics.band_limited import band_limited_map
from gaussemble.physics.projection import project
from gaussemble.physics.rotations import random_rotations
from gaussemble.physics.symmetry import operators
from gaussemble.quantities import Map, Mixture
from tiny import BOX, PIXEL, molecule

ONE = operators("C1").float()


def hollow() -> Mixture:
    """The molecule, and solvent far below zero beside it: eight Gaussians of negative amplitude."""
    truth, generator = molecule(), torch.Generator().manual_seed(8)
    dark = truth.center[::3] + 9 * torch.randn(8, 3, generator=generator)
    parts = torch.cat([truth.center, dark]), torch.cat([truth.amplitude, torch.full((8,), -1.6)])
    return Mixture(*parts, torch.full((32,), 6.0))


def mixed(count: int = 6, dtype: torch.dtype = torch.float32) -> Mixture:
    """Gaussians of alternating sign."""
    generator = torch.Generator().manual_seed(2)
    center = 12 * torch.randn(count, 3, generator=generator)
    amplitude = (0.5 + torch.rand(count, generator=generator)) * torch.tensor([1.0, -1.0]).repeat(count // 2)
    return Mixture(center, amplitude, 4 + torch.rand(count, generator=generator)).to(dtype)


@pytest.fixture(scope="module")
def target() -> Target:
    return make_target(Map(band_limited_map(hollow(), BOX, PIXEL), PIXEL), torch.ones(BOX, BOX, BOX), 14.0, 0)


def asked(**values) -> Options:
    return Options(**values)


def seeds(count: int = 8) -> Mixture:
    """Positive Gaussians near some of the molecule's."""
    center = molecule().center[:: 24 // count] + 2.0
    return Mixture(center, torch.full((count,), 2.0), torch.full((count,), 9.0))


@pytest.mark.parametrize("form", ["direct", "decoder"])
def test_parameters_start_at_seeds_of_both_signs_and_keep_the_signs(form):
    seed = mixed()
    parameters = MixtureParameters(seed, max_move=8.0, pixel_size=4.0, form=form)
    with torch.no_grad():
        assert torch.allclose(parameters().amplitude, seed.amplitude, rtol=1e-5)
        for factor in (0.5, 3.0):
            wanted = Mixture(seed.center + 1.0, factor * seed.amplitude, seed.width)
            parameters.start_at(wanted)
            assert torch.allclose(parameters().amplitude, wanted.amplitude, rtol=1e-3)
        parameters.start_at(Mixture(seed.center, -seed.amplitude, seed.width))
        assert torch.equal(parameters().amplitude.sign(), seed.amplitude.sign())


def test_gradients_of_an_image_are_those_of_differences_for_both_signs():
    seed = mixed(4, torch.float64)
    parameters = MixtureParameters(seed, 8.0, 4.0, operators("C2").double()).double()
    view = random_rotations(1, torch.Generator().manual_seed(1)).double()

    def image(values: torch.Tensor) -> torch.Tensor:
        found = torch.func.functional_call(parameters, {"change.values": values}, ())
        return torch.view_as_real(project(found, view, 8, 6.0))

    start = 0.1 * torch.randn(4, 5, generator=torch.Generator().manual_seed(4)).double()
    assert torch.autograd.gradcheck(image, start.requires_grad_())
    values = torch.zeros(4, 5, dtype=torch.float64, requires_grad=True)
    found = torch.func.functional_call(parameters, {"change.values": values}, ())
    (slope,) = torch.autograd.grad(found.amplitude.sum(), values)
    assert torch.equal(slope[:, 3].sign(), seed.amplitude.sign())  # a rising parameter is a stronger Gaussian


def test_widths_are_bounded_where_seeds_are_narrower():
    seed = Mixture(torch.zeros(2, 3), torch.tensor([1.0, -1.0]), torch.tensor([5.0, 20.0]))
    parameters = MixtureParameters(seed, 8.0, 4.0, widest=8.0)
    parameters.change.start_at(torch.tensor([[0.0, 0, 0, 0, 50], [0, 0, 0, 0, 50]]))
    with torch.no_grad():
        assert parameters().width.tolist() == [8.0, 20.0]


def reached(*rows: tuple[int, float], resolution: float = 14.0) -> list[Round]:
    return [Round(count, resolution, low, 20.0, 15.0, 0.0) for count, low in rows]


@pytest.mark.parametrize(
    ("rounds", "most", "expected"),
    [
        (reached((100, 0.80), (200, 0.85)), 400, True),  # one doubling left, at most 0.90
        (reached((100, 0.80), (200, 0.85)), 1600, False),  # three: 1.00
        (reached((100, 0.80), (200, 0.90)), 400, False),  # 1.00
        (reached((100, 0.93), (200, 0.92)), 10**6, True),
        (reached((200, 0.60)), 400, False),  # one number says nothing yet
        (reached((100, 0.50)) + reached((200, 0.85), resolution=10.0), 400, False),
        (reached((200, 0.85), (200, 0.86)), 400, False),
        (reached((200, 0.94)), 399, True),  # no room to double
    ],
)
def test_positive_gaussians_are_given_up_when_the_same_gains_would_not_do(target, rounds, most, expected):
    assert out_of_reach(rounds, target, 0.95, most, 2.0) is expected


def test_new_gaussians_of_both_signs_come_where_map_and_mixture_differ(target):
    """The positive ones are the truth's: what is left are the eight dark ones, in place and mass."""
    truth = hollow()
    found = refined(molecule(), ONE, target, 14.0, 1000, 0)
    assert torch.equal(found.center[:24], molecule().center)
    assert torch.equal(found.amplitude[:24], molecule().amplitude)
    assert len(found) == 36
    new = found.select(torch.arange(24, 36))
    dark = new.select(new.amplitude < 0)
    assert len(dark) >= 9  # k-means of what a low-pass leaves; its ripples are as many positive ones
    near = torch.cdist(dark.center, truth.center[24:]).min(1).values
    assert float((near * dark.amplitude.abs()).sum() / dark.amplitude.abs().sum()) < 8
    assert float(new.amplitude.sum()) == pytest.approx(8 * -1.6, rel=0.1)
    assert len(refined(molecule(), ONE, target, 14.0, 26, 0)) == 26  # no more than allowed
    options = Options(steps=30, rounds=1, amplitudes="signed", most=36)
    after = grow_beside(target, molecule(), unrestrained(), options)[1]
    assert [one.gaussians for one in after][:2] == [24, 36]
    assert after[1].negative > 6


def test_what_positive_gaussians_cannot_draw_signed_ones_do(target, capsys):
    lows = {}
    for name, most in (("positive", 64), ("auto", 48)):
        options = asked(steps=40, most=most, amplitudes=name)
        parameters, rounds = grow(target, seeds(), options)
        lows[name] = max(one.lowest_fsc for one in rounds if one.resolution == target.finest)
        with torch.no_grad():
            found = parameters()
        assert len(found) == most
        judge(rounds, target, options)
        said = capsys.readouterr().err
        if name == "positive":  # although there are more of them
            assert float(found.amplitude.min()) > 0
            assert "and so do negative ones (neutral.amplitudes: auto)" in said
        else:
            assert rounds[-1].negative == int((found.amplitude < 0).sum()) > 0
            assert "positive Gaussians would not reach 0.95; negative ones come beside them" in said
            assert "WARNING" not in said
            # absolute: also what the map has less
            assert float(found.amplitude.sum()) == pytest.approx(float(hollow().amplitude.sum()), rel=0.1)
    assert lows["positive"] < 0.9
    assert lows["auto"] > 0.95


def test_a_map_that_positive_gaussians_draw_gets_no_negative_ones():
    target = make_target(Map(band_limited_map(molecule(), BOX, PIXEL), PIXEL), torch.ones(BOX, BOX, BOX), 14.0, 0)
    first, second = (grow(target, seeds(), asked(steps=60, amplitudes=name)) for name in ("auto", "positive"))
    assert [one.gaussians for one in first[1]] == [one.gaussians for one in second[1]]
    with torch.no_grad():
        assert torch.equal(first[0]().center, second[0]().center)
        assert float(first[0]().amplitude.min()) > 0


def three_fold(mixture: Mixture) -> Mixture:
    """Three copies of a mixture beside the z axis."""
    moved = 0.6 * mixture.center + torch.tensor([30.0, 8.0, 5.0])
    center = torch.einsum("oij,gj->ogi", operators("C3").float(), moved).flatten(end_dim=1)
    return Mixture(center, mixture.amplitude.repeat(3), 0.8 * mixture.width.repeat(3))


def test_beside_a_model_and_under_symmetry_rows_stay_and_copies_are_exact():
    target = make_target(
        Map(band_limited_map(three_fold(hollow()), BOX, PIXEL), PIXEL), torch.ones(BOX, BOX, BOX), 13.0, 0
    )
    unit = three_fold(molecule()).select(torch.arange(24))
    options = Options(steps=60, rounds=1, symmetry="C3", amplitudes="signed", max_move=5.0, most=300)
    parameters, rounds = grow_beside(target, unit, unrestrained(), options)
    assert rounds[-1].lowest_fsc > rounds[0].lowest_fsc + 0.05
    assert rounds[0].negative == 0
    assert rounds[1].negative % 3 == 0
    with torch.no_grad():
        unique, whole = parameters.unique(), parameters()
    assert float((unique.center[:24] - unit.center).abs().max()) <= 5.0
    assert float(unique.amplitude[:24].min()) > 0
    assert float(unique.amplitude.min()) < 0
    turned = torch.einsum("ij,gj->gi", operators("C3")[1].float(), unique.center)
    assert torch.allclose(turned, whole.center[len(unique) : 2 * len(unique)], atol=1e-3)


def test_signed_without_growth_is_refused_in_one_line(tmp_path):
    density = Map(band_limited_map(molecule(), BOX, PIXEL), PIXEL)
    write_map(tmp_path / "map.mrc", density)
    write_map(tmp_path / "mask.mrc", density.with_voxels(torch.ones(BOX, BOX, BOX)))
    write_mixture(tmp_path / "seeds.npz", seeds(), density, grow=np.array(False))
    for options in (asked(amplitudes="signed", resolution=14.0, grow=free) for free in ("auto", "no")):
        with pytest.raises(InputError, match=r"option amplitudes is signed: growth adds .* set grow: yes") as caught:
            neutral(consensus=tmp_path, seeds=tmp_path / "seeds.npz", out=tmp_path / "out", options=options)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_mixture_of_both_signs_comes_back_from_its_file(tmp_path):
    write_mixture(tmp_path / "mixture.npz", mixed(), Map(torch.zeros(8, 8, 8), 2.0))
    assert torch.equal(read_mixture(tmp_path / "mixture.npz").amplitude, mixed().amplitude)


def test_decoders_multiply_amplitudes_of_either_sign():
    model = DeformableMixture(
        single_design(
            gaussians=6, latent_dim=2, inputs=5, hidden=8, layers=1, dropout=0.0, field=60.0, length=5.0, width=True
        ),
        mixed(),
    )
    generator = torch.Generator().manual_seed(5)
    for weight in model.decoders.parameters():
        weight.data += torch.randn(weight.shape, generator=generator)
    with torch.no_grad():
        found = model.decode(3 * torch.randn(50, 2, generator=generator)).amplitude
    ratio = found / mixed().amplitude
    assert float(ratio.min()) >= 0
    assert float(ratio.max()) > 1.5


def test_what_is_as_it_was_may_move_whatever_its_sign():
    seed = mixed()
    moved = Mixture(seed.center[None] + 5.0, seed.amplitude[None].clone(), seed.width[None])
    assert float(WanderPenalty(seed, 1.0)(moved, torch.ones(1))) == 0
    moved.amplitude[:, :2] = 0  # one of each sign
    assert float(WanderPenalty(seed, 1.0)(moved, torch.ones(1))) == pytest.approx(0.5 * 2 * 75)


def test_atoms_anchors_and_descriptions_rest_on_the_molecule():
    seed = mixed(20)
    atom = seed.center[1::2].double().numpy()  # on the negative ones
    transition = transition_to_atoms(atom, seed.center.double().numpy(), 4, None, matter(seed))
    assert set(transition.gaussian.flatten()) <= set(range(0, 20, 2))
    assert np.allclose(transition.weight.sum(1), 1)
    assert matter(Mixture(seed.center, -seed.amplitude.abs(), seed.width)).tolist() == list(range(20))
    anchor = anchor_positions(seed.center, seed.amplitude, 10, 0)
    assert float(torch.cdist(seed.center[::2], anchor).min(1).values.max()) < 1e-3
    encoder = GaussianEncoder(20, 4)
    encoder.start_at(seed)
    assert float(encoder.described[:, 3].abs().max()) < 4  # of a standard deviation, not the logarithm of nothing
