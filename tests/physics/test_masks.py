"""Masks: where they are, that noise does not move them, and what they do to FSC."""

import numpy as np
import pytest
import torch

from gaussemble.physics.fourier import to_fourier_3d
from gaussemble.physics.masks import (
    background,
    corrected_correlation,
    low_pass,
    masked_correlation,
    parts_of_molecule,
    randomised_phases,
    soft_mask,
    soften,
)
from gaussemble.physics.projection import mixture_to_map
from gaussemble.physics.rings import shell_correlation, shell_index, shell_power
from gaussemble.quantities import Mixture

BOX, PIXEL = 48, 3.0


@pytest.fixture
def density() -> torch.Tensor:
    """A rod along x off the centre, with a weak end (a domain that a third of the particles have)."""
    center = torch.tensor([[x, 10.0, -5.0] for x in (-25.0, -15, -5, 5, 15, 25)])
    amplitude = torch.tensor([1.0, 1, 1, 1, 1, 0.35]) * 1000
    return mixture_to_map(Mixture(center, amplitude, torch.full((6,), 5.0)), BOX, PIXEL)


def noisy(density: torch.Tensor, level: float, generator: torch.Generator) -> torch.Tensor:
    """White noise whose standard deviation is `level` times the highest density."""
    return density + level * density.max() * torch.randn(density.shape, generator=generator)


def test_low_pass_halves_at_its_resolution_and_keeps_the_sum(density):
    wave = torch.cos(2 * torch.pi * torch.arange(BOX) / 8).expand(BOX, BOX, BOX).clone()  # period 8 voxels = 24 Å
    assert torch.allclose(low_pass(wave, PIXEL, 24.0), wave / 2, atol=1e-4)
    assert low_pass(density, PIXEL, 20.0).sum().item() == pytest.approx(density.sum().item(), rel=1e-4)


def test_background_is_that_without_the_molecule():
    rng = np.random.default_rng(0)
    mean, deviation = background(np.concatenate([rng.normal(2, 1, 50_000), rng.normal(12, 3, 10_000)]))
    assert mean == pytest.approx(2, abs=0.05)
    assert deviation == pytest.approx(1, abs=0.05)


def test_parts_count_where_they_are_no_crumbs(generator):
    """A rod of 400 voxels, beside it a high block of 8 and a high voxel, and noise that reaches the threshold."""
    smooth = torch.randn(48, 48, 48, generator=generator).numpy()
    smooth[10:14, 10:14, 8:33] = 20.0
    smooth[30:32, 30:32, 30:32] = 8.0
    smooth[36, 36, 36] = 8.0
    smooth[24:26, 24:26, 10:12] = 3.5
    found = parts_of_molecule(smooth > 3.0, smooth)
    expected = np.zeros_like(found)
    expected[10:14, 10:14, 8:33] = expected[30:32, 30:32, 30:32] = True
    assert np.array_equal(found, expected)
    assert not parts_of_molecule(np.zeros((4, 4, 4), bool), np.zeros((4, 4, 4))).any()


