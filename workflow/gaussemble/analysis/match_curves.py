"""FSC between matched classes, and between what sets them apart, without what a mask adds."""

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from gaussemble.analysis.matching import Classes, Comparison, difference_maps
from gaussemble.analysis.metrics import runner_up
from gaussemble.physics.fourier import to_fourier_3d, to_real_3d
from gaussemble.physics.masks import CORRECTED_AFTER, masked_correlation
from gaussemble.physics.rings import resolution, ring_frequencies, shell_correlation, shell_index
from gaussemble.prepare.fsc import SEED

LEVELS, DRAWS = 5, 3  # shells from which phases are made random, and how often


def match_fsc(even: Classes, odd: Classes, mask: Float[Tensor, "z y x"], pair: tuple[int, int]) -> pd.DataFrame:
    """FSC between a class and its match, and between their difference maps; columns as fsc.csv.

    fsc, fsc_masked, fsc_corrected (without what the mask adds) of the maps; fsc_difference_masked and fsc_difference
    (without what the mask adds) of the difference maps.
    """
    box, (i, j) = mask.shape[-1], pair
    maps = even.maps[i], odd.maps[j]
    differences = difference_maps(even.maps, even.size)[i], difference_maps(odd.maps, odd.size)[j]
    frequency = ring_frequencies(box, even.pixel_size)
    masked, masked_difference = (masked_correlation(*each, mask) for each in (maps, differences))
    curves = {
        "fsc": shell_correlation(*maps),
        "fsc_masked": masked,
        "fsc_corrected": without_mask(maps, mask, masked),
        "fsc_difference_masked": masked_difference,
        "fsc_difference": without_mask(differences, mask, masked_difference),
    }
    columns = {"ring": np.arange(len(frequency)), "frequency": frequency, "resolution": 1 / frequency}
    return pd.DataFrame(columns | {name: curve.numpy() for name, curve in curves.items()})


def without_mask(
    maps: tuple[Float[Tensor, "z y x"], Float[Tensor, "z y x"]],
    mask: Float[Tensor, "z y x"],
    masked: Float[Tensor, " ring"],
) -> Float[Tensor, " ring"]:
    """Masked correlation of two maps without what the mask carries from coarser shells into finer ones.

    As by Chen et al. (Ultramicroscopy 135, 24 (2013)): `(masked - random) / (1 - random)`, phases being random from a
    shell on. Theirs is the one where the unmasked curve falls. Difference maps are mostly noise outside of the mask,
    and their unmasked curve says nothing of where they agree; so several shells are taken, and each finer shell is
    corrected by the last of them that is two shells coarser. The median of some draws counts, and never adds.
    """
    box, generator = mask.shape[-1], torch.Generator().manual_seed(SEED)
    transforms, shells = [to_fourier_3d(voxels) for voxels in maps], shell_index(box)
    levels = np.unique(np.geomspace(2, max(3, len(masked) - 3), LEVELS).round().astype(int)).tolist()
    draws = torch.zeros(DRAWS, len(masked), dtype=masked.dtype)
    for draw in draws:
        noise = [to_fourier_3d(torch.randn(mask.shape, generator=generator).to(voxels)) for voxels in maps]
        random = [
            each.abs() * phase / phase.abs().clamp(min=1e-30) for each, phase in zip(transforms, noise, strict=True)
        ]
        for level in levels:
            pair = [torch.where(shells >= level, *each) for each in zip(random, transforms, strict=True)]
            carried = masked_correlation(to_real_3d(pair[0], box), to_real_3d(pair[1], box), mask)
            draw[level + CORRECTED_AFTER :] = carried[level + CORRECTED_AFTER :].to(masked.dtype)
    carried = draws.median(0).values.clamp(0, 1 - 1e-6)
    return (masked - carried) / (1 - carried)


def match_row(even: Classes, odd: Classes, found: Comparison, number: int, fsc: pd.DataFrame) -> dict:
    """The numbers of match `number` (from 0): a row of matches.csv."""
    (i, j), alone = found.pairs[number], min(len(even), len(odd)) == 1  # nothing differs from one class
    frequency = torch.tensor(fsc["frequency"].to_numpy())
    masked, difference = (torch.tensor(fsc[name].to_numpy()) for name in ("fsc_corrected", "fsc_difference"))
    return {
        "cluster_even": even.number[i],
        "cluster_odd": odd.number[j],
        "correlation": found.correlation[i, j],
        "resolution_0.5": resolution(masked, frequency, 0.5),
        "resolution_0.143": resolution(masked, frequency, 0.143),
        "particles_even": even.size[i],
        "particles_odd": odd.size[j],
        "fraction_even": even.fraction[i],
        "fraction_odd": odd.fraction[j],
        "fraction_error_even": even.fraction_error[i],
        "fraction_error_odd": odd.fraction_error[j],
        "difference_correlation": found.difference_correlation[i, j],
        "difference_runner_up": -np.inf if alone else runner_up(found.difference_correlation, i, j),
        "difference_resolution_0.5": resolution(difference, frequency, 0.5),
        "difference_resolution_0.143": resolution(difference, frequency, 0.143),
        "shared": found.shared[number],
        "structure": found.structure[number],
    }
