"""The Bayes-optimal score: what the true structures say of each particle, whatever the states are.

Each particle is compared, at its own pose, CTF and shift, with the projections of every true structure. No method that
sees the images to the same resolution can do better on average, so its scores are what others are measured by.
`analysis.truth` does the same for the swing and occupancy of the stage `simulate`; here the states are any list.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gaussemble.fit import subspace
from gaussemble.fit.band import open_band
from gaussemble.fit.subspace import PADDING, normal_equations
from gaussemble.io.store import ImageStore
from gaussemble.physics.backprojection import volume_grids
from gaussemble.progress import progress

BLOCK = 256  # particles at a time
TOLERANCE = 1e-3  # share of the states' variance that the common components may leave out


class Comparison(NamedTuple):
    """Of each particle X and state's projection P (with CTF, whitened): Re<P, X> and <P, P>."""

    matched: Float[Tensor, "image state"]
    norm: Float[Tensor, "image state"]


def oracle(
    store: ImageStore,
    maps: Float[Tensor, "state z y x"],
    state: Int[Tensor, " image"],
    noise_power: Float[Tensor, "group ring"],
    finest: float,
) -> Float[Tensor, "image state"]:
    """Probability of each state for each particle, under the true structures.

    Args:
        store: the particles.
        maps: the true structures on the store's grid.
        state: index of each particle's true state, for the images' grey scale and the states' shares alone.
        noise_power: E|F|² of the noise in each ring.
        finest: Å, to which the images are compared.
    """
    compared = compare(store, maps, noise_power, finest)
    share = torch.bincount(state, minlength=len(maps)).double() / len(state)
    return posterior(compared, grey_scale(compared, state), share)


def compare(
    store: ImageStore, maps: Float[Tensor, "state z y x"], noise_power: Float[Tensor, "group ring"], finest: float
) -> Comparison:
    """Every particle with every state; projections are combined from those of a few components (`components`)."""
    band = open_band(store, noise_power, finest)
    parts, weights = components(maps)
    grids = volume_grids(parts, PADDING)
    matched, norm = [], []
    for _, batch in progress(band.batches(BLOCK), "oracle", total=-(-len(band) // BLOCK)):
        cross, gram = normal_equations(grids, batch)
        matched.append(cross @ weights.mT)
        norm.append(torch.einsum("sc,icd,sd->is", weights, gram, weights))
    return Comparison(torch.cat(matched).double(), torch.cat(norm).double())


def components(
    maps: Float[Tensor, "state z y x"], tolerance: float = TOLERANCE
) -> tuple[Float[Tensor, "component z y x"], Float[Tensor, "state component"]]:
    """The mean map and as few principal components as leave at most `tolerance` of the states' variance.

    State s is the sum of components c times weight[s, c].
    """
    mean = maps.mean(0)
    if len(maps) == 1:
        return maps, torch.ones(1, 1)
    parts, weights = subspace.components((maps - mean).split(subspace.BLOCK), tolerance)
    return torch.cat([mean[None], parts]), torch.cat([torch.ones(len(maps), 1), weights], dim=1)


def grey_scale(compared: Comparison, state: Int[Tensor, " image"]) -> float:
    """Least-squares factor between the images and the projections of their true states; one for all particles."""
    chosen = state[:, None]
    return float(compared.matched.gather(1, chosen).sum() / compared.norm.gather(1, chosen).sum())


def posterior(compared: Comparison, scale: float, share: Float[Tensor, " state"]) -> Float[Tensor, "image state"]:
    """`exp(-|X - g P|²/2)` times the states' shares, made to sum to 1."""
    return torch.softmax(scale * compared.matched - scale**2 / 2 * compared.norm + share.log(), dim=1)


def expected(
    probability: Float[Tensor, "image state"], values: Float[np.ndarray, "state target"]
) -> Float[np.ndarray, "image target"]:
    """Posterior means: the predictions of least mean square error."""
    return probability.numpy() @ values