def test_a_domain_of_few_particles_without_a_linker_is_in_the_mask(generator):
    """A sixth of the particles have a small domain, 24 Å from the rest: density a twelfth of the body's, low-passed."""
    body = torch.tensor([[x, y, 0.0] for x in (-25.0, -15, -5, 5) for y in (-10.0, 0, 10)])
    center = torch.cat([body, torch.tensor([[32.0, 0, 0]])])
    amplitude = torch.cat([torch.full((len(body),), 1000.0), torch.tensor([1000 / 6])])
    density = mixture_to_map(Mixture(center, amplitude, torch.full((len(center),), 5.0)), BOX, PIXEL)
    mask = soft_mask(noisy(density, 0.02, generator), PIXEL)
    assert mask[BOX // 2, BOX // 2, round(32 / PIXEL) + BOX // 2] == 1


def test_edge_is_a_raised_cosine_after_the_extension():
    body = np.zeros((31, 31, 31), bool)
    body[15, 15, 15] = True
    row = soften(body, extend=3.0, edge=6.0)[15, 15]
    assert torch.all(row[12:19] == 1)
    assert row[21].item() == pytest.approx(0.5, abs=1e-6)  # half of the edge, 6 voxels from the body
    assert row[24] == 0
    assert torch.equal(row, row.flip(0))


@pytest.mark.parametrize("level", [0.0, 0.2, 1.0])
def test_mask_holds_the_molecule_and_little_else(density, level, generator):
    """At any noise from none to as high as the density itself: it is there, whole, and not the box."""
    mask = soft_mask(noisy(density, level, generator), PIXEL)
    assert mask.min() == 0
    assert mask.max() == 1
    assert (density * mask).sum() / density.sum() > 0.97
    assert 0.02 < mask.mean() < 0.2


def test_mask_keeps_the_weak_end(density):
    """x = 25 Å, y = 10 Å, z = -5 Å: the array's axes are z, y, x."""
    mask = soft_mask(density, PIXEL)
    at = [round(position / PIXEL) + BOX // 2 for position in (-5, 10, 25)]
    assert mask[tuple(at)] == 1
    assert mask[tuple(at[::-1])] < 1


def test_mask_does_not_depend_on_scale_and_offset(density, generator):
    map_ = noisy(density, 0.2, generator)
    assert torch.allclose(soft_mask(map_, PIXEL), soft_mask(37 * map_ - 5, PIXEL), atol=0.05)


def test_given_threshold_wins(density):
    assert soft_mask(density, PIXEL, threshold=float(density.max()) / 3).mean() < soft_mask(density, PIXEL).mean()
    with pytest.raises(ValueError, match="no density above"):
        soft_mask(density, PIXEL, threshold=1e9)


def test_edge_is_soft_with_coarse_pixels_too(density):
    """A sharp mask would make FSC of noise."""
    mask = soft_mask(density, PIXEL, edge=0.1)
    assert ((mask > 0.05) & (mask < 0.95)).sum() > 0.5 * (mask > 0.95).sum()
    assert mask.diff(dim=-1).abs().max() < 0.65


def test_masked_correlation_sees_less_noise(density, generator):
    first, second = noisy(density, 0.3, generator), noisy(density, 0.3, generator)
    mask = soft_mask(first + second, PIXEL)
    masked, plain = masked_correlation(first, second, mask), shell_correlation(first, second)
    assert masked[2:8].mean() > plain[2:8].mean() + 0.03
    noise = masked_correlation(first - density, second - density, mask)
    assert noise[4:].abs().max() < 0.4  # noise stays uncorrelated in the mask
    assert noise[8:].mean().abs() < 0.05


def test_random_phases_keep_amplitudes_and_what_is_below(density, generator):
    changed = randomised_phases(density, 8, generator)
    before, after = to_fourier_3d(density), to_fourier_3d(changed)
    below = shell_index(BOX) < 8
    assert torch.allclose(after[below], before[below], atol=1e-3 * float(before.abs().max()))
    assert torch.allclose(shell_power(changed), shell_power(density), rtol=1e-2)
    assert shell_correlation(changed, density)[9:20].abs().max() < 0.4
    assert shell_correlation(changed, density)[1:8].min() > 0.999


def test_correction_takes_off_what_a_mask_makes_of_noise(density, generator):
    """A sharp, tight mask on noise with a little signal below: masked FSC stays high, the corrected one falls."""
    signal = low_pass(density, PIXEL, 30.0)
    first, second = noisy(signal, 0.1, generator), noisy(signal, 0.1, generator)
    tight = (signal > 0.3 * signal.max()).float()
    fsc, masked = shell_correlation(first, second), masked_correlation(first, second, tight)
    randomised, corrected = corrected_correlation(first, second, tight, fsc, masked, generator)
    start = int((fsc[1:] < 0.8).nonzero()[0]) + 1
    assert torch.equal(corrected[: start + 2], masked[: start + 2])
    expected = (masked - randomised) / (1 - randomised)
    assert torch.allclose(corrected[start + 2 :], expected[start + 2 :])
    assert randomised[start + 2 : start + 5].mean() > 0.1  # neighbouring shells leak in through the mask
    assert corrected[start + 2 : start + 8].mean() < masked[start + 2 : start + 8].mean() - 0.05


def test_nothing_is_corrected_where_half_maps_agree_throughout(density, generator):
    mask = torch.ones_like(density)
    fsc = shell_correlation(density, density)
    randomised, corrected = corrected_correlation(density, density, mask, fsc, fsc, generator)
    assert torch.equal(corrected, fsc)
    assert torch.equal(randomised, fsc)
