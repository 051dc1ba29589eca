"""Spreading against the exact separable form: its stated errors hold; its gradients are those of what it computes."""

import math

import pytest
import torch

from gaussemble.physics import spreading
from gaussemble.physics.fourier import to_real
from gaussemble.physics.projection import project, project_tangents
from gaussemble.physics.rotations import random_rotations
from gaussemble.physics.spreading import Grid, plan_grid, spread
from gaussemble.quantities import Mixture

PIXEL = 2.0


def some_gaussians(generator, box: int, widths: tuple[float, float], count: int = 50, images: int = 3) -> Mixture:
    """A batch of random mixtures (float64) of these smallest and largest widths in pixels; some lie beyond the box."""
    center = torch.randn(images, count, 3, generator=generator, dtype=torch.float64) * box * PIXEL / 4
    low, high = widths
    share = torch.rand(images, count, generator=generator, dtype=torch.float64)
    share[:, 0], share[:, 1] = 0, 1
    amplitude = torch.rand(images, count, generator=generator, dtype=torch.float64) + 0.5
    return Mixture(center, amplitude, PIXEL * (low + (high - low) * share))


def both_ways(mixture: Mixture, rotation: torch.Tensor, box: int, grid: Grid) -> tuple[torch.Tensor, torch.Tensor]:
    place = mixture.center @ rotation[:, :2].mT
    return spread(place, mixture, box, PIXEL, grid), project(mixture, rotation, box, PIXEL, "separable")


