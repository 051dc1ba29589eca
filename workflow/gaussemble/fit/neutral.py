"""The neutral mixture: Gaussians fitted to the consensus map.

It starts at the seeds (the seeds' coordinates are the first fit) and goes on against projections of the map, coarse to
fine, positions locally, amplitudes and widths. Each ring's error is divided by the map's power there, so that fine
rings count as much as coarse ones, as in a Fourier ring correlation, but the absolute scale is fitted too.
"""

from pathlib import Path

import torch
from jaxtyping import Complex, Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from gaussemble.errors import InputError
from gaussemble.fit.devices import DeviceName, choose_device
from gaussemble.io.files import read_csv, write_csv
from gaussemble.io.mixtures import read_mixture, write_mixture, write_pseudo_atoms
from gaussemble.io.mrc import read_map, write_map
from gaussemble.io.tensors import write_tensors
from gaussemble.options import StageOptions
from gaussemble.physics.backprojection import project_map
from gaussemble.physics.fourier import band_box, crop_transform
from gaussemble.physics.projection import mixture_to_map, project
from gaussemble.physics.rings import ring_index, ring_means, spread
from gaussemble.physics.rotations import random_rotations
from gaussemble.prepare.consensus import curve_resolution, fsc_table
from gaussemble.progress import progress, say
from gaussemble.quantities import Map, Mixture

VIEWS = 600  # projections of the map, drawn once: several times more than a map of 100 voxels has independent ones
BATCH = 24


class Options(StageOptions):
    """Options of the neutral fit."""

    resolution: float | None = Field(
        default=None, gt=0, description="Finest resolution to fit, in Å; none: the consensus map's own (FSC 0.143)."
    )
    rounds: int = Field(default=3, ge=1, description="Resolutions from coarse to fine, each twice as fine as the last.")
    steps: int = Field(default=150, ge=1, description="Optimiser steps a round.")
    learning_rate: float = Field(
        default=0.02, gt=0, description="Learning rate of positions in voxels; other parameters in proportion."
    )
    max_move: float = Field(default=8.0, gt=0, description="Farthest from its seed along each axis, in Å.")
    device: DeviceName = Field(default="auto", description="Where to compute: auto takes a GPU when there is one.")
    seed: int = Field(default=0, ge=0, description="Seed of the projection directions.")


class MixtureParameters(nn.Module):
    """A mixture as free parameters: positions near the seed's, amplitudes and widths positive."""

    seed_center: Tensor
    unit: Tensor

    def __init__(self, seed: Mixture, max_move: float, smallest_width: float):
        super().__init__()
        self.max_move, self.smallest_width = max_move, smallest_width
        self.register_buffer("seed_center", seed.center.clone())
        self.move = nn.Parameter(torch.zeros_like(seed.center))
        mean = seed.amplitude.clamp(min=0).mean().clamp(min=1e-12)
        self.register_buffer("unit", mean)
        self.amplitude = nn.Parameter(_inverse_softplus((seed.amplitude / mean).clamp(min=0.05)))
        self.width = nn.Parameter(_inverse_softplus((seed.width - smallest_width).clamp(min=0.05 * smallest_width)))

    def forward(self) -> Mixture:
        """The mixture as it stands."""
        within = self.max_move * torch.tanh(self.move / self.max_move)
        amplitude = self.unit * functional.softplus(self.amplitude)
        return Mixture(self.seed_center + within, amplitude, self.smallest_width + functional.softplus(self.width))


def _inverse_softplus(values: Tensor) -> Tensor:
    return values + torch.log(-torch.expm1(-values))


def fit_mixture(
    density: Map,
    seed: Mixture,
    resolutions: list[float],
    options: Options,
) -> tuple[MixtureParameters, list[float]]:
    """Fit to projections of the map, one round a resolution (Å), coarse to fine.

    Returns the parameters (call them for the mixture) and the last relative error of each round.
    """
    device = choose_device(options.device)
    generator = torch.Generator().manual_seed(options.seed)
    rotation = random_rotations(VIEWS, generator).float()
    views = project_map(density.voxels.float(), rotation)
    parameters = MixtureParameters(seed, options.max_move, 0.5 * density.pixel_size).to(device)
    errors = []
    for finest in resolutions:
        box = band_box(density.box, density.pixel_size, finest)
        target = crop_transform(views, box).to(device)
        weight = _ring_weight(target, box, density.box * density.pixel_size, finest)
        errors.append(_fit_round(parameters, target, weight, rotation.to(device), density, options, generator))
        say(f"neutral: to {finest:.1f} Å, relative error {errors[-1]:.3f}")
    return parameters.cpu(), errors


