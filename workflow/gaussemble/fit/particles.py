"""The particles of a split as a training compares them: in its band, whitened, with what scales them all."""

from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gaussemble.errors import InputError
from gaussemble.fit.band import Band, open_band, particle_scales, ring_gain
from gaussemble.io.files import read_csv
from gaussemble.io.store import ImageStore
from gaussemble.model.heterogeneity import Compared
from gaussemble.progress import say
from gaussemble.quantities import Mixture


def read_noise(path: Path, store: ImageStore) -> Float[Tensor, "group ring"]:
    """Noise power of each optics group and ring; raises InputError where it is not that of the store's particles."""
    table = read_csv(path, ["optics_group", "ring", "power"])
    rings, groups = store.box // 2 + 1, int(store.particles.optics_group.max()) + 1
    power = table.pivot_table(index="optics_group", columns="ring", values="power")
    power = power.reindex(index=range(max(groups, len(power))), columns=range(rings)).to_numpy(float)
    if not (power[:, 1:] > 0).all() or len(table) % rings:
        raise InputError(
            f"{path}: {len(table)} rows; expected a positive power for each of {rings} rings and {groups} "
            f"optics groups of {store.folder}; run the stage consensus again"
        )
    return torch.from_numpy(power.copy())


def particles_in_band(
    store: ImageStore,
    consensus: Path,
    neutral: Mixture,
    compared: Compared,
    moving: Bool[Tensor, " gaussian"] | None = None,
) -> Band:
    """The particles' transforms, with the factors that all of them share and those of each.

    Args:
        store: the particles.
        consensus: folder of the stage `consensus`, with noise.csv.
        neutral: the mixture at rest, against which the factors are measured.
        compared: the band; as the training had it (`model.design.compared`) for likelihoods under its model.
        moving: Gaussians that most particles do not have where they are at rest; factors are the others'.
    """
    band = open_band(store, read_noise(consensus / "noise.csv", store), compared.resolution, compared.lowest_resolution)
    band = band.with_gain(ring_gain(band, neutral, moving))
    if compared.contrast:
        still = neutral if moving is None or not moving.any() else neutral.select(~moving)
        scale, deviation = particle_scales(band, still)
        band = band.with_scale(scale if still is neutral else scale / scale.mean())  # what moves is not always beside
        say(f"the particles' contrast varies by {deviation:.1%} (standard deviation), and is divided out")
    return band
