"""Density fitting that grows: few Gaussians at coarse resolution, more of them and finer until they explain the map.

The method of Chen, Toader & Lederman (2023): 256 Gaussians at 50 Å first; twice as many, the new ones beside the old
where the map is explained worst, until the Fourier shell correlation with the map is above 0.95 everywhere below the
target resolution. Here the number is doubled only where it does not suffice for the resolution of the round, and the
resolution made twice as fine where it does. Beside a model's Gaussians, which stay with their order and restraints, new
ones are added at the finest resolution, half as many as there are.
"""

import time
from dataclasses import astuple, dataclass
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float64
from scipy.spatial import KDTree
from torch import Tensor

from gaussemble.fit.asymmetric import folded, joined
from gaussemble.fit.parameters import MixtureParameters, copied
from gaussemble.fit.projections import Target, correlation
from gaussemble.fit.seeds import BLUR, cluster, widened
from gaussemble.io.atoms import Beads, gather
from gaussemble.physics.masks import low_pass
from gaussemble.physics.rings import resolution, ring_frequencies
from gaussemble.quantities import Mixture

COARSEST = 50.0  # Å, of the first round
OUTSIDE = 0.1  # mask value below which a Gaussian is dropped
FAINT = 0.01  # of the mean amplitude: a Gaussian below it is dropped
GAIN = 0.005  # of the lowest FSC: a doubling that brings less is the last
DOUBLED = 2.0  # times as many Gaussians a round on density alone; no fewer are tried
BESIDE, LEAST_BESIDE = 1.5, 1.1  # times as many Gaussians a round beside those of a model; the least that is tried
AGAIN = 2  # times more, at most, that the last number is fitted: later ones gained 0.005 each and cost as much
EVEN = 0.05  # of the density, which attracts new Gaussians beside what is missing: every part is refined
LLOYD = 3  # rounds of k-means in which old and new centres share the density


@dataclass(frozen=True)
class Round:
    """A row of growth.csv."""

    gaussians: int
    resolution: float  # Å, to which it was fitted
    lowest_fsc: float  # with the map inside the mask, of the rings from 1 up to that resolution
    held: float  # Å, where that FSC falls below the one to reach
    half: float  # Å, where it falls below 0.5
    seconds: float  # since the fit began
    negative: int = 0  # of the Gaussians

    def __str__(self) -> str:
        signs = f" ({self.negative} negative)" if self.negative else ""
        return (
            f"{self.gaussians} Gaussians{signs} fitted to {self.resolution:.1f} Å: FSC with the map at least "
            f"{self.lowest_fsc:.3f} up to there, 0.5 at {self.half:.1f} Å"
        )


def measure(mixture: Mixture, target: Target, fitted: float, wanted: float, start: float) -> Round:
    """How well a mixture that was fitted to a resolution (Å) explains the map; `start`: of the clock."""
    curve, frequency = correlation(mixture, target), ring_frequencies(target.box, target.pixel_size)
    held, half = (resolution(curve, frequency, threshold) for threshold in (wanted, 0.5))
    lowest = float(curve[1 : target.rings(fitted) + 1].min())
    negative = int((mixture.amplitude < 0).sum())
    return Round(len(mixture), fitted, lowest, held, half, time.monotonic() - start, negative)


def table(rounds: list[Round]) -> pd.DataFrame:
    """growth.csv."""
    columns = ["gaussians", "resolution", "lowest_fsc", "resolution_target", "resolution_0.5", "seconds", "negative"]
    return pd.DataFrame([astuple(one) for one in rounds], columns=columns)


def next_step(
    rounds: list[Round], target: Target, wanted: float, most: int, least: float = DOUBLED
) -> Literal["finer", "more", "again", "stop"]:
    """The rule of growth: finer when the map is explained so far, else more Gaussians while that helps.

    Where there is no room for `least` times as many, or more did not help, the finest resolution is fitted again as it
    is, twice at most, while that helps.
    """
    now, same = rounds[-1], [one for one in rounds[:-1] if one.resolution == rounds[-1].resolution]
    helped = not same or now.lowest_fsc - same[-1].lowest_fsc >= GAIN
    again = sum(one.gaussians == now.gaussians for one in same)
    if now.lowest_fsc < wanted and helped and not again and least * now.gaussians <= room(target, most):
        return "more"
    if now.resolution > target.finest:
        return "finer"
    return "again" if now.lowest_fsc < wanted and (not again or helped) and again < AGAIN else "stop"


def room(target: Target, most: int) -> int:
    """The most Gaussians that the option and the voxels of the band inside the mask allow."""
    return min(most, int((target.mask > 0.5).sum()))


def enough(rounds: list[Round], wanted: float) -> int | None:
    """Gaussians that would just do, between the last doubling and the round before, by line over their logarithm."""
    if len(rounds) < 2 or rounds[-2].resolution != rounds[-1].resolution:
        return None
    below, above = rounds[-2:]
    if below.gaussians == above.gaussians or not below.lowest_fsc < wanted <= above.lowest_fsc:
        return None
    share = (wanted - below.lowest_fsc) / (above.lowest_fsc - below.lowest_fsc)
    return round(below.gaussians * (above.gaussians / below.gaussians) ** share)


