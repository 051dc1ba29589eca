"""What sets a class apart, without what particles make that are no other structure."""

import torch

from gaussemble.analysis.match_curves import without_mask
from gaussemble.analysis.matching import (
    covariance,
    reliability,
    structural,
    weighted,
    without_contrast,
    without_round,
)
from gaussemble.physics.masks import masked_correlation
from gaussemble.physics.rings import shell_correlation

BOX = 24


def blob(x: float, y: float, z: float, width: float) -> torch.Tensor:
    axis = torch.arange(BOX, dtype=torch.float64) - BOX // 2
    distance = (axis[:, None, None] - z) ** 2 + (axis[None, :, None] - y) ** 2 + (axis[None, None, :] - x) ** 2
    return torch.exp(-distance / (2 * width**2))


def molecule() -> torch.Tensor:
    return blob(0, 0, 0, 3) + blob(5, 0, 1, 2) + blob(0, -6, 2, 1.5) + 0.7 * blob(-3, 4, -5, 2)


WHOLE = torch.ones(BOX, BOX, BOX, dtype=torch.float64)


def size(voxels: torch.Tensor) -> float:
    return covariance(voxels, voxels, WHOLE)


def test_a_blurred_and_fainter_copy_is_contrast():
    blurred = weighted(molecule(), torch.linspace(0.8, 0.1, BOX // 2 + 1, dtype=torch.float64))
    left = without_contrast(blurred - molecule(), molecule())
    assert size(left) < 0.01 * size(blurred - molecule())


def test_round_density_is_taken_out_and_nothing_else():
    side = blob(6, 0, 0, 1.5)
    left = without_round(blob(0, 0, 0, 4) + side)
    assert size(without_round(blob(0, 0, 0, 4))) < 0.02 * size(
        blob(0, 0, 0, 4)
    )  # pixels of a shell are not quite alike
    assert size(left) > 0.8 * size(side)


def test_particles_of_something_else_leave_little_and_a_missing_domain_much():
    junk = 3 * blob(0, 0, 0, 5) - molecule()  # its views average to something round
    missing = -blob(5, 0, 1, 2)
    assert size(structural(junk, molecule())) < 0.1 * size(junk)
    assert size(structural(missing, molecule())) > 0.5 * size(missing)


def test_weights_multiply_shells_alone():
    noise = torch.randn(BOX, BOX, BOX, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    half = weighted(noise, torch.full((BOX // 2 + 1,), 0.5, dtype=torch.float64))
    assert torch.allclose(shell_correlation(noise, half), torch.ones(BOX // 2 + 1, dtype=torch.float64))
    assert float(half.std() / noise.std()) < 0.5  # the corners are gone


def test_reliability_is_the_correlation_with_the_truth():
    """Half-maps of signal and noise variance 1 each: FSC 1/2; their mean against the signal: sqrt(2/3)."""
    assert torch.allclose(reliability(torch.tensor([[0.5, -0.1, 1.0]]).numpy()), torch.tensor([2 / 3, 0, 1.0]).sqrt())


def low_pass(voxels: torch.Tensor, last: int) -> torch.Tensor:
    return weighted(voxels, (torch.arange(BOX // 2 + 1) <= last).double())


def test_a_mask_carries_agreement_no_further_than_it_reaches():
    """Maps with one signal up to shell 4 and noise of their own: a sharp mask makes finer shells agree, seemingly."""
    generator = torch.Generator().manual_seed(1)
    signal = low_pass(molecule(), 4)
    maps = [signal + 0.05 * torch.randn(signal.shape, dtype=torch.float64, generator=generator) for _ in range(2)]
    mask = (blob(1, -1, 0, 5) > 0.5).double()
    masked = masked_correlation(maps[0], maps[1], mask)
    corrected = without_mask((maps[0], maps[1]), mask, masked)
    assert float(masked[6:11].mean()) > 0.85  # by the mask alone
    assert float(corrected[6:11].mean()) < 0.3
    assert float(corrected[1:4].min()) > 0.95


def test_what_really_agrees_is_left():
    generator = torch.Generator().manual_seed(1)
    noise = [0.02 * torch.randn(BOX, BOX, BOX, dtype=torch.float64, generator=generator) for _ in range(2)]
    sharp = weighted(molecule(), torch.linspace(1, 8, BOX // 2 + 1, dtype=torch.float64))
    mask = blob(0, 0, 0, 8)
    masked = masked_correlation(sharp + noise[0], sharp + noise[1], mask)
    corrected = without_mask((sharp + noise[0], sharp + noise[1]), mask, masked)
    assert float((corrected - masked)[1:9].abs().max()) < 0.1
