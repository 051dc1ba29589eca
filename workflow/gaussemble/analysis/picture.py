"""A picture of latents in two dimensions."""

import warnings

import numpy as np
from jaxtyping import Float
from sklearn.neighbors import KNeighborsRegressor, NearestNeighbors

UMAP_PARTICLES = 50_000  # more are placed among a random sample of this many


def umap_picture(
    pc: Float[np.ndarray, "particle component"], neighbors: int = 15, seed: int = 0, fitted: int = UMAP_PARTICLES
) -> Float[np.ndarray, "particle 2"]:
    """UMAP (McInnes et al. 2018) in two dimensions; a picture, in which distances and densities mean little.

    Neighbours are exact (a k-d tree is quick in a few dimensions). Beyond `fitted` particles a random sample is
    embedded and the others stand at the mean of their five nearest there, weighted by inverse distance.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImportWarning)  # it would like tensorflow, for what is not used here
        from umap import UMAP
    rows = np.arange(len(pc))
    if len(pc) > fitted:
        rows = np.sort(np.random.default_rng(seed).choice(len(pc), fitted, replace=False))
    sample = pc[rows]
    neighbors = min(neighbors, len(sample) - 1)
    distance, index = NearestNeighbors(n_neighbors=neighbors).fit(sample).kneighbors(sample)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="precomputed_knn")  # no search index: nothing is transformed later
        picture = UMAP(
            n_neighbors=neighbors,
            precomputed_knn=(index, distance.astype(np.float32)),
            init="pca",
            n_epochs=200,
            random_state=seed,
            n_jobs=1,
        ).fit_transform(sample)
    if len(rows) == len(pc):
        return np.asarray(picture, dtype=np.float64)
    return KNeighborsRegressor(n_neighbors=5, weights="distance").fit(sample, picture).predict(pc).astype(np.float64)
