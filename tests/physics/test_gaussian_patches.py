"""The form for GPUs is that of the loops: same samples, same gradients, same transforms; here both run on the CPU."""

import pytest
import torch

from gaussemble.physics import gaussian_patches, spreading
from gaussemble.physics.projection import project
from gaussemble.physics.rotations import random_rotations
from gaussemble.quantities import Mixture

CUT = 7.5  # widths: what is beyond is below 1e-12, and drawn by the one form and not by the other


@pytest.fixture(params=[torch.float64, torch.float32], ids=["double", "single"])
def gaussians(request, generator):
    """x, y, amplitude, width of 3 images in samples of a grid of 30; some stand at its edges."""
    place = 30 * torch.rand(2, 3, 17, generator=generator, dtype=torch.float64)
    place[0, 0, 0], place[1, 1, 1], place[0, 2, 2] = 0.0, 29.99, 15.0
    amplitude = torch.randn(3, 17, generator=generator, dtype=torch.float64)
    width = 0.6 + torch.rand(3, 17, generator=generator, dtype=torch.float64)
    return [part.to(request.param) for part in (*place, amplitude, width)]


def close(found, expected) -> bool:
    limit = 1e-9 if expected.dtype == torch.float64 else 1e-5
    return float((found - expected).abs().max() / expected.abs().max()) < limit


def test_the_samples_are_those_of_the_loops(gaussians):
    assert close(gaussian_patches.add(*gaussians, 30, CUT), spreading._add(*gaussians, 30, CUT))


def test_the_gradients_are_those_of_the_loops(gaussians, generator):
    grid = torch.randn(3, 30, 30, generator=generator, dtype=torch.float64).to(gaussians[0].dtype)
    results = zip(gaussian_patches.gather(grid, *gaussians, CUT), spreading._gather(grid, *gaussians, CUT), strict=True)
    assert all(close(found, expected) for found, expected in results)


def test_adding_and_gathering_are_adjoint(gaussians, generator):
    """The derivative by amplitude is the adjoint of adding, which is linear in it."""
    x, y, amplitude, width = gaussians
    grid = torch.randn(3, 30, 30, generator=generator, dtype=torch.float64).to(x.dtype)
    forth = (grid * gaussian_patches.add(x, y, amplitude, width, 30, 4.0)).sum()
    back = (gaussian_patches.gather(grid, x, y, amplitude, width, 4.0)[2] * amplitude).sum()
    assert float(forth) == pytest.approx(float(back), rel=1e-4 if x.dtype == torch.float32 else 1e-11)


def test_a_few_at_a_time_are_the_same(gaussians, monkeypatch):
    whole = gaussian_patches.add(*gaussians, 30, 4.0)
    monkeypatch.setattr(gaussian_patches, "SAMPLES", 3 * 16**2 * 5)
    assert close(gaussian_patches.add(*gaussians, 30, 4.0), whole)
    held = [part.sample.numel() for part in gaussian_patches.patches(gaussians[0], gaussians[1], gaussians[3], 30, 4.0)]
    assert len(held) > 1
    assert max(held) <= gaussian_patches.SAMPLES


@pytest.mark.parametrize("box", [48, 49])
@pytest.mark.parametrize("widths", [(0.4, 0.6), (1.2, 1.7), (2.5, 3.5)])
def test_projections_and_gradients_through_them(generator, monkeypatch, box, widths):
    """Grids finer, equal and coarser than the box; some Gaussians lie beyond it. 2e-5 each for aliasing and the cut."""
    monkeypatch.setattr(spreading, "_add", gaussian_patches.add)
    monkeypatch.setattr(spreading, "_gather", gaussian_patches.gather)
    center = torch.randn(3, 60, 3, generator=generator) * box / 2
    amplitude = 0.5 + torch.rand(3, 60, generator=generator)
    width = 2 * (widths[0] + (widths[1] - widths[0]) * torch.rand(3, 60, generator=generator))
    leaves = [center, amplitude, width, random_rotations(3, generator).float()]
    target = torch.randn(3, box, box // 2 + 1, generator=generator, dtype=torch.complex64)
    results = []
    for engine, dtype in (("spreading", torch.float32), ("separable", torch.float64)):
        own = [leaf.to(dtype, copy=True).requires_grad_() for leaf in leaves]
        transform = project(Mixture(*own[:3]), own[3], box, 2.0, engine)[:, : box // 2, : box // 2]
        (transform - target[:, : box // 2, : box // 2]).abs().square().sum().backward()
        results.append([transform.detach(), *(leaf.grad for leaf in own)])
    (found, *slopes), (exact, *expected) = results
    assert float(((found - exact).abs().amax((1, 2)) / amplitude.sum(-1)).max()) < 4.2e-5
    for one, other in zip(slopes, expected, strict=True):
        assert float((one - other).abs().max() / other.abs().max()) < 5e-3  # the widths' feel the cut most
