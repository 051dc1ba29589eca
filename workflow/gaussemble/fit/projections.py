"""The masked map as projections inside a band, and the fit of a mixture to them.

What is minimised is the Fourier ring correlation's distance from 1, as in Chen, Toader & Lederman (2023), its root mean
square over the rings: the worst ones count most, since all shall reach the target. It does not see a ring's amplitude,
which positive Gaussians cannot have where a map is sharpened: its ripples go below zero. So amplitudes count too, but
less: the error relative to the map's power, and to that of each ring, at a tenth.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor
from torch.optim import Adam
from torch.optim.lr_scheduler import OneCycleLR

from gaussemble.fit.parameters import MixtureParameters
from gaussemble.fit.restraints import Restraints, penalty
from gaussemble.physics.backprojection import project_map
from gaussemble.physics.band_limited import band_limited_map
from gaussemble.physics.fourier import band_box, crop_transform, resample_3d
from gaussemble.physics.masks import masked_correlation
from gaussemble.physics.projection import project
from gaussemble.physics.rings import ring_index, ring_means, ring_multiplicity, ring_sums, spread
from gaussemble.physics.rotations import random_rotations
from gaussemble.progress import progress
from gaussemble.quantities import Map, Mixture

VIEWS = 600  # projections of the map, drawn once: several times more than a map of 100 voxels has independent ones
BATCH = 8  # many steps of few views go farther than few steps of many
MARGIN = 2  # rings beyond the resolution that are fitted too: the mask mixes them with those that are judged
BETAS = (0.7, 0.9)  # short memories: with Adam's usual second one, 0.999, the error was four times as large
AMPLITUDES = 0.1  # weight of amplitudes beside the correlation's: with 1 a sharpened map was matched at 0.92, not 0.95
WARM_UP = 0.1  # of a round's steps: the moments of the gradients are not known at first


@dataclass(frozen=True)
class Schedule:
    """How a round is fitted."""

    steps: int
    learning_rate: float  # of positions in voxels; other parameters in proportion
    restraint: float  # 1/Å², weight of the restraints' squares against the relative error
    seed: int


@dataclass(frozen=True)
class Target:
    """What the mixture shall be like: a map and its mask, cut to the band that is fitted, and views of their product.

    Outside the band nothing is asked of the mixture.
    """

    density: Float[Tensor, "z y x"]
    mask: Float[Tensor, "z y x"]
    pixel_size: float  # Å, of the band
    voxel: float  # Å, of the map as given
    finest: float  # Å
    rotation: Float[Tensor, "view 3 3"]
    views: Complex[Tensor, "view y half_x"]

    @property
    def box(self) -> int:
        """Voxels along one edge."""
        return self.density.shape[-1]

    @property
    def share(self) -> float:
        """Of the voxels of the map as given; amplitudes are sums over those, and cutting keeps densities, not sums."""
        return (self.voxel / self.pixel_size) ** 3

    @property
    def field(self) -> float:
        """Å along one edge."""
        return self.box * self.pixel_size

    def rings(self, resolution: float) -> int:
        """The last ring up to a resolution in Å; the first where none reaches it."""
        return min(max(1, int(self.field / resolution * (1 + 1e-6))), self.box // 2)

    def drawn(self, mixture: Mixture) -> Float[Tensor, "z y x"]:
        """A mixture on the band's voxels, with the density that it has on those of the map as given."""
        return self.share * band_limited_map(mixture, self.box, self.pixel_size)


def make_target(density: Map, mask: Float[Tensor, "z y x"], finest: float, seed: int) -> Target:
    """The map cut to a little beyond the resolution (Å), and random views of it inside the mask."""
    field = density.box * density.pixel_size
    box = band_box(density.box, density.pixel_size, 1 / (1 / finest + 2 * MARGIN / field))
    cut, cut_mask, masked = (
        resample_3d(voxels.float(), density.pixel_size, box, field / box)
        for voxels in (density.voxels, mask, density.voxels * mask)
    )
    rotation = random_rotations(VIEWS, torch.Generator().manual_seed(seed)).float()
    # Cutting keeps densities, so that fewer voxels sum to less; a mixture's unit is the sum over the map's own voxels.
    views = (density.box / box) ** 3 * project_map(masked, rotation)
    return Target(cut, cut_mask, field / box, density.pixel_size, finest, rotation, views)


def correlation(mixture: Mixture, target: Target) -> Float[Tensor, " ring"]:
    """FSC of the mixture's map and the map inside the mask, of the rings of the band."""
    return masked_correlation(target.drawn(mixture), target.density, target.mask)


