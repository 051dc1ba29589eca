"""Whether two descriptions of the same particles agree on who is near whom: latents and truth, latents and pose.

Both scores are CryoBench's (Jeon et al., arXiv 2408.05526), written from their definitions; neither fits anything.
"""

import numpy as np
from jaxtyping import Float, Int
from sklearn.neighbors import NearestNeighbors


def neighbourhood_similarity(
    first: Float[np.ndarray, "particle a"], second: Float[np.ndarray, "particle b"], neighbours: int
) -> float:
    """Mean share of each particle's `neighbours` nearest in the one that are among those in the other.

    CryoBench's p_MN(k), here without the particle itself. Chance is k / (n - 1).
    """
    pairs = zip(nearest(first, neighbours), nearest(second, neighbours), strict=True)
    return float(np.mean([len(np.intersect1d(one, other)) for one, other in pairs]) / neighbours)


def nearest(values: Float[np.ndarray, "particle a"], neighbours: int) -> Int[np.ndarray, "particle neighbour"]:
    """Indices of the nearest other particles, nearest first."""
    index = NearestNeighbors(n_neighbors=neighbours).fit(values).kneighbors(return_distance=False)
    return np.asarray(index)


def information_imbalance(
    first: Float[np.ndarray, "particle a"],
    second: Float[np.ndarray, "particle b"],
    neighbours: int = 30,
    most: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """How badly nearness in one predicts nearness in the other: (first to second, second to first).

    `Delta(A -> B) = 2/n <rank_B | rank_A <= k>` (Glielmo et al., PNAS Nexus 1, pgac039, 2022): near 0 where B follows
    from A, 1 where A says nothing of B. Of latents to poses or defocus it should be 1: less is leakage. At most `most`
    particles, drawn at random, are compared; ties (of discrete truths) are broken at random.
    """
    generator = np.random.default_rng(seed)
    rows = generator.permutation(len(first))[:most]
    ranks = [neighbour_ranks(values[rows], generator) for values in (first, second)]
    there, back = ranks[1][ranks[0] <= neighbours].mean(), ranks[0][ranks[1] <= neighbours].mean()
    return 2 / len(rows) * float(there), 2 / len(rows) * float(back)


def neighbour_ranks(
    values: Float[np.ndarray, "particle a"], generator: np.random.Generator
) -> Int[np.ndarray, "particle particle"]:
    """Rank of each other particle by distance, 1 for the nearest, equal ones in a random order; the last is itself."""
    apart = squared_distances(values - values.mean(0))
    apart += (1e-9 * apart.max() or 1.0) * generator.random(apart.shape)
    np.fill_diagonal(apart, np.inf)
    order = np.argsort(apart, axis=1)
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(1, len(order) + 1)[None], axis=1)
    return ranks


def squared_distances(values: Float[np.ndarray, "particle a"]) -> Float[np.ndarray, "particle particle"]:
    """By one product of matrices."""
    norm = np.square(values).sum(1)
    return np.maximum(norm[:, None] + norm[None] - 2 * values @ values.T, 0)
