"""Ring sums against the full transform, correlations of known signals."""

import numpy as np
import pytest
import torch

from gaussemble.physics.fourier import to_fourier
from gaussemble.physics.rings import (
    resolution,
    ring_correlation,
    ring_index,
    ring_means,
    ring_sums,
    shell_correlation,
    shell_power,
    spread,
)


@pytest.mark.parametrize("box", [16, 17])
def test_half_transform_sums_are_the_full_transform_s(generator, box):
    image = torch.randn(box, box, generator=generator, dtype=torch.float64)
    full = np.abs(np.fft.fft2(image.numpy())) ** 2
    axis = np.fft.fftfreq(box, 1 / box)
    radius = np.floor(np.hypot(axis[:, None], axis[None, :]) + 0.5)
    expected = [full[radius == ring].sum() for ring in range(box // 2 + 1)]
    assert np.allclose(ring_sums(to_fourier(image).abs().square(), box), expected)


def test_correlation_is_one_with_itself_minus_one_inverted_and_blind_to_scale(generator):
    transform = to_fourier(torch.randn(3, 16, 16, generator=generator))
    assert torch.allclose(ring_correlation(transform, 2 * transform, 16), torch.ones(3, 9), atol=1e-5)
    assert torch.allclose(ring_correlation(transform, -transform, 16), -torch.ones(3, 9), atol=1e-5)


def test_white_noise_has_flat_power(generator):
    power = to_fourier(torch.randn(400, 16, 16, generator=generator)).abs().square()
    # variance of each unnormalised coefficient is the number of pixels; rings hold >= 400 draws
    assert torch.allclose(ring_means(power, 16).mean(0)[1:], torch.full((8,), 256.0), rtol=0.1)


def test_spread_puts_each_ring_in_its_place():
    laid = spread(torch.arange(9.0), 16)
    index = ring_index(16)
    assert torch.equal(laid[index <= 8], index[index <= 8].float())
    assert laid[index > 8].abs().max() == 0


def test_shell_correlation_knows_signal_from_noise(generator):
    signal = torch.randn(24, 24, 24, generator=generator)
    noise = [torch.randn(24, 24, 24, generator=generator) for _ in range(2)]
    # equal variances of signal and noise in each half: FSC = 1 / 2 (van Heel & Schatz 2005)
    fsc = shell_correlation(signal + noise[0], signal + noise[1])
    assert fsc[4:].mean() == pytest.approx(0.5, abs=0.05)
    assert shell_power(signal)[3:].mean() == pytest.approx(24**3, rel=0.05)


def test_resolution_is_interpolated():
    frequency = torch.tensor([0.0, 0.1, 0.2, 0.3])
    assert resolution(torch.tensor([1.0, 0.9, 0.1, 0.0]), frequency, 0.5) == pytest.approx(1 / 0.15)
    assert resolution(torch.tensor([1.0, 0.9, 0.8, 0.7]), frequency, 0.5) == pytest.approx(1 / 0.3)
    assert resolution(torch.tensor([1.0, 0.2, 0.9, 0.9]), frequency, 0.5) == pytest.approx(1 / 0.1)
