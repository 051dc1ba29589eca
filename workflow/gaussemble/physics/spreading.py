"""Projections of Gaussian mixtures by spreading: each Gaussian is added to the few pixels it covers, then one FFT.

The cost is linear in the number of Gaussians and hardly depends on the box, where the separable form of `projection`
takes (Gaussians x box²). Widths are exact: a Gaussian is its own spreading kernel, as in the Gaussian-gridding
non-uniform FFT (Greengard & Lee 2004), whose common kernel is only added where widths are small for the grid and is
divided out of the transform afterwards.

Two errors, both below `tolerance` times the sum of the absolute amplitudes (`plan_grid` sees to it):
    aliasing   a grid of M samples across the field folds frequency M - k onto k, which the Gaussian has lowered to
               exp(-2 pi² w² (M - k)²), w its width on the grid, in units of the field
    the cut    a Gaussian is added up to `cut` widths from its centre; erfc(cut / sqrt 2) of its sum lies beyond
"""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Complex, Float
from scipy.fft import next_fast_len
from scipy.special import erfcinv
from torch import Tensor

from gaussemble.physics import gaussian_loops, gaussian_patches
from gaussemble.physics.fourier import axis_frequencies
from gaussemble.quantities import Mixture

TOLERANCE = 2e-5  # of F(0); a particle's noise is a thousand times that
ROUNDING = 1e-6  # of float32, in the same unit
COLUMNS = (8, 16, 24, 32, 48, 64, 96, 128)  # pixels along x that a kernel is made for: whole vectors of a processor
# What costs as much as adding one point of a Gaussian: measured, one core
FIXED_COST = 600.0  # points, of a Gaussian however narrow
FFT_COST = 80.0  # points, of a sample of the grid
FEW = 32  # Gaussians, for which the separable form is quick enough
STEP = 1.05  # widths that differ by less than this factor share a plan


@dataclass(frozen=True)
class Grid:
    """Where Gaussians are spread: `size` samples across the field of view, in whose units lengths are."""

    size: int
    extra: float  # width of the common kernel, in samples
    cut: float  # widths from a centre to where it is cut
    cost: float  # of an image, in points of Gaussians


@lru_cache(maxsize=1024)
def plan_grid(
    narrowest: float, widest: float, count: int, box: int, tolerance: float = TOLERANCE, rounding: float = ROUNDING
) -> Grid | None:
    """The cheapest grid for so many Gaussians; None where they are too wide, or the tolerance too small, to spread.

    Args:
        narrowest: smallest standard deviation, in pixels of the box.
        widest: largest, likewise.
        count: Gaussians an image.
        box: rows of the transform that is wanted; frequencies up to its Nyquist count.
        tolerance: of aliasing and cut, each, in units of the sum of the amplitudes.
        rounding: of sums in the number type, in the same unit.
    """
    best, least = None, math.inf
    for size in {int(next_fast_len(round(box * factor / 20), True) or 0) for factor in range(8, 45)}:
        scale, edge = size / box, min(box / size, 1.0) / 2  # samples a pixel; the highest frequency, in 1/sample
        # alias: (w² + e²) (1 - edge)² - e² edge² >= -ln(tolerance) / 2 pi², w the width and e the extra, in samples
        needed = -math.log(tolerance) / (2 * math.pi**2) - (narrowest * scale * (1 - edge)) ** 2
        if needed > 0 and edge == 0.5:
            continue
        extra = math.sqrt(max(needed, 0.0) / (1 - 2 * edge)) if needed > 0 else 0.0
        gain = math.exp(2 * (math.pi * extra * edge) ** 2)  # of errors, when the extra width is divided out
        if gain**2 * rounding > tolerance:  # of both axes, in the corners
            continue
        cut = math.sqrt(2) * float(erfcinv(tolerance / gain))
        reach = 2 * cut * math.hypot(widest * scale, extra)
        columns = next((columns for columns in COLUMNS if columns >= reach), math.inf)
        if columns > 2 * size:  # the margins would reach round the field more than once
            continue
        cost = count * (FIXED_COST + columns * reach) + FFT_COST * size**2
        if cost < least:
            best, least = Grid(size, extra, cut, cost), cost
    return best


def _each(function: Callable[..., Any], *arrays: Any) -> None:
    """Run a loop over images in as many threads as torch has; tensors are cut into each thread's own images."""
    images = len(arrays[0])
    bounds = np.linspace(0, images, min(torch.get_num_threads(), images) + 1).astype(int).tolist()

    def run(first: int, last: int) -> None:
        function(*(array.detach()[first:last].numpy() if isinstance(array, Tensor) else array for array in arrays))

    if len(bounds) == 2:
        run(0, images)
        return
    with ThreadPoolExecutor(len(bounds) - 1) as pool:
        list(pool.map(run, bounds[:-1], bounds[1:]))


