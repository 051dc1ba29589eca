"""How well decoded maps and motions agree with the true structures: areas under FSC curves, captured variance, Å."""

from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial import KDTree
from torch import Tensor

from gaussemble.quantities import Mixture

Measure = Literal["variance", "norm"]


# --- Fourier shell correlation ---------------------------------------------------------------------------------------


def fsc_area(first: Float[Tensor, "z y x"], second: Float[Tensor, "z y x"]) -> float:
    """Area under the FSC curve over frequencies in 1/pixel, as CryoBench takes it (Jeon et al., arXiv 2408.05526).

    Shell i holds i - 1 <= |k| < i in pixels of the transform and stands at i / D; shell 0 is 1; trapezoids over shells
    0 to D/2 - 1. The most, for the same map, is 1/2 - 1/D. It mixes resolution with heterogeneity: beside it belongs
    the area of the consensus map against the same truth.
    """
    curve = shell_curve(first, second)
    return float(torch.trapezoid(curve)) / first.shape[-1]


def shell_curve(first: Float[Tensor, "z y x"], second: Float[Tensor, "z y x"]) -> Float[Tensor, " shell"]:
    """Correlation in the shells of `fsc_area`; 0 where a map has nothing in a shell."""
    box = first.shape[-1]
    one, other = (torch.fft.rfftn(voxels.double()) for voxels in (first, second))
    index, counted = floor_shells(box)
    sums = [
        torch.bincount(index, (counted * product.flatten()), box)[: box // 2 - 1]
        for product in ((one.conj() * other).real, one.abs().square(), other.abs().square())
    ]
    power = (sums[1] * sums[2]).sqrt()
    curve = torch.where(power > 1e-12 * power.max(), sums[0] / power.clamp(min=1e-300), 0.0)
    return torch.cat([torch.ones(1, dtype=curve.dtype), curve])


def floor_shells(box: int) -> tuple[Tensor, Tensor]:
    """floor(|k|) of each coefficient of a half transform, at most box - 1, and how often the whole one has it."""
    full, half = torch.fft.fftfreq(box, 1 / box), torch.fft.rfftfreq(box, 1 / box)
    radius = (full[:, None, None] ** 2 + full[None, :, None] ** 2 + half**2).sqrt()
    index = (radius + 1e-4).floor().long().clamp(max=box - 1)
    once = (half == 0) | (half == box / 2)
    return index.flatten(), torch.where(once, 1.0, 2.0).expand(index.shape).flatten().double()


# --- captured variance -----------------------------------------------------------------------------------------------


class Captured(NamedTuple):
    """Percentages: of the truth's variation inside the found maps' subspace, of the found's inside the truth's."""

    recall: float
    precision: float

    @property
    def symmetric(self) -> float:
        """Their mean."""
        return (self.recall + self.precision) / 2


def captured_variance(
    found: Float[Tensor, "map z y x"], truth: Float[Tensor, "state z y x"], rank: int, measure: Measure = "variance"
) -> Captured:
    """Percentage of captured variance (PCV) between two lists of maps.

    Of each list the maps are divided by their norms, the mean is taken away, and the leading `rank` principal
    directions span its subspace E. Recall is `|E_found^T V_truth|² / |V_truth|²` with all of the truth's variation V;
    precision the same the other way round. `norm` is the square root of it, which the Flatiron heterogeneity challenge
    reports (its `captured variance` is a ratio of norms). Values of different numbers of maps or ranks do not compare.
    """
    (found_axes, found_all), (true_axes, true_all) = directions(found, rank), directions(truth, rank)
    shares = [inside(found_axes, true_all), inside(true_axes, found_all)]
    return Captured(*(100 * (share if measure == "variance" else share**0.5) for share in shares))


def directions(maps: Float[Tensor, "map z y x"], rank: int) -> tuple[Tensor, Tensor]:
    """Orthonormal leading directions (rank, voxel), and the normalised maps without their mean (map, voxel)."""
    flat = maps.flatten(start_dim=1)
    flat = flat / flat.norm(dim=1, keepdim=True).clamp(min=1e-30)
    flat = flat - flat.mean(0)
    power, vectors = torch.linalg.eigh((flat @ flat.mT).double())
    power, vectors = power.flip(0)[:rank], vectors.flip(1)[:, :rank]
    real = power > 1e-10 * power[0].clamp(min=1e-30)
    axes = (vectors[:, real] / power[real].sqrt()).to(flat.dtype).mT @ flat
    return axes, flat


def inside(axes: Float[Tensor, "axis voxel"], variation: Float[Tensor, "map voxel"]) -> float:
    """Share of the squared variation that lies in the span of orthonormal axes; 0 where there is none."""
    total = variation.double().square().sum()
    return float((variation @ axes.mT).double().square().sum() / total) if total > 0 else 0.0


# --- motion ----------------------------------------------------------------------------------------------------------


class MotionError(NamedTuple):
    """Root mean squares in Å over Gaussians (by amplitude) and pairs of states."""

    error: float  # decoded displacement minus the true one
    motion: float  # the true displacement: the error of a model in which nothing moves


def motion_error(
    decoded: Mixture, center: Float[np.ndarray, "state bead 3"], reference: int, near: float = 8.0
) -> MotionError:
    """How far Gaussians go astray between a reference state and every other.

    A Gaussian stands for the beads within `near` Å of it in the reference state, or the nearest one, so that its true
    displacement is theirs on average. Gaussians count by their smaller amplitude of the two states: what vanishes does
    not move.

    Args:
        decoded: (state, gaussian) the mixture at each state's latents.
        center: the true structures, of the same states and in the same frame.
        reference: index of the state in which beads are assigned.
        near: Å.
    """
    place, amplitude = decoded.center.double().numpy(), decoded.amplitude.double().clamp(min=0).numpy()
    truth = true_displacement(place[reference], center, reference, near)
    error = np.square(place - place[reference] - truth).sum(-1)
    weight = np.minimum(amplitude, amplitude[reference])
    others = np.arange(len(center)) != reference
    weight, error, square = weight[others], error[others], np.square(truth[others]).sum(-1)
    return MotionError(*(float(np.sqrt((weight * one).sum() / weight.sum())) for one in (error, square)))


def true_displacement(
    place: Float[np.ndarray, "gaussian 3"], center: Float[np.ndarray, "state bead 3"], reference: int, near: float
) -> Float[np.ndarray, "state gaussian 3"]:
    """Mean displacement from the reference state of the beads near each place."""
    tree = KDTree(center[reference])
    nearest = np.asarray(tree.query(place)[1])
    groups = [found or [one] for found, one in zip(tree.query_ball_point(place, near), nearest, strict=True)]
    moved = center - center[reference]
    return np.stack([moved[:, group].mean(1) for group in groups], axis=1)