def grown(parameters: MixtureParameters, target: Target, resolution: float, seed: int) -> Mixture:
    """Seeds (of the asymmetric unit) of the next round, to `resolution` Å: about twice as many Gaussians.

    Those that left the mask or faded are dropped. New centres are k-means cells of what the map has more than the
    mixture; they come to stand beside old ones, where density is missing. Then all share the density anew: each becomes
    as heavy and wide as the density nearest to it. (Kept as they were, the old Gaussians held most of the mass and the
    new ones stayed crumbs: with 2,600 of them the FSC was below that of 2,048 that started alike.)
    """
    with torch.no_grad():
        unique, whole = parameters.unique(), parameters()
    kept = copied(unique.select(worth_keeping(unique, target)), parameters.operators).center
    solid = density_of(target)
    missing = missing_density(whole, target, resolution) * (solid > 0) + EVEN * solid
    new = cells_of(missing, target, 2 * len(whole) - len(kept), seed)
    start = np.concatenate([kept.double().numpy(), new.position])
    seeds = as_mixture(shared(solid, target, start), target, resolution)
    return seeds if len(parameters.operators) == 1 else folded(seeds, parameters.operators, seed)


def fewer(mixture: Mixture, target: Target, operators: Float[Tensor, "operator 3 3"], most: int, seed: int) -> Mixture:
    """Seeds (of the asymmetric unit) that keep to a bound: as they are, or so many k-means cells of the map anew."""
    if len(mixture) * len(operators) <= most:
        return mixture
    count = max(1, most // len(operators)) * len(operators)
    cells = as_mixture(cells_of(density_of(target), target, count, seed), target, target.finest)
    return cells if len(operators) == 1 else folded(cells, operators, seed)


def beside(parameters: MixtureParameters, target: Target, resolution: float, most: int, seed: int) -> Mixture:
    """The Gaussians of the asymmetric unit, all of them and in their order, and then half as many new ones.

    New ones stand on k-means cells of what the map has more than the mixture. Then all divide the map anew: each gets
    mass and width of the density nearest to it, and stays where it is.
    """
    with torch.no_grad():
        unique, whole = parameters.unique(), parameters()
    solid = density_of(target)
    missing = missing_density(whole, target, resolution) * (solid > 0) + EVEN * solid
    count = min(round(BESIDE * len(whole)), room(target, most)) - len(whole)
    new = as_mixture(cells_of(missing, target, count, seed), target, resolution)
    unit = joined(unique, new if len(parameters.operators) == 1 else folded(new, parameters.operators, seed))
    share = as_mixture(divided(solid, target, copied(unit, parameters.operators).center), target, resolution)
    return Mixture(unit.center, share.amplitude[: len(unit)], share.width[: len(unit)])  # the identity's copies first


def divided(voxels: Float[Tensor, "z y x"], target: Target, center: Float[Tensor, "gaussian 3"]) -> Beads:
    """Positive density divided among the nearest centres, which stay; idle ones get none."""
    position, value = points_of(voxels, target)
    place = center.double().numpy()
    used, cell = np.unique(np.asarray(KDTree(place).query(position)[1]), return_inverse=True)
    cells = gather(position, value, cell, len(used))
    weight, width = np.zeros(len(place)), np.zeros(len(place))
    weight[used], width[used] = cells.weight, cells.spread
    return Beads(place, weight, width)


def worth_keeping(mixture: Mixture, target: Target) -> Tensor:
    """Which Gaussians lie in the mask and are not faint."""
    index = (mixture.center / target.pixel_size).round().long() + target.box // 2
    within = ((index >= 0) & (index < target.box)).all(-1)
    x, y, z = index.clamp(0, target.box - 1).unbind(-1)
    bright = mixture.amplitude.abs() > FAINT * mixture.amplitude.abs().mean()
    return within & (target.mask[z, y, x] > OUTSIDE) & bright


def missing_density(mixture: Mixture, target: Target, resolution: float) -> Float[Tensor, "z y x"]:
    """What the masked map has more than the mixture, smoothed as a point at this resolution (Å)."""
    rest = target.density * target.mask - target.drawn(mixture)
    return (low_pass(rest, target.pixel_size, resolution) * target.mask).clamp(min=0)


def density_of(target: Target) -> Float[Tensor, "z y x"]:
    """The masked map where it is molecule: above a tenth of its 99th percentile inside the mask."""
    masked = target.density * target.mask
    threshold = 0.1 * float(np.quantile(masked[target.mask > 0.5].numpy(), 0.99))
    return torch.where(masked > max(threshold, 0.0), masked, 0.0)


def points_of(voxels: Float[Tensor, "z y x"], target: Target) -> tuple[np.ndarray, np.ndarray]:
    """Positions (voxel, 3) in Å from the box's origin and values of the positive voxels."""
    position = (torch.nonzero(voxels > 0).flip(-1).double() - target.box // 2) * target.pixel_size
    return position.numpy(), voxels[voxels > 0].double().numpy()


def cells_of(voxels: Float[Tensor, "z y x"], target: Target, count: int, seed: int) -> Beads:
    """So many k-means cells of positive density, at most one on four voxels."""
    position, value = points_of(voxels, target)
    return cluster(position, value, max(1, min(count, len(position) // 4)), seed)


def shared(voxels: Float[Tensor, "z y x"], target: Target, start: Float64[np.ndarray, "center 3"]) -> Beads:
    """Positive density divided among the nearest centres, which follow it for a few rounds; idle ones are left out."""
    position, value = points_of(voxels, target)
    beads = Beads(start, np.ones(len(start)), np.zeros(len(start)))
    for _ in range(LLOYD):
        nearest = np.asarray(KDTree(beads.position).query(position)[1])
        used, cell = np.unique(nearest, return_inverse=True)
        beads = gather(position, value, cell, len(used))
    return beads


def as_mixture(beads: Beads, target: Target, resolution: float) -> Mixture:
    """Beads of voxels as Gaussians, each voxel's extent added, no narrower than a point at the resolution (Å)."""
    wide = widened(beads, BLUR * resolution, target.pixel_size)
    parts = wide.position, wide.weight / target.share, wide.spread
    return Mixture(*(torch.from_numpy(part).float() for part in parts))
