"""The asymmetric unit of a symmetric mixture: the Gaussians of which a point group's rotations make all others."""

from dataclasses import fields

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial import KDTree
from torch import Tensor

from gaussemble.fit.seeds import cluster
from gaussemble.quantities import Mixture

NEAR = 5.0  # Å within which a Gaussian's copy is taken for another Gaussian: models are not exactly symmetric


def symmetric_rows(
    center: Float[Tensor, "gaussian 3"], operators: Float[Tensor, "operator 3 3"]
) -> tuple[Int[Tensor, " chosen"], Int[Tensor, " other"]]:
    """The first Gaussian of each set of copies, within 5 Å, in order; and those that are in no set.

    So the first chain of a homo-oligomer's model stands for all of them, and what is consecutive stays so. Gaussians
    on what the model leaves are in no order, and those on an axis their own copies.
    """
    copies = torch.einsum("oij,gj->goi", operators.to(center), center).double().numpy()
    distance, nearest = map(np.asarray, KDTree(center.double().numpy()).query(copies))
    covered, chosen = np.zeros(len(center), dtype=bool), []
    for row, (mates, farthest) in enumerate(zip(nearest, distance.max(1), strict=True)):
        if farthest <= NEAR and len(set(mates)) == len(operators) and not covered[mates].any():
            covered[mates] = True
            chosen.append(row)
    return torch.tensor(chosen, dtype=torch.long), torch.from_numpy(np.flatnonzero(~covered))


def folded(mixture: Mixture, operators: Float[Tensor, "operator 3 3"], seed: int) -> Mixture:
    """An asymmetric unit of a mixture that need not be symmetric: as many Gaussians as one copy has.

    Centres are turned into one unit and k-means joins those that meet there; the mass is divided by the copies, so that
    all of them together have the mixture's.
    """
    center = into_unit(mixture.center, operators).double().numpy()
    weight = mixture.amplitude.double().clamp(min=1e-12).numpy()
    count = max(1, round(len(mixture) / len(operators)))
    beads = cluster(center, weight, count, seed)
    width = torch.full((len(beads),), float(np.average(mixture.width.double().numpy(), weights=weight)))
    amplitude = torch.from_numpy(beads.weight).float() / len(operators)
    return Mixture(torch.from_numpy(beads.position).float(), amplitude, width)


def joined(first: Mixture, second: Mixture) -> Mixture:
    """The Gaussians of one mixture and then those of another."""
    return Mixture(*(torch.cat([getattr(one, part.name) for one in (first, second)]) for part in fields(Mixture)))


def into_unit(
    center: Float[Tensor, "gaussian 3"], operators: Float[Tensor, "operator 3 3"]
) -> Float[Tensor, "gaussian 3"]:
    """Of each centre's copies the one nearest to a general direction; these fill one asymmetric unit."""
    copies = torch.einsum("oij,gj->goi", operators.to(center), center)
    direction = center.new_tensor([0.83, 0.47, 0.31])  # on no axis of the groups
    return copies[torch.arange(len(center)), (copies @ direction).argmax(1)]
