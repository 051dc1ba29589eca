"""Projections of Gaussian mixtures in Fourier space, and their maps.

The separable form (Chen, Toader & Lederman 2023, "Memory efficient implementation of GMM"): a Gaussian's transform
is a factor along x times a factor along y, so a projection is one product of a (y, N) and an (N, x) matrix. Nothing of
size N y x is ever held; backward makes the factors again instead of storing them.
"""

import math
from typing import Literal

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from gaussemble.physics.fourier import axis_frequencies
from gaussemble.physics.spreading import choose_grid, spread, spread_tangents
from gaussemble.quantities import Mixture

Engine = Literal["auto", "separable", "spreading"]


def _factor(position: Tensor, width: Tensor, frequency: Tensor, amplitude: Tensor | None = None) -> Tensor:
    """One axis of a Gaussian, `a exp(-2 pi² s² k²) exp(-2 pi i k x)`: (image, N) and (k,) to (image, N, k)."""
    magnitude = torch.exp((-2 * math.pi**2 * width.square()).unsqueeze(-1) * frequency.square())
    if amplitude is not None:
        magnitude = magnitude * amplitude.unsqueeze(-1)
    angle = (-2 * math.pi * position).unsqueeze(-1) * frequency
    return torch.complex(magnitude * torch.cos(angle), magnitude * torch.sin(angle))


class _SeparableProjection(torch.autograd.Function):
    """F[ky, kx] = sum_n Y[n, ky] X[n, kx] of (image, N) positions, amplitudes and widths."""

    @staticmethod
    def forward(ctx, x, y, amplitude, width, frequency_x, frequency_y):
        ctx.save_for_backward(x, y, amplitude, width, frequency_x, frequency_y)
        factor_x = _factor(x, width, frequency_x)
        factor_y = _factor(y, width, frequency_y, amplitude)
        return factor_y.mT @ factor_x

    @staticmethod
    def backward(ctx, *gradients):
        """With W the gradient (dL = Re sum conj(W) dF), dL/dp = Re sum_k T dfactor/dp for each separable factor."""
        (gradient,) = gradients
        x, y, amplitude, width, frequency_x, frequency_y = ctx.saved_tensors
        factor_x = _factor(x, width, frequency_x)
        factor_y = _factor(y, width, frequency_y)
        # along y: how the loss answers to each (n, ky); the amplitude sits outside both factors here
        along_y = (factor_x @ gradient.conj().mT) * factor_y
        along_x = (factor_y @ gradient.conj()) * factor_x
        minus_two_pi = -2 * math.pi
        # Re(-2 pi i k T) = 2 pi k Im(T)
        gradient_x = -minus_two_pi * amplitude * (along_x.imag @ frequency_x)
        gradient_y = -minus_two_pi * amplitude * (along_y.imag @ frequency_y)
        gradient_amplitude = along_y.real.sum(-1)
        spread = along_x.real @ frequency_x.square() + along_y.real @ frequency_y.square()
        gradient_width = -4 * math.pi**2 * amplitude * width * spread
        return gradient_x, gradient_y, gradient_amplitude, gradient_width, None, None


def _tracked(*parts: Mixture | Tensor) -> bool:
    """Whether gradients of any of these are asked for."""
    tensors = [(part,) if isinstance(part, Tensor) else (part.center, part.amplitude, part.width) for part in parts]
    return torch.is_grad_enabled() and any(one.requires_grad for each in tensors for one in each)