def fit_round(
    parameters: MixtureParameters,
    target: Target,
    resolution: float,
    schedule: Schedule,
    restraints: Restraints | None = None,
) -> float:
    """Fit to the views up to a resolution (Å) by Adam; returns the mean relative error of the last tenth of the steps.

    The parameters stay on their device.
    """
    device = parameters.seed_center.device
    goal = make_goal(target, resolution, device)
    kept = restraints.to(device) if restraints is not None and schedule.restraint else None
    generator = torch.Generator().manual_seed(schedule.seed)
    optimizer, rates = make_optimizer(parameters, schedule)
    errors = []
    for _ in progress(range(schedule.steps), "neutral"):
        chosen = torch.randint(len(goal.rotation), (BATCH,), generator=generator).to(device)
        loss, error = goal.loss(parameters(), chosen)
        errors.append(error.detach())
        if kept is not None:
            loss = loss + schedule.restraint * penalty(parameters.unique().center, kept)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rates.step()
    return float(torch.stack(errors[-max(1, len(errors) // 10) :]).mean())


@dataclass(frozen=True)
class Goal:
    """The views inside the band of one round, and what a mixture's projections are judged by."""

    rotation: Float[Tensor, "view 3 3"]
    views: Complex[Tensor, "view y half_x"]
    pixel_size: float  # Å, of the band
    last: int  # ring
    per_ring: Float[Tensor, "y half_x"]  # weights: the mean over rings of the relative error
    plain: Float[Tensor, "y half_x"]  # weights: the relative error of all rings together

    def loss(self, mixture: Mixture, chosen: Int[Tensor, " view"]) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """What is minimised, and the relative error, mean over rings, for some views."""
        views, box = self.views[chosen], self.views.shape[-2]
        predicted = project(mixture, self.rotation[chosen], box, self.pixel_size)
        squares = (predicted - views).abs().square()
        error, plain = ((weight * squares).sum((-2, -1)).mean() for weight in (self.per_ring, self.plain))
        # 2 (1 - c) is the relative error of a ring whose amplitude is the map's
        distance = 2 * (1 - pooled_correlation(predicted, views, self.last))
        worst = (distance.square().mean() + 1e-10).sqrt()  # whose gradient is finite at 0 too
        return worst + AMPLITUDES * (error + plain), error


def make_goal(target: Target, resolution: float, device: torch.device) -> Goal:
    """The target's views up to a little beyond a resolution (Å)."""
    last = min(target.rings(resolution) + MARGIN, target.box // 2 - 1)
    box = min(target.box, 2 * (last + 1))
    views = crop_transform(target.views, box).to(device)
    inside = spread((torch.arange(box // 2 + 1, device=device) <= last).float(), box)
    plain = ring_multiplicity(box).to(device) * inside
    plain = plain / (plain * views.abs().square()).sum((-2, -1)).mean()
    return Goal(target.rotation.to(device), views, target.field / box, last, ring_weights(views, box, last), plain)


def pooled_correlation(
    predicted: Complex[Tensor, "view y half_x"], views: Complex[Tensor, "view y half_x"], last: int
) -> Float[Tensor, " ring"]:
    """Fourier ring correlation from ring 1 to the last, each over all views at once; 0 where a ring has no power."""
    box = views.shape[-2]
    values = ((predicted.conj() * views).real, predicted.abs().square(), views.abs().square())
    cross, power, wanted = (ring_sums(value.sum(0), box)[1 : last + 1] for value in values)
    # a mixture much too wide has no power left in fine rings, where the root's gradient would be infinite
    return cross / ((power + 1e-12 * wanted).sqrt() * wanted.sqrt()).clamp(min=1e-30)


def make_optimizer(parameters: MixtureParameters, schedule: Schedule) -> tuple[Adam, OneCycleLR]:
    """Adam whose rate rises over the first steps and falls to nothing as a cosine.

    A decoder's hidden layers, which all Gaussians share, go at a hundredth of the rate.
    """
    named = list(parameters.named_parameters())
    hidden = [value for name, value in named if ".body." in name]
    groups: list[dict] = [
        {"params": [value for name, value in named if ".body." not in name], "lr": schedule.learning_rate}
    ]
    if hidden:
        groups.append({"params": hidden, "lr": 0.01 * schedule.learning_rate})
    optimizer = Adam(groups, betas=BETAS)
    peaks, total = [group["lr"] for group in groups], schedule.steps + 1
    warm_up = max(WARM_UP, 2 / total)  # one step at least: the scheduler divides by their number
    return optimizer, OneCycleLR(optimizer, peaks, total, pct_start=warm_up, cycle_momentum=False)


def ring_weights(views: Complex[Tensor, "view y half_x"], box: int, last: int) -> Float[Tensor, "y half_x"]:
    """1 / (rings x the ring's mean power) up to the last ring: the weighted squares of the map sum to about 1."""
    power = ring_means(views.abs().square(), box).mean(0)
    inside = torch.arange(box // 2 + 1, device=views.device) <= last
    per_ring = torch.where(inside, 1 / power.clamp(min=float(power.max()) * 1e-12), 0.0)
    members = torch.bincount(ring_index(box).flatten())[: box // 2 + 1].to(views.device)
    return spread(per_ring / members / inside.sum(), box)
