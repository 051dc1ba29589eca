"""fsc.csv: Fourier shell correlation of two maps, and the resolution that it says."""

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from gaussemble.physics.masks import corrected_correlation, masked_correlation
from gaussemble.physics.rings import resolution, ring_frequencies, shell_correlation

SEED = 20130815  # of the random phases; not one that data are simulated with


def fsc_table(
    a: Float[Tensor, "z y x"], b: Float[Tensor, "z y x"], mask: Float[Tensor, "z y x"], pixel_size: float
) -> pd.DataFrame:
    """Correlation of any two maps: ring, frequency (1/Å), resolution (Å), fsc, fsc_masked."""
    frequency = ring_frequencies(a.shape[-1], pixel_size).numpy()
    with np.errstate(divide="ignore"):
        period = 1 / frequency
    curves = {"fsc": shell_correlation(a, b), "fsc_masked": masked_correlation(a, b, mask)}
    table = {"ring": np.arange(len(frequency)), "frequency": frequency, "resolution": period}
    return pd.DataFrame(table | {name: curve.numpy() for name, curve in curves.items()})


def half_map_table(
    half1: Float[Tensor, "z y x"], half2: Float[Tensor, "z y x"], mask: Float[Tensor, "z y x"], pixel_size: float
) -> pd.DataFrame:
    """`fsc_table` of two half-maps with fsc_randomised and fsc_corrected: without what the mask itself adds."""
    table = fsc_table(half1, half2, mask, pixel_size)
    fsc, masked = (torch.tensor(table[name].to_numpy()) for name in ("fsc", "fsc_masked"))
    generator = torch.Generator().manual_seed(SEED)
    randomised, corrected = corrected_correlation(half1, half2, mask, fsc, masked, generator)
    return table.assign(fsc_randomised=randomised.numpy(), fsc_corrected=corrected.numpy())


def curve_resolution(table: pd.DataFrame, column: str | None = None, threshold: float = 0.143) -> float:
    """Å where a curve of fsc.csv falls below the threshold: the corrected one, or fsc_masked where there is none."""
    if column is None:
        column = "fsc_corrected" if "fsc_corrected" in table else "fsc_masked"
    fsc, frequency = (torch.tensor(table[name].to_numpy(float)) for name in (column, "frequency"))
    return resolution(fsc, frequency, threshold)