def project_tangents(
    mixture: Mixture,
    tangents: list[Mixture],
    rotation: Float[Tensor, "image 3 3"],
    box: int,
    pixel_size: float,
    engine: Engine = "auto",
) -> Complex[Tensor, "image tangent y half_x"]:
    """Derivatives of `project` along changes of centres, amplitudes and widths (each image its own mixture).

    Themselves differentiable by the separable engine only, which `auto` takes where gradients are asked for.
    """
    views = rotation[:, :2, :].mT.to(mixture.center.dtype)
    place = mixture.center @ views
    exact = engine == "separable" or place.is_cuda or _tracked(mixture, rotation, *tangents)
    grid = None if exact else choose_grid(mixture, box, pixel_size)
    if grid is not None and place.isfinite().all():
        rates = [(tangent.center @ views, tangent) for tangent in tangents]
        return spread_tangents(place, mixture, rates, box, pixel_size, grid)
    x, y = place.unbind(-1)
    frequency_y, frequency_x = axis_frequencies(box, pixel_size, x.dtype, x.device)
    factor_x = _factor(x, mixture.width, frequency_x)
    factor_y = _factor(y, mixture.width, frequency_y)
    weighted_y = mixture.amplitude[..., None] * factor_y
    derivatives = []
    for tangent in tangents:
        along_x, along_y = (tangent.center @ views).unbind(-1)
        spread = (-4 * math.pi**2 * mixture.width * tangent.width)[..., None]
        rate_x = torch.complex(spread * frequency_x.square(), -2 * math.pi * along_x[..., None] * frequency_x)
        rate_y = torch.complex(spread * frequency_y.square(), -2 * math.pi * along_y[..., None] * frequency_y)
        change_y = torch.addcmul(tangent.amplitude[..., None] * factor_y, weighted_y, rate_y)
        derivatives.append(change_y.mT @ factor_x + weighted_y.mT @ (factor_x * rate_x))
    return torch.stack(derivatives, dim=1)


def project(
    mixture: Mixture,
    rotation: Float[Tensor, "image 3 3"],
    box: int,
    pixel_size: float,
    engine: Engine = "auto",
) -> Complex[Tensor, "image y half_x"]:
    """Half transforms of centred projections, before CTF and shift; differentiable in the mixture and the rotations.

    One mixture serves all images, or each image has its own. `box` and `pixel_size` choose the band: a smaller box
    with a larger pixel over the same field of view gives the same low-frequency coefficients.

    The engine: `separable` is exact; `spreading`, within its tolerance of that and on a CPU much quicker, is taken
    where it can be (float32, widths that a grid can hold); `auto` takes it on a CPU and not on a GPU, where nobody has
    measured which is the quicker.
    """
    mixture = mixture.expand(len(rotation))
    dtype, device = mixture.center.dtype, mixture.center.device
    place = mixture.center @ rotation[:, :2, :].to(dtype).mT
    spreads = engine == "spreading" or (engine == "auto" and not place.is_cuda)
    grid = choose_grid(mixture, box, pixel_size) if spreads else None
    if grid is not None and place.detach().isfinite().all():
        return spread(place, mixture, box, pixel_size, grid)
    x, y = place.unbind(-1)
    frequency_y, frequency_x = axis_frequencies(box, pixel_size, dtype, device)
    return _SeparableProjection.apply(x, y, mixture.amplitude, mixture.width, frequency_x, frequency_y)


def shift_phases(shift: Float[Tensor, "image 2"], box: int, pixel_size: float) -> Complex[Tensor, "image y half_x"]:
    """exp(2 pi i k.t): puts a centred projection where the particle stands in its image; its conjugate centres it."""
    frequency_y, frequency_x = axis_frequencies(box, pixel_size, shift.dtype, shift.device)
    angle_x = 2 * math.pi * shift[:, 0, None] * frequency_x
    angle_y = 2 * math.pi * shift[:, 1, None] * frequency_y
    along_x = torch.polar(torch.ones_like(angle_x), angle_x)
    along_y = torch.polar(torch.ones_like(angle_y), angle_y)
    return along_y[:, :, None] * along_x[:, None, :]


def mixture_to_map(mixture: Mixture, box: int, pixel_size: float) -> Float[Tensor, "box box box"]:
    """Density of one mixture on the voxel grid: `sum_j a_j pixel³ N(x; c_j, s_j)` sampled at the voxels' centres.

    Sampling, unlike projecting, does not band-limit: widths below about 0.7 voxels alias.
    """
    grid = (torch.arange(box, dtype=mixture.center.dtype, device=mixture.center.device) - box // 2) * pixel_size
    norm = pixel_size / (math.sqrt(2 * math.pi) * mixture.width)
    offset = grid[None, :, None] - mixture.center[:, None, :]
    factor = norm[:, None, None] * torch.exp(-0.5 * (offset / mixture.width[:, None, None]).square())
    factor_x, factor_y, factor_z = factor.unbind(-1)
    in_plane = (factor_y[:, :, None] * factor_x[:, None, :]).flatten(start_dim=1)
    return ((mixture.amplitude[:, None] * factor_z).mT @ in_plane).reshape(box, box, box)
