"""The contrast transfer function against hand-made numbers; RELION is its witness elsewhere."""

import math

import pytest
import torch

from gaussemble.physics.ctf import evaluate, wavelength
from gaussemble.physics.fourier import frequencies
from gaussemble.quantities import ContrastTransfer


def one(**changes: float) -> ContrastTransfer:
    """One particle's parameters."""
    values = dict(
        defocus_u=15000.0,
        defocus_v=15000.0,
        defocus_angle=0.0,
        voltage=300e3,
        spherical_aberration=2.7e7,
        amplitude_contrast=0.1,
        phase_shift=0.0,
        b_factor=0.0,
        scale=1.0,
    )
    return ContrastTransfer(**{name: torch.tensor([value]).double() for name, value in (values | changes).items()})


@pytest.mark.parametrize(("voltage", "expected"), [(100e3, 0.037014), (200e3, 0.025079), (300e3, 0.019687)])
def test_wavelengths_are_the_textbook_s(voltage, expected):
    assert float(wavelength(torch.tensor([voltage]).double())[0]) == pytest.approx(expected, rel=1e-4)


def test_it_starts_at_the_amplitude_contrast():
    assert float(evaluate(one(), 32, 2.0)[0, 0, 0]) == pytest.approx(0.1)


def test_first_zero_is_where_the_phase_reaches_pi():
    # chi = pi with Cs = 0: k² = (pi - asin w) / (pi lambda dz)
    electron = 12.2643247 / math.sqrt(300e3 * (1 + 0.978466e-6 * 300e3))
    zero = math.sqrt((math.pi - math.asin(0.1)) / (math.pi * electron * 15000))
    row = evaluate(one(spherical_aberration=0.0), 512, 2.0)[0, 0]
    frequency = torch.fft.rfftfreq(512, 2.0)
    first = int(torch.nonzero(row < 0)[0])
    assert float(frequency[first - 1]) <= zero <= float(frequency[first])


def test_astigmatism_lies_along_its_angle():
    shape = evaluate(one(defocus_u=20000.0, defocus_v=10000.0, defocus_angle=math.radians(30)), 64, 4.0)[0]
    frequency = frequencies(64, 4.0, torch.float64)
    azimuth = torch.atan2(frequency[..., 1], frequency[..., 0])
    along = (azimuth - math.radians(30)).abs() < 0.05
    across = (azimuth - math.radians(30) + math.pi / 2).abs() < 0.05
    assert torch.allclose(
        shape[along], evaluate(one(defocus_u=20000.0, defocus_v=20000.0), 64, 4.0)[0][along], atol=0.1
    )
    assert torch.allclose(
        shape[across], evaluate(one(defocus_u=10000.0, defocus_v=10000.0), 64, 4.0)[0][across], atol=0.1
    )


def test_envelope_and_scale_multiply():
    squared = frequencies(32, 2.0, torch.float64).square().sum(-1)
    expected = 1.5 * evaluate(one(), 32, 2.0)[0] * torch.exp(-80.0 / 4 * squared)
    assert torch.allclose(evaluate(one(scale=1.5, b_factor=80.0), 32, 2.0)[0], expected)
