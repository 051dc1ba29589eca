"""Spectrum of the noise of each optics group: what the images have beside the other half-map's projections."""

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gaussemble.io.store import ImageStore
from gaussemble.physics.backprojection import extract, volume_grid
from gaussemble.physics.ctf import evaluate
from gaussemble.physics.fourier import to_fourier
from gaussemble.physics.projection import shift_phases
from gaussemble.physics.rings import ring_frequencies, ring_means

BLOCK = 512  # images in memory at a time


def noise_rows(store: ImageStore, most: int) -> Int[Tensor, " image"]:
    """At most so many particles of each optics group, evenly spread over the store."""
    chosen = []
    for group in torch.unique(store.particles.optics_group):
        rows = (store.particles.optics_group == group).nonzero().flatten()
        chosen.append(rows[torch.linspace(0, len(rows) - 1, min(most, len(rows))).long()])
    return torch.cat(chosen).sort().values


def noise_power(
    store: ImageStore, references: tuple[Tensor, Tensor], rows: Int[Tensor, " image"], padding: int
) -> Float[Tensor, "group ring"]:
    """Mean |X - CTF P(map)|² per ring and optics group (NaN for groups without particles).

    The map is the *other* half's (`references[1]` for those of half 0): in a map to which a particle has contributed,
    part of its own noise would be subtracted. What remains is the noise plus the error of the filtered half-map, which
    is never more than the signal that the filter left out: the estimate is a little high, never low.
    """
    groups = int(store.particles.optics_group.max()) + 1
    total, count = torch.zeros(groups, store.box // 2 + 1, dtype=torch.float64), torch.zeros(groups)
    for half, reference in enumerate(references):
        grid = volume_grid(reference, padding)
        for block in rows[store.half[rows] != half].split(BLOCK):
            particles = store.particles[block]
            model = extract(grid, particles.rotation, store.box, padding)
            model = model * evaluate(particles.ctf, store.box, store.pixel_size)
            model = model * shift_phases(particles.shift, store.box, store.pixel_size)
            residual = (to_fourier(store.read(block)) - model).abs().square()
            total.index_add_(0, particles.optics_group, ring_means(residual, store.box).double())
            count.index_add_(0, particles.optics_group, torch.ones(len(block)))
    return total / count[:, None]


def noise_table(power: Float[Tensor, "group ring"], pixel_size: float, box: int) -> pd.DataFrame:
    """noise.csv: optics_group, ring, frequency (1/Å), power; groups without particles get the others' mean."""
    missing = power.isnan().any(dim=1)
    power = torch.where(missing[:, None], power[~missing].mean(0), power)
    groups, rings = power.shape
    columns = {
        "optics_group": np.repeat(np.arange(groups), rings),
        "ring": np.tile(np.arange(rings), groups),
        "frequency": np.tile(ring_frequencies(box, pixel_size).numpy(), groups),
        "power": power.flatten().numpy(),
    }
    return pd.DataFrame(columns)