def _wrap(padded: Float[Tensor, "image row column"], size: int) -> Float[Tensor, "image y x"]:
    """The margins added to the sides that they continue: the field of view is periodic."""
    margin = (padded.shape[-1] - size) // 2
    rows = padded[:, margin : margin + size].clone()
    rows[:, size - margin :] += padded[:, :margin]
    rows[:, :margin] += padded[:, margin + size :]
    grid = rows[..., margin : margin + size].clone()
    grid[..., size - margin :] += rows[..., :margin]
    grid[..., :margin] += rows[..., margin + size :]
    return grid


def _unwrap(grid: Float[Tensor, "image y x"], margin: int) -> Float[Tensor, "image row column"]:
    """The adjoint of `_wrap`: margins that repeat the opposite sides."""
    rows = torch.cat([grid[:, grid.shape[1] - margin :], grid, grid[:, :margin]], dim=1)
    return torch.cat([rows[..., grid.shape[2] - margin :], rows, rows[..., :margin]], dim=2)


def _moved(transform: Complex[Tensor, "image y half_x"], size: int, box: int, forth: bool) -> Tensor:
    """Coefficients of a box from those of a grid of `size` samples, zeros beyond them; back again, the adjoint.

    Of a larger box, without what was the grid's Nyquist, which stands for two frequencies.
    """
    if size == box:
        return transform
    last = min(size, box)
    top, bottom, columns = (last + 1) // 2, last // 2, last // 2 + 1
    if box > size:
        bottom, columns = (size - 1) // 2, top
    target, source = (box, size) if forth else (size, box)
    moved = transform.new_zeros(len(transform), target, target // 2 + 1)
    moved[:, :top, :columns] = transform[:, :top, :columns]
    moved[:, target - bottom :, :columns] = transform[:, source - bottom :, :columns]
    return moved


def _undone(grid: Grid, box: int, like: Complex[Tensor, "*images y half_x"]) -> Float[Tensor, "y half_x"]:
    """What takes the common kernel's width out of a transform of the box, on its device."""
    frequency_y, frequency_x = axis_frequencies(box, grid.size / box, like.real.dtype, like.device)
    return torch.exp(2 * (math.pi * grid.extra) ** 2 * (frequency_y.square()[:, None] + frequency_x.square()))


def _kinds(width: Float[Tensor, "image gaussian"], cut: float) -> tuple[list[tuple[Any, ...]], int]:
    """What the loops are told of each range of widths: the cut, the range's ends, the samples along x; and the margin.

    The ranges have no gaps, and the first and last are open, so that every Gaussian belongs to one.
    """
    least, most = (float(value) for value in torch.aminmax(width))
    first, last = (min(int(np.searchsorted(COLUMNS, 2 * cut * value)), len(COLUMNS) - 1) for value in (least, most))
    ends = [0.0, *(columns / (2 * cut) for columns in COLUMNS[first:last]), math.inf]
    real = width.numpy().dtype.type
    kinds = [
        (real(cut), real(above), real(upto), columns * (0.0,))
        for above, upto, columns in zip(ends[:-1], ends[1:], COLUMNS[first : last + 1], strict=True)
    ]
    return kinds, COLUMNS[last] // 2


def _add(x: Tensor, y: Tensor, amplitude: Tensor, width: Tensor, size: int, cut: float) -> Tensor:
    """Sums of Gaussians (image, N) on periodic grids, by the loops."""
    kinds, margin = _kinds(width, cut)
    arrays = [part.contiguous() for part in (x + margin, y + margin, amplitude, width)]
    padded = x.new_zeros(len(x), size + 2 * margin, size + 2 * margin)
    for kind in kinds:
        _each(gaussian_loops.add, padded, *arrays, *kind)
    return _wrap(padded, size)


def _gather(
    grid: Tensor, x: Tensor, y: Tensor, amplitude: Tensor, width: Tensor, cut: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Derivatives of `sum grid * _add(...)` with respect to the Gaussians' parameters, by the loops."""
    kinds, margin = _kinds(width, cut)
    arrays = [part.contiguous() for part in (x + margin, y + margin, amplitude, width)]
    padded = _unwrap(grid, margin)
    by_x, by_y, by_amplitude, by_width = (torch.empty_like(arrays[0]) for _ in range(4))
    for kind in kinds:
        _each(gaussian_loops.gather, padded, *arrays, *kind, by_x, by_y, by_amplitude, by_width)
    return by_x, by_y, by_amplitude, by_width


class _Spreading(torch.autograd.Function):
    """Half transforms of sums of Gaussians; positions (image, N) in samples of the grid, in [0, size)."""

    @staticmethod
    def forward(ctx, x, y, amplitude, width, grid, box):
        ctx.save_for_backward(x, y, amplitude, width)
        ctx.grid, ctx.box = grid, box
        add = gaussian_patches.add if x.is_cuda else _add
        samples = add(x, y, amplitude, width, grid.size, grid.cut)
        transform = _moved(torch.fft.rfft2(samples), grid.size, box, forth=True)
        return transform * _undone(grid, box, transform) if grid.extra else transform

    @staticmethod
    def backward(ctx, *gradients):
        (gradient,), grid = gradients, ctx.grid
        if grid.extra:
            gradient = gradient * _undone(grid, ctx.box, gradient)
        moved = _moved(gradient, grid.size, ctx.box, forth=False).clone()
        moved[..., 1 : (grid.size + 1) // 2] *= 0.5  # the inverse counts them and their mates
        samples = torch.fft.irfft2(moved, s=(grid.size, grid.size), norm="forward")
        gather = gaussian_patches.gather if samples.is_cuda else _gather
        x, y, amplitude, width = ctx.saved_tensors
        return *gather(samples, x, y, amplitude, width, grid.cut), None, None


def choose_grid(mixture: Mixture, box: int, pixel_size: float) -> Grid | None:
    """The grid for a batch of mixtures; None where spreading cannot be used or is not worth it."""
    widths = mixture.width.detach() / pixel_size
    if widths.dtype != torch.float32 or len(mixture) < FEW or not widths.numel():
        return None
    narrowest, widest = (float(value) for value in widths.abs().aminmax())
    if not 0 <= widest < box:
        return None
    steps = [math.log(max(width, 1e-3)) / math.log(STEP) for width in (narrowest, widest)]
    return plan_grid(STEP ** math.floor(steps[0]), STEP ** math.ceil(steps[1]), len(mixture), box)


def _on_grid(
    place: Float[Tensor, "image gaussian 2"], mixture: Mixture, box: int, pixel_size: float, grid: Grid
) -> tuple[Tensor, Tensor, Tensor, float]:
    """x, y and width of Gaussians in samples of the grid, x and y in [0, size), and the sample in Å."""
    sample = box * pixel_size / grid.size
    place = place / sample
    inside = place - grid.size * torch.floor(place.detach() / grid.size)
    x, y = torch.where(inside < grid.size, inside, 0.0).unbind(-1)  # rounding may give the size itself
    return x, y, ((mixture.width / sample).square() + grid.extra**2).sqrt(), sample


def spread(
    place: Float[Tensor, "image gaussian 2"], mixture: Mixture, box: int, pixel_size: float, grid: Grid
) -> Complex[Tensor, "image y half_x"]:
    """Half transforms of sums of Gaussians at (x, y) from the origin, in Å; they must be finite.

    Within the tolerances of the plan what `projection`'s separable form gives.
    """
    x, y, width, _ = _on_grid(place, mixture, box, pixel_size, grid)
    return _Spreading.apply(x, y, mixture.amplitude, width, grid, box)  # type: ignore[return-value]


@torch.no_grad()
def spread_tangents(
    place: Float[Tensor, "image gaussian 2"],
    mixture: Mixture,
    rates: list[tuple[Tensor, Mixture]],
    box: int,
    pixel_size: float,
    grid: Grid,
) -> Complex[Tensor, "image tangent y half_x"]:
    """Derivatives of `spread` along changes of the places (image, gaussian, 2), amplitudes and widths; not of these."""
    x, y, width, sample = _on_grid(place, mixture, box, pixel_size, grid)
    # the width on the grid is the root of w² + extra²
    share = mixture.width / sample / width
    parts = [(*(moved / sample).unbind(-1), change.amplitude, share * change.width / sample) for moved, change in rates]
    rate = torch.stack([torch.stack(part, dim=-1) for part in parts], dim=1)
    kinds, margin = _kinds(width, grid.cut)
    padded = x.new_zeros(*rate.shape[:2], grid.size + 2 * margin, grid.size + 2 * margin)
    for kind in kinds:
        arrays = (x + margin, y + margin, mixture.amplitude.contiguous(), width, rate)
        _each(gaussian_loops.add_tangents, padded, *arrays, *kind)
    transform = torch.fft.rfft2(_wrap(padded.flatten(0, 1), grid.size))
    transform = _moved(transform, grid.size, box, forth=True).unflatten(0, rate.shape[:2])
    return transform * _undone(grid, box, transform) if grid.extra else transform