def _ring_weight(
    target: Complex[Tensor, "view y half_x"], box: int, field: float, finest: float
) -> Float[Tensor, "y half_x"]:
    """1 / (rings x the ring's mean power), 0 beyond the resolution: the weighted squares of the map sum to about 1."""
    power = ring_means(target.abs().square(), box).mean(0)
    rings = torch.arange(box // 2 + 1, device=target.device)
    inside = (rings / field <= 1 / finest) & (rings < box // 2)
    per_ring = torch.where(inside, 1 / power.clamp(min=float(power.max()) * 1e-12), 0.0)
    members = torch.bincount(ring_index(box).flatten())[: box // 2 + 1].to(target.device)
    return spread(per_ring / members / inside.sum(), box)


def _fit_round(
    parameters: MixtureParameters,
    target: Tensor,
    weight: Tensor,
    rotation: Tensor,
    density: Map,
    options: Options,
    generator: torch.Generator,
) -> float:
    """Adam with a cosine schedule; returns the mean relative error of the last tenth of the steps."""
    box = target.shape[-2]
    pixel_size = density.pixel_size * density.box / box
    rate = options.learning_rate
    groups = [
        {"params": [parameters.move, parameters.width], "lr": rate * density.pixel_size},
        {"params": [parameters.amplitude], "lr": rate * 2},
    ]
    optimizer = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.steps)
    losses = []
    for _ in progress(range(options.steps), "neutral"):
        chosen = torch.randint(len(rotation), (BATCH,), generator=generator).to(rotation.device)
        predicted = project(parameters(), rotation[chosen], box, pixel_size)
        loss = (weight * (predicted - target[chosen]).abs().square()).sum((-2, -1)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    tail = losses[-max(1, len(losses) // 10) :]
    return sum(tail) / len(tail)


def consensus_resolution(curve: Path) -> float:
    """Å at which the half-maps' FSC (masked) of the consensus falls below 0.143."""
    return curve_resolution(read_csv(curve, ["frequency", "fsc_masked"]))


def refuse_beyond_nyquist(resolution: float | None, pixel_size: float, folder: Path) -> None:
    """Raise InputError where finer detail is asked for than pixels of this size (Å) hold."""
    if resolution is not None and resolution < 2.0 * pixel_size * (1 - 1e-3):
        raise InputError(
            f"option resolution is {resolution:g} Å, but pixels of {pixel_size:.4g} Å in {folder} hold nothing finer "
            f"than {2.0 * pixel_size:.4g} Å; set that or more, or enlarge particles.box"
        )


def neutral(*, consensus: Path, seeds: Path, out: Path, options: Options) -> None:
    """Fit the neutral mixture to the consensus map; writes mixture.npz, mixture.cif, map.mrc, fsc.csv, decoder.pt.

    Args:
        consensus: folder of the stage `consensus`: map.mrc, mask.mrc, fsc.csv.
        seeds: seeds.npz, where the Gaussians start.
        out: folder to write.
        options: see `Options`.
    """
    density, mask = read_map(consensus / "map.mrc"), read_map(consensus / "mask.mrc")
    if mask.box != density.box:
        raise InputError(f"{consensus / 'mask.mrc'}: box {mask.box}, but the map's is {density.box}")
    seed = read_mixture(seeds)
    refuse_beyond_nyquist(options.resolution, density.pixel_size, consensus)
    finest = max(options.resolution or consensus_resolution(consensus / "fsc.csv"), 2.0 * density.pixel_size)
    resolutions = [finest * 2**step for step in reversed(range(options.rounds))]
    masked = density.with_voxels(density.voxels * mask.voxels)
    parameters, _ = fit_mixture(masked, seed, resolutions, options)
    with torch.no_grad():
        mixture = parameters()
    fitted = mixture_to_map(mixture, density.box, density.pixel_size)
    table = fsc_table(fitted, density.voxels, mask.voxels, density.pixel_size)
    reached = curve_resolution(table, threshold=0.5)
    say(f"neutral: {len(mixture)} Gaussians agree with the map (FSC 0.5) to {reached:.1f} Å")
    write_mixture(out / "mixture.npz", mixture, density)
    write_pseudo_atoms(out / "mixture.cif", mixture, density)
    write_map(out / "map.mrc", density.with_voxels(fitted))
    write_csv(out / "fsc.csv", table)
    write_tensors(out / "decoder.pt", parameters.state_dict())
