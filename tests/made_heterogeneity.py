"""The folders that the stage heterogeneity reads, of the tiny molecule; and the stage with small networks."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from gaussemble.fit.heterogeneity import Options, heterogeneity
from gaussemble.io.files import write_csv
from gaussemble.io.mixtures import write_mixture
from gaussemble.io.mrc import write_map
from gaussemble.physics.projection import mixture_to_map
from gaussemble.quantities import Map
from tiny import BOX, PIXEL, make_store, molecule, white_noise_power

NOISE = 0.05  # SNR 0.7: what is tested is the method, not the limit of the data
FRAME = Map(torch.zeros(BOX, BOX, BOX), PIXEL)


def make_inputs(folder: Path, count: int, generator: torch.Generator) -> torch.Tensor:
    """Particles, consensus and neutral mixture as the earlier stages leave them; returns the true angles (image,)."""
    _, angle = make_store(folder / "particles", count, NOISE, generator)
    density = Map(mixture_to_map(molecule(), BOX, PIXEL), PIXEL)
    write_map(folder / "consensus/map.mrc", density)
    rings = BOX // 2 + 1
    frequency = np.arange(rings) / (BOX * PIXEL)
    power = white_noise_power(NOISE)
    rows = [(group, ring, frequency[ring], float(power[group, ring])) for group in range(2) for ring in range(rings)]
    write_csv(
        folder / "consensus/noise.csv", pd.DataFrame(rows, columns=["optics_group", "ring", "frequency", "power"])
    )
    fsc = np.where(frequency < 1 / 14, 1.0, 0.0)
    write_csv(
        folder / "consensus/fsc.csv",
        pd.DataFrame({"ring": range(rings), "frequency": frequency, "resolution": 0.0, "fsc": fsc, "fsc_masked": fsc}),
    )
    # the neutral is what a consensus would show: the arm straight, not its true distribution
    write_mixture(folder / "mixture.npz", molecule(), density)
    return angle


def write_arm_mask(path: Path, reach: float = 9.0) -> Path:
    """The mask of the arm: voxels within `reach` Å of its Gaussians, nearer to them than to the core's."""
    grid = (torch.arange(BOX) - BOX // 2) * PIXEL
    z, y, x = torch.meshgrid(grid, grid, grid, indexing="ij")
    place, center = torch.stack([x, y, z], dim=-1).reshape(-1, 3), molecule().center
    arm, core = (torch.cdist(place, part).amin(1) for part in (center[16:], center[:16]))
    write_map(path, Map(((arm < reach) & (arm < core)).float().reshape(BOX, BOX, BOX), PIXEL))
    return path


def run(folder: Path, out: str = "out", files: dict[str, Path] | None = None, **changes) -> pd.DataFrame:
    """The stage with small networks; returns latent.csv."""
    small = {"latent_dim": 2, "epochs": 25, "batch": 32, "hidden": 64, "inputs": 12, "learning_rate": 5e-3}
    small |= {"landmarks": 64, "em_rounds": 1}
    heterogeneity(
        particles=folder / "particles",
        consensus=folder / "consensus",
        neutral=folder / "mixture.npz",
        out=folder / out,
        **(files or {}),
        options=Options(**(small | {"resolution": 16.0} | changes)),
    )
    return pd.read_csv(folder / out / "latent.csv")
