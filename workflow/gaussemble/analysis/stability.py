"""How many clusters two networks give the same particles alike.

Each half's network divides its own particles into K clusters by k-means, and then the other half's, which it has not
been trained on and whose clusters it does not know. The other half's own network divides these too. Where the two
divisions of the same particles agree, K clusters are in the data and not in one network.

Two scores, each 1 for the same division whatever the clusters' numbers. The adjusted Rand index (Hubert & Arabie,
J. Classification 2, 193 (1985)) counts pairs of particles, and is 0 for divisions that know nothing of each other. The
prediction strength (Tibshirani & Walther, J. Comput. Graph. Stat. 14, 511 (2005)) is that of the worst cluster: the
share of its pairs that the other division has together too. They advise the largest K whose strength is 0.8 or more.

A particle's noise is the same for both networks, so that agreement on pure noise need not be 0: the same table of
particles without heterogeneity stands beside. And k-means cuts a continuous cloud alike twice: that K clusters are
reproduced does not say that there is nothing between them.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from gaussemble.errors import InputError

MOST, LEAST = 8, 4  # clusters, and particles of each on average
STRONG = 0.8  # prediction strength of a number that is reproduced
SURE = 3.0  # standard errors above the null
REPEATS = 10  # random halves of the particles, from whose scatter the error follows
FITTED = 5000  # particles of each half in a repeat, at most


@dataclass(frozen=True)
class Seen:
    """The latents of one half's particles by two networks, each in units that make its axes comparable."""

    own: Float[np.ndarray, "particle own"]  # by this half's network
    other: Float[np.ndarray, "particle other"]  # by the network of the other half, which was not trained on them


def stability_table(even: Seen, odd: Seen, most: int = MOST, seed: int = 0) -> pd.DataFrame:
    """Columns clusters (2 to `most`), rand_index and its standard error rand_index_error, prediction_strength.

    Scores are means over random halves of the particles, for fits and comparisons alike; the scatter between such
    halves is the standard error of the whole (half-sample replication: McCarthy, Rev. Int. Stat. Inst. 37, 239 (1969)).

    Args:
        even: the even half's particles.
        odd: the odd half's particles.
        most: the largest number of clusters that is tried; fewer where a cluster would have less than `LEAST`
            particles of a random half.
        seed: of k-means and of the random halves.

    Raises:
        InputError: too few particles for two clusters.
    """
    fewest = min(len(even.own), len(odd.own))
    if fewest < 2 * LEAST:
        raise InputError(
            f"a half has {fewest} particle{'s' * (fewest != 1)}: too few to say whether two networks divide them "
            f"alike, for which {2 * LEAST} are needed; give more particles"
        )
    generator, rows = np.random.default_rng(seed), []
    samples = [(random_half(even, generator), random_half(odd, generator)) for _ in range(REPEATS)]
    for clusters in range(2, max(2, min(most, fewest // (2 * LEAST))) + 1):
        scores = np.array([agreement_scores(*pair, clusters, seed) for pair in samples])
        rand_index, strength = scores.mean(axis=0)
        rows.append([clusters, rand_index, scores[:, 0].std(ddof=1), strength])
    return pd.DataFrame(rows, columns=["clusters", "rand_index", "rand_index_error", "prediction_strength"])


def random_half(seen: Seen, generator: np.random.Generator) -> Seen:
    """A random half of some particles, or `FITTED` of them if that is fewer."""
    count = min(len(seen.own) // 2, FITTED)
    rows = generator.choice(len(seen.own), count, replace=False)
    return Seen(seen.own[rows], seen.other[rows])


def agreement_scores(even: Seen, odd: Seen, clusters: int, seed: int = 0) -> tuple[float, float]:
    """Adjusted Rand index and prediction strength of the two networks' divisions, means of both halves' particles."""
    first, second = (
        KMeans(clusters, n_init=4, random_state=seed).fit(half.own)  # pyright: ignore[reportArgumentType]
        for half in (even, odd)
    )
    seen = [(first, odd.other, second, odd.own), (second, even.other, first, even.own)]
    pairs = [(np.asarray(a.predict(x)), np.asarray(b.predict(y))) for a, x, b, y in seen]
    indices = [adjusted_rand_score(found, predicted) for predicted, found in pairs]
    return float(np.mean(indices)), float(np.mean([prediction_strength(*pair) for pair in pairs]))


def prediction_strength(predicted: Int[np.ndarray, " particle"], found: Int[np.ndarray, " particle"]) -> float:
    """Over all clusters that were found, the least share of a cluster's pairs that the prediction has together."""
    counts = np.zeros((found.max() + 1, predicted.max() + 1))
    np.add.at(counts, (found, predicted), 1)
    size = counts.sum(axis=1)
    together = (counts * (counts - 1)).sum(axis=1)
    return float(np.min((together / np.maximum(size * (size - 1), 1))[size > 1], initial=1.0))


def reproduced(table: pd.DataFrame, null: pd.DataFrame | None = None) -> int:
    """The largest number of clusters that both networks find alike; 1 if none.

    Its prediction strength is `STRONG` or more, and its Rand index more than `SURE` standard errors above that of the
    null, where there is one.
    """
    good = table["prediction_strength"].to_numpy() >= STRONG
    if null is not None:
        beside = table[["clusters"]].merge(null, on="clusters", how="left")
        error = np.hypot(table["rand_index_error"].to_numpy(), beside["rand_index_error"].to_numpy())
        good &= table["rand_index"].to_numpy() > beside["rand_index"].to_numpy() + SURE * error
    return int(max(table["clusters"].to_numpy()[good], default=1))


def sentence(table: pd.DataFrame, null: pd.DataFrame | None = None) -> str:
    """What the table says, in words."""
    number, tried = reproduced(table, null), f"2 to {table['clusters'].max()}"
    rows = {int(row["clusters"]): row for row in table.to_dict("records")}
    if number == 1:
        best = max(rows.values(), key=lambda row: row["prediction_strength"])
        return (
            f"Of {tried} clusters no number is found alike, particle by particle, by the two halves' networks (at best "
            f"{best['clusters']}, with a prediction strength of {best['prediction_strength']:.2f})."
        )
    row = rows[number]
    return (
        f"Of {tried} clusters, {number} is the largest number that both halves' networks find alike on the same "
        f"particles: prediction strength {row['prediction_strength']:.2f}, adjusted Rand index "
        f"{row['rand_index']:.2f} ± {row['rand_index_error']:.2f}."
    )