@pytest.mark.parametrize("box", [32, 33, 50])
@pytest.mark.parametrize("widths", [(0.0, 0.3), (0.4, 0.6), (1.2, 1.7), (2.5, 3.5)])
@pytest.mark.parametrize("tolerance", [1e-3, 1e-5, 1e-8])
def test_the_error_stays_below_what_the_plan_says(generator, box, widths, tolerance):
    """Twice the tolerance: aliasing and cut each; below the Nyquist row, which stands for two frequencies.

    A grid that is a half sample off, or transposed, is wrong by about 1.
    """
    mixture, rotation = some_gaussians(generator, box, widths), random_rotations(3, generator)
    grid = plan_grid(*widths, 50, box, tolerance, rounding=1e-15)
    assert grid is not None
    found, exact = both_ways(mixture, rotation, box, grid)
    error = (found - exact).abs()
    if box % 2 == 0:
        error[:, box // 2], error[:, :, box // 2] = 0, 0
    total = mixture.amplitude.sum(-1)[:, None, None]
    assert float((error / total).max()) < 2 * tolerance
    # not by more than needed: a plan of a hundred times the work would also pass
    points = (2 * grid.cut * 3.2 * max(widths[1], 1.0) + 8) ** 2
    assert grid.cost < 50 * (spreading.FIXED_COST + points) + spreading.FFT_COST * (2.5 * box) ** 2


def test_narrow_gaussians_need_the_common_kernel_and_wide_ones_a_coarser_grid():
    narrow, wide = plan_grid(0.1, 0.2, 500, 64), plan_grid(3.0, 4.0, 500, 64)
    assert narrow is not None
    assert wide is not None
    assert narrow.extra > 0
    assert narrow.size > 64
    assert wide.extra == 0
    assert wide.size < 64


@pytest.mark.parametrize("widest", [4.5, 6.5])
def test_a_single_wide_gaussian_leaves_the_others_quick(generator, widest):
    """Those of a sparse mixture, which would all be projected by the slow form if one were too wide to be spread."""
    mixture, rotation = some_gaussians(generator, 44, (0.34, 0.9)), random_rotations(3, generator)
    mixture.width[:, 7] = PIXEL * widest
    grid = plan_grid(0.34, widest, 50, 44)
    assert grid is not None
    found, exact = both_ways(mixture, rotation, 44, grid)
    found[:, 22], found[:, :, 22], exact[:, 22], exact[:, :, 22] = 0, 0, 0, 0
    assert float(((found - exact).abs() / mixture.amplitude.sum(-1)[:, None, None]).max()) < 4e-5


def test_no_plan_where_spreading_is_no_good():
    assert plan_grid(20.0, 30.0, 500, 64) is None  # as wide as the box
    assert plan_grid(0.5, 1.0, 500, 64, tolerance=1e-12) is None  # not with float32's rounding


@pytest.mark.parametrize(("size", "box"), [(16, 16), (19, 19), (18, 13), (20, 12), (16, 21)])
def test_gradients_by_finite_differences(generator, size, box):
    """A cut beyond all rounding, positions at the edges, a grid finer or coarser than the box."""
    grid = Grid(size, 0.4, 9.0, 0.0)
    position = size * torch.rand(2, 5, 2, generator=generator, dtype=torch.float64)
    position[0, 0], position[1, 1, 0] = 0.1, size - 0.1
    amplitude = torch.randn(2, 5, generator=generator, dtype=torch.float64)
    width = 0.7 + 0.5 * torch.rand(2, 5, generator=generator, dtype=torch.float64)
    target = torch.randn(2, box, box // 2 + 1, generator=generator, dtype=torch.complex128)

    def weighted(x, y, amplitude, width):
        return (spreading._Spreading.apply(x, y, amplitude, width, grid, box) - target).abs().square().sum()

    arguments = [part.clone().requires_grad_() for part in (*position.unbind(-1), amplitude, width)]
    assert torch.autograd.gradcheck(weighted, arguments, atol=1e-6)


@pytest.mark.parametrize("widths", [(0.5, 0.9), (1.3, 2.0)])
def test_gradients_agree_with_the_separable_form(generator, widths):
    """All five parameters and the pose, float32, default tolerance: the cut is felt most by widths (cut² times it)."""
    box, images = 48, 3
    mixture, rotation = some_gaussians(generator, box, widths, images=images), random_rotations(images, generator)
    target = torch.randn(images, box, box // 2 + 1, generator=generator, dtype=torch.complex128)
    gradients = []
    for kind, engine in ((torch.float32, "auto"), (torch.float64, "separable")):
        leaves = [part.to(kind).clone().requires_grad_() for part in (mixture.center, mixture.amplitude, mixture.width)]
        pose = rotation.to(kind).clone().requires_grad_()
        predicted = project(Mixture(*leaves), pose, box, PIXEL, engine)  # type: ignore[arg-type]
        residual = (predicted - target)[:, : box // 2, : box // 2]
        residual.abs().square().sum().backward()
        gradients.append([leaf.grad for leaf in (*leaves, pose)])
    for single, exact in zip(*gradients, strict=True):
        assert single.dtype == torch.float32
        assert float((single - exact).abs().max() / exact.abs().max()) < 5e-3


@pytest.mark.parametrize("widths", [(0.2, 0.5), (1.3, 2.0)])
def test_tangents_agree_with_the_separable_form(generator, widths):
    """Of each variable alone and of all together, at the default tolerance; narrow widths need the common kernel."""
    box, images = 48, 3
    mixture, rotation = some_gaussians(generator, box, widths, images=images), random_rotations(images, generator)
    nothing = Mixture(*(torch.zeros_like(part) for part in (mixture.center, mixture.amplitude, mixture.width)))
    moved, faded, wider = (
        torch.randn(part.shape, generator=generator, dtype=part.dtype)
        for part in (mixture.center, mixture.amplitude, mixture.width)
    )
    tangents = [
        Mixture(moved, nothing.amplitude, nothing.width),
        Mixture(nothing.center, faded, nothing.width),
        Mixture(nothing.center, nothing.amplitude, wider),
        Mixture(moved, faded, wider),
    ]
    singles = mixture.to(torch.float32), [tangent.to(torch.float32) for tangent in tangents], rotation.float()
    exact = project_tangents(mixture, tangents, rotation, box, PIXEL, "separable")
    found = project_tangents(*singles, box, PIXEL)
    assert found.dtype == torch.complex64
    for number in range(len(tangents)):  # the Nyquist row and column stand for two frequencies
        one, other = (each[:, number, :, : box // 2].clone() for each in (found, exact))
        one[:, box // 2], other[:, box // 2] = 0, 0
        assert float((one - other).abs().max() / other.abs().max()) < 2e-3


def test_the_number_of_threads_changes_nothing(generator):
    """Nor gradients: threads know nothing of each other's autograd."""
    mixture, rotation = some_gaussians(generator, 32, (1.0, 1.5)).to(torch.float32), random_rotations(3, generator)
    leaves = [part.requires_grad_() for part in (mixture.center, mixture.amplitude, mixture.width)]
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            transform = project(Mixture(*leaves), rotation.float(), 32, PIXEL)
            results.append([transform, *torch.autograd.grad(transform.abs().square().sum(), leaves)])
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(one, other) for one, other in zip(results[0], result, strict=True))


def test_the_exponential_is_one(generator):
    """Through the value at the centre of one Gaussian: a / (2 pi w²) exp(-d² / 2 w²), d and w in samples."""
    grid = Grid(32, 0.0, 4.5, 0.0)
    x = torch.full((1, 1), 10.3)
    transform = spreading._Spreading.apply(x, x + 5, torch.full((1, 1), 2.0), torch.full((1, 1), 1.1), grid, 32)
    image = torch.fft.irfft2(transform)[0]
    expected = 2 / (2 * math.pi * 1.1**2) * math.exp(-((12 - 10.3) ** 2 + (17 - 15.3) ** 2) / (2 * 1.1**2))
    assert float(image[17, 12]) == pytest.approx(expected, rel=3e-6)


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_what_is_not_finite_stays_so_and_reaches_no_memory(generator, wrong):
    mixture, rotation = some_gaussians(generator, 32, (1.0, 1.5)).to(torch.float32), random_rotations(3, generator)
    mixture.center[1, 3, 0] = wrong
    found = project(mixture, rotation.float(), 32, PIXEL)
    assert not found[1].isfinite().all()
    assert found[0].isfinite().all()
    mixture.width[1, 3] = wrong
    assert not project(mixture, rotation.float(), 32, PIXEL)[1].isfinite().all()


def test_far_away_comes_back_periodically(generator):
    """A whole number of fields of view away is the same place for a discrete transform."""
    rotation = torch.eye(3)[None]
    here = some_gaussians(generator, 32, (1.0, 1.5), images=1).to(torch.float32)
    there = Mixture(here.center + torch.tensor([2 * 64.0, -3 * 64.0, 5.0]), here.amplitude, here.width)
    assert torch.allclose(project(here, rotation, 32, PIXEL), project(there, rotation, 32, PIXEL), atol=2e-3)


def test_the_image_is_where_the_separable_form_puts_it(generator):
    mixture, rotation = some_gaussians(generator, 40, (1.2, 1.6)).to(torch.float32), random_rotations(3, generator)
    ways = (project(mixture, rotation.float(), 40, PIXEL, engine) for engine in ("auto", "separable"))
    fast, exact = (to_real(transform, 40) for transform in ways)
    assert not torch.equal(fast, exact)  # the test would compare nothing if auto had not spread
    assert float((fast - exact).abs().max() / exact.abs().max()) < 1e-3


def test_no_images_give_none(generator):
    mixture = some_gaussians(generator, 32, (1.0, 1.5), images=2).to(torch.float32)
    nothing = Mixture(mixture.center[:0], mixture.amplitude[:0], mixture.width[:0])
    assert project(nothing, torch.zeros(0, 3, 3), 32, PIXEL).shape == (0, 32, 17)
